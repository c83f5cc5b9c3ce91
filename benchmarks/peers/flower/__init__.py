"""Flower, measured on the same arrays; all but `peer` runs in Flower's own environment."""
