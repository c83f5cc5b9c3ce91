"""A hostile client with valid credentials: as many messages as the broker takes, for a while.

``python -m benchmarks.clients.flood_client BUNDLE KIND SECONDS MODEL_BYTES RUN``; ended by SIGTERM
or when its time is up, it prints ``{"sent": …, "seconds": …}``. It waits for no confirm: only the
broker's flow control slows it down.

- ``garbage``: bodies of 1 MiB that are no message
- ``tiny``: bodies of two bytes that are no message
- ``joins``: "I am here, send me the model", again and again
- ``transfers``: updates that are begun, in earnest, and never finished
- ``nowhere``: as ``tiny``, but to no queue: what the broker and the machine alone suffer
"""

import json
import secrets
import signal
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import numpy as np

from benchmarks.clients.raw_amqp import CHANNEL, RawConnection
from benchmarks.clients.raw_frames import message, properties
from warren_shared.naming import CHUNK_BYTES, UPDATE_EXCHANGE, UPDATE_QUEUE
from warren_shared.protocol.codec import Body, encode
from warren_shared.protocol.messages import Join, UpdateManifest
from warren_shared.protocol.transfer import Outgoing, transfer_fields
from warren_shared.tensors.layout import Layout, Weights

KINDS: Final = ("garbage", "tiny", "joins", "transfers", "nowhere")
TOGETHER: Final = 64  # small messages in one write


def main() -> None:
    """Flood."""
    bundle, kind, seconds, model_bytes, run = sys.argv[1:]
    url = Path(bundle).read_text().partition("WARREN_BROKER_URL=")[2].splitlines()[0]
    raw = RawConnection(url)
    federation = unquote(urlsplit(url).path[1:])
    make = _maker(kind, raw.user, federation, int(model_bytes), run)
    told = properties(persistent=True, kind="update", user=raw.user)

    def blob() -> bytes:
        key = "nowhere" if kind == "nowhere" else UPDATE_QUEUE
        pieces = message(CHANNEL, UPDATE_EXCHANGE, key, told, make())
        return b"".join(pieces)

    together = 1 if kind in ("garbage", "transfers") else TOGETHER
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ready, sent, began = blob() * together, 0, time.monotonic()
    try:
        while time.monotonic() < began + float(seconds):
            raw.socket.sendall(ready)
            sent += together
            if kind == "transfers":
                ready = blob()
    finally:
        lasted = time.monotonic() - began
        print(json.dumps({"sent": sent, "seconds": lasted}))  # noqa: T201


def _maker(kind: str, user: str, federation: str, model_bytes: int, run: str) -> Callable[[], Body]:
    match kind:
        case "garbage":
            garbage = (secrets.token_bytes(CHUNK_BYTES),)
            return lambda: garbage
        case "tiny" | "nowhere":
            return lambda: (b"{}",)
        case "joins":
            join = encode(Join(federation=federation, client=user))
            return lambda: join
    layout = Layout.of([np.empty(model_bytes // 4, np.float32)])
    delta = Weights(layout, np.zeros(model_bytes, np.uint8))
    fields = transfer_fields(delta.buffer)

    def begun() -> Body:
        fields["transfer"] = secrets.token_hex(8)
        manifest = UpdateManifest(
            federation=federation,
            run=run,
            client=user,
            base_version=0,
            num_examples=1,
            layout=layout.digest,
            **fields,  # type: ignore[arg-type]
        )
        (first,) = islice(Outgoing(manifest, delta.buffer), 1)
        return first

    return begun


if __name__ == "__main__":
    main()
