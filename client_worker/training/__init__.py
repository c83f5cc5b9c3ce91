"""Local training: how it goes, and what of its results travels."""
