"""Differential privacy of clients: noise on each round's sum, and who may take part how often."""
