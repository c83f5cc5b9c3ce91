"""The coordinator worker while it runs: its event loop, and what it publishes."""
