"""``coordinator-worker install``: have systemd run this worker."""

from shared import units


def run(argv: list[str]) -> None:
    """Write the unit, and say what to do next."""
    units.install(units.COORDINATOR, units.flags(units.COORDINATOR).parse_args(argv))
