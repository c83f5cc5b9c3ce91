"""The coordinator's state, and the roster of who takes part."""
