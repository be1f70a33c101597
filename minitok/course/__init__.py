"""What makes the course run: registry, verdicts, lessons, rules, the tour, measured speeds. Readers never import it."""
