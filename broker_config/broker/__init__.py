"""What is done to, and asked of, a broker through its management API."""
