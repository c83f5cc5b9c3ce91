"""Benchmarks: the system as it is deployed, against its peers and against physical limits."""
