"""What a benchmark must see to before it starts a broker and hundreds of clients."""

import resource
import signal


def prepare() -> None:
    """Leave nothing running when we are asked to end; have room for a thousand connections."""
    # As after Ctrl-C, so that every context ends: a broker is not our child and would stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    allow_open_files()


def allow_open_files() -> None:
    """Raise the soft limit of open files to the hard one, for this process and those it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
