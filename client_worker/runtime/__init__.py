"""The client while it runs."""
