"""A worker as a service: start and end, health, systemd, checks, subcommands."""
