"""Results as tables, JSON, plots, and the generated part of README.md."""
