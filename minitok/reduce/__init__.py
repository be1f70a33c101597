"""Chapter 6: fewer tokens inside a trained model."""
