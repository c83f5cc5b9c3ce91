"""What people and programs see of a federation that runs."""
