"""The keeper's shell: two connections, and what is done about what comes over them."""
