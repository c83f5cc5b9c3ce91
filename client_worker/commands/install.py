"""``client-worker install``: have systemd run this worker."""

from shared import units


def run(argv: list[str]) -> None:
    """Write the unit, and say what to do next."""
    units.install(units.CLIENT, units.flags(units.CLIENT).parse_args(argv))
