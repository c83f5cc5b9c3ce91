"""What this site promises its records, and what it has spent of that."""
