"""Chapter 1: from continuous vectors to codes and back."""
