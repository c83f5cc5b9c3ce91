"""What must be known of the noise of earlier rounds, in files: of the newest, and the one before.

The one before is for the newest sum, which may be asked for again. The ledger says which files are
which, by their digests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from warren_shared.errors import ConfigError
from warren_shared.files import PRIVATE, flush, flush_folder, replacing
from warren_shared.tensors.layout import bytes_of

PREFIX: Final = "noise-"
SUFFIX: Final = ".bin"
_ITEM: Final = np.dtype("<i8")

Integers = npt.NDArray[np.int64]


class SlotReader:
    """Reads integers in order; zeros if there is no file. ``check`` is called at the end."""

    def __init__(self, file: BinaryIO | None, path: Path, digest: str) -> None:
        self._file, self._path, self._wanted = file, path, digest
        self._found = blake3()

    def read(self, count: int) -> Integers:
        """The next ``count``."""
        if self._file is None:
            return np.zeros(count, np.int64)
        raw = bytearray(self._file.read(count * _ITEM.itemsize))
        if len(raw) < count * _ITEM.itemsize:
            raise self._damaged()
        self._found.update(raw)
        return np.frombuffer(raw, _ITEM).astype(np.int64, copy=False)

    def check(self) -> None:
        """Raise ConfigError unless it was what the ledger says."""
        if self._file is not None and self._found.hexdigest() != self._wanted:
            raise self._damaged()

    def _damaged(self) -> ConfigError:
        return ConfigError(
            f"{self._path} is damaged, and the noise of this run cannot go on without it: restore"
            " it, or make new keys in another --state-dir, which ends the run"
        )


class SlotWriter:
    """Writes integers in order; ``digest`` is of all of them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = blake3()

    def write(self, values: Integers) -> None:
        """Go on with these."""
        raw = bytes_of(values.astype(_ITEM, copy=False).view(np.uint8))
        self._digest.update(raw)
        self._file.write(raw)

    @property
    def digest(self) -> str:
        """BLAKE3."""
        return self._digest.hexdigest()


class Slots:
    """The files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def reading(self, run: str, rounds: int, digest: str) -> Iterator[SlotReader]:
        """What is kept of the first ``rounds`` rounds of ``run``; nothing if ``digest`` is ""."""
        path = self._path(run, rounds)
        if not digest:
            yield SlotReader(None, path, digest)
            return
        try:
            file = path.open("rb")
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read ({error.strerror}), and the noise of this run cannot go on"
                " without it: restore it, or make new keys in another --state-dir"
            ) from None
        with file:
            reader = SlotReader(file, path, digest)
            yield reader
            reader.check()

    @contextmanager
    def writing(self, run: str, rounds: int) -> Iterator[SlotWriter]:
        """What is to be kept of the first ``rounds`` rounds; it is on the disk at the end."""
        with replacing(self._path(run, rounds), mode=PRIVATE) as path, path.open("wb") as file:
            yield SlotWriter(file)
            file.flush()
            flush(file.fileno())
        flush_folder(self._folder)

    def keep_only(self, run: str, rounds: int) -> None:
        """Delete all but what the ``rounds``-th sum of ``run`` and the next one need."""
        kept = {self._path(run, number) for number in (rounds - 1, rounds)}
        for path in self._folder.glob(f"{PREFIX}*{SUFFIX}*"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _path(self, run: str, rounds: int) -> Path:
        return self._folder / f"{PREFIX}{run}-{rounds}{SUFFIX}"
