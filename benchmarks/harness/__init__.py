"""What the benchmarks share: federations, processes, cases, contestants."""
