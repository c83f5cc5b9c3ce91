"""On this client's disk: updates that are not confirmed yet, and what it carries on from them."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from warren_shared.errors import Rejected
from warren_shared.files import PRIVATE, flush, replacing, writable
from warren_shared.observability.log import Log
from warren_shared.protocol.codec import Body, Piece, decode, encode
from warren_shared.protocol.messages import Chunk, Seed, UpdateManifest
from warren_shared.protocol.transfer import Incoming, Outgoing
from warren_shared.tensors.compression import KNOWN, size_bytes
from warren_shared.tensors.layout import Layout

log = Log(__name__)

LENGTH_BYTES: Final = 4


class UpdateStore:
    """One file for each client id in ``folder``: the messages of its update, as they go out.

    What is read back is checked as if it had come over the wire, so a file that a crash cut short
    is not taken for an update. ``CLIENT.confirmed`` says which version's update came through last:
    a restarted client need not train from it again. ``CLIENT.control`` and
    ``CLIENT.personal`` are what `client_worker.runtime.client_state` keeps, in the form of updates
    too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = writable(folder, "--state-dir")

    def put(self, update: Outgoing, client: str, seed: Seed | None = None) -> None:
        """Keep ``update``, and what it is masked with, instead of what was kept for ``client``."""
        first = [encode(seed)] if seed is not None else []
        self._write(self._update(client), _framed(chain(first, update)))

    def has_update(self, client: str) -> bool:
        """Whether there may be an update of ``client`` that was not confirmed."""
        return self._update(client).exists()

    def get(self, client: str, layout: Layout) -> tuple[Outgoing, Seed | None] | None:
        """The update of ``client`` that was not confirmed, if there is one of this layout.

        And what it is masked with.
        """
        return self._read(self._update(client), layout)

    def put_state(self, kind: str, state: Outgoing, client: str) -> None:
        """Keep what ``client`` carries on, of one ``kind``, instead of what was kept before."""
        self._write(self._folder / f"{client}.{kind}", _framed(state))

    def state(self, kind: str, client: str, layout: Layout) -> Outgoing | None:
        """What ``put_state`` kept last, if it is whole and of this layout."""
        found = self._read(self._folder / f"{client}.{kind}", layout)
        return found[0] if found is not None else None

    def confirmed(self, client: str, run: str, version: int) -> None:
        """The broker has the update of ``client`` to ``version`` of ``run``: forget it."""
        self._write(self._folder / f"{client}.confirmed", [json.dumps([run, version]).encode()])
        self.drop(client)

    def last_confirmed(self, client: str) -> tuple[str, int] | None:
        """Run and version of the newest update of ``client`` that was confirmed."""
        with suppress(OSError, ValueError, TypeError, RecursionError):
            run, version = json.loads((self._folder / f"{client}.confirmed").read_bytes())
            return str(run), int(version)
        return None

    def forget_confirmed(self, client: str) -> None:
        """What was confirmed last has been lost since."""
        with suppress(OSError):
            (self._folder / f"{client}.confirmed").unlink(missing_ok=True)

    def drop(self, client: str) -> None:
        """Keep nothing for ``client``."""
        with suppress(OSError):
            self._update(client).unlink(missing_ok=True)

    def _update(self, client: str) -> Path:
        return self._folder / f"{client}.update"

    @staticmethod
    def _read(path: Path, layout: Layout) -> tuple[Outgoing, Seed | None] | None:
        """The transfer in ``path``; a file that cannot be used is no transfer, and goes."""
        try:
            with path.open("rb") as file:
                return _assemble(_bodies(file), layout)
        except FileNotFoundError:
            return None
        except (OSError, Rejected) as error:
            what = path.suffix.removeprefix(".")
            log.warning(f"{what}_dropped", "the %s that was kept cannot be used: %s", what, error)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None

    @staticmethod
    def _write(path: Path, pieces: Iterable[Piece]) -> None:
        """Put a file in the place of ``path``, whole or not at all.

        A disk that is full costs the copy, not the update, which goes out all the same.
        """
        try:
            with replacing(path, mode=PRIVATE) as temporary, temporary.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                flush(file.fileno())
        except OSError as error:
            log.warning("not_kept", "%s cannot be written: %s", path, error)


def _framed(update: Iterable[Body]) -> Iterator[Piece]:
    for body in update:
        yield sum(map(len, body)).to_bytes(LENGTH_BYTES, "big")
        yield from body


def _bodies(file: BinaryIO) -> Iterator[bytes]:
    while length := file.read(LENGTH_BYTES):
        yield file.read(int.from_bytes(length, "big"))


def _assemble(bodies: Iterator[bytes], layout: Layout) -> tuple[Outgoing, Seed | None]:
    """What the bodies of one update make; raises Rejected unless it is whole."""
    manifest, data = decode(next(bodies, b""))
    seed = manifest if isinstance(manifest, Seed) else None
    if seed is not None:
        manifest, data = decode(next(bodies, b""))
    if not isinstance(manifest, UpdateManifest) or manifest.layout != layout.digest:
        raise Rejected("layout", "it belongs to another model")
    if seed is None and manifest.encoding not in KNOWN:
        raise Rejected("encoding", f"its encoding {manifest.encoding} is not known here")
    if seed is not None and manifest.transfer != seed.transfer:
        raise Rejected("transfer", "its mask is another's")
    if seed is None and manifest.size_bytes != size_bytes(layout, manifest.encoding):
        raise Rejected("layout", "it belongs to another model")
    buffer = np.empty(manifest.size_bytes, np.uint8)

    def store(start: int, piece: memoryview) -> None:
        buffer[start : start + len(piece)] = piece

    incoming = Incoming(manifest, store)
    whole = incoming.add(0, data)
    for body in bodies:
        chunk, data = decode(body)
        if not isinstance(chunk, Chunk):
            raise Rejected("chunk", "it holds something else")
        whole = incoming.add(chunk.index, data)
    if not whole:
        raise Rejected("chunk", "it is cut short")
    return Outgoing(manifest, buffer), seed
