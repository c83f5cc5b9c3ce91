"""What an enrolled client may take of the coordinator: names, space, and weight in a decision."""
