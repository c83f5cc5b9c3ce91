"""What a round takes in, and when it closes."""
