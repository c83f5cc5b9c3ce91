"""Deployments as they are run: systemd as process 1. Needs root; `make test-all` runs them."""
