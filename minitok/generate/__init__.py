"""Chapter 4: the order in which a picture is written, and the heads that write it."""
