"""``coordinator-worker install``: have systemd run this worker."""

from warren_shared.service import systemd


def run(argv: list[str]) -> None:
    """Write the unit, and say what to do next."""
    systemd.install(systemd.COORDINATOR, systemd.flags(systemd.COORDINATOR).parse_args(argv))
