"""Other systems, measured on the same input."""
