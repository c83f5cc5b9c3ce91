"""``keeper-worker install``: have systemd run this worker."""

from warren_shared.service import systemd


def run(argv: list[str]) -> None:
    """Write the unit, and say what to do next."""
    systemd.install(systemd.KEEPER, systemd.flags(systemd.KEEPER).parse_args(argv))
