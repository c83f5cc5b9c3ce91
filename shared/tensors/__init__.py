"""Tensors as they are exchanged: their layout, and what a model says of them."""
