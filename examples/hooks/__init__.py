"""Listeners, hooks of a task, an aggregator and a server optimizer of one's own (docs/hooks.md)."""
