"""Which release of Warren this is."""

from functools import cache
from importlib import metadata


@cache
def release() -> str:
    """The installed distribution's version; ``unknown`` where Warren runs from its sources."""
    try:
        return metadata.version("warren-fl")
    except metadata.PackageNotFoundError:
        return "unknown"
