"""A folder that a worker is told to write to."""

import os
from pathlib import Path

from shared.errors import ConfigError


def writable(folder: Path, flag: str) -> Path:
    """``folder``, made if need be; ConfigError in the name of ``flag`` if it takes no files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{flag} {folder} cannot be written: {error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{flag} {folder} cannot be written: permission denied")
    return folder
