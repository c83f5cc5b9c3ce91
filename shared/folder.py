"""A folder that a worker is told to write to."""

import os
from pathlib import Path

from shared.errors import ConfigError
from shared.files import private_folder


def writable(folder: Path, flag: str, *, private: bool = True) -> Path:
    """``folder``, made if need be; ConfigError in the name of ``flag`` if it takes no files.

    ``private``: nobody else may look into it, whatever the umask and its mode so far.
    """
    try:
        if private:
            private_folder(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        said = error.strerror or str(error)
        raise ConfigError(f"{flag} {folder} cannot be written: {said}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{flag} {folder} cannot be written: permission denied")
    return folder
