"""Chapter 5: several tokens from one call of a large model."""
