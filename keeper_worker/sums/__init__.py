"""Which sums are given away, and what they come to."""
