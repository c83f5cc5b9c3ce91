"""Examples: tasks on real data, each with one command. Run them from the repository's folder."""
