"""Chapter 2: from pictures to few tokens and back."""
