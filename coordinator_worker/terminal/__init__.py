"""Tables and lines for a terminal, and for a pipe."""
