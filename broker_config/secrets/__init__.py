"""Passwords, keys and certificates of a federation, and the bundles that carry them."""
