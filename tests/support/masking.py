"""Seeds and requests, as clients and the coordinator make them, and a keeper without a broker."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from keeper_worker import keys as key_file
from keeper_worker.ledger.journal import Journal
from keeper_worker.ledger.slots import Slots
from keeper_worker.sums.adder import Adder
from keeper_worker.sums.noise import NoiseSource
from keeper_worker.sums.rules import Plan, Rules, plan
from keeper_worker.sums.seeds import Seeds
from warren_shared.protocol.masking import NO_FIGURES, names_digest, terms_digest
from warren_shared.protocol.messages import (
    FigureNames,
    MaskedUpdate,
    MaskTerms,
    PrivacyTerms,
    Seed,
    Unmask,
)

FEDERATION = "f"
RUN = "ab" * 4
LAYOUT = "cd" * 8
KEEPER = "ef" * 8
ELEMENTS = 1000
TABLE = [4, 2, 1]
TERMS = MaskTerms(
    keeper=KEEPER, least=3, ring=32, scale=2.0**20, clip=1.0, weights=TABLE, examples=1, limb=24
)
NAMES = FigureNames(metrics=["loss"])


def transfer_of(client: str, base: int, attempt: int = 0, run: str = RUN) -> str:
    """An id that is the same for the same update."""
    return hashlib.sha256(f"{run} {client} {base} {attempt}".encode()).hexdigest()[:16]


def model_of(base: int) -> str:
    """The digest of a version's model."""
    return hashlib.sha256(f"model {base}".encode()).hexdigest()


def seed_of(
    client: str,
    base: int = 0,
    *,
    secure: MaskTerms = TERMS,
    privacy: PrivacyTerms | None = None,
    figures: int = 0,
    **change: Any,
) -> Seed:
    """What ``client`` sends to the keeper before its update."""
    transfer = change.get("transfer", transfer_of(client, base, run=change.get("run", RUN)))
    told = {
        "federation": FEDERATION,
        "run": RUN,
        "client": client,
        "base_version": base,
        "transfer": transfer,
        "layout": LAYOUT,
        "elements": ELEMENTS,
        "figures": names_digest(NAMES if figures else NO_FIGURES),
        "figure_elements": figures,
        "model": model_of(base),
        "terms": terms_digest(secure, privacy),
        "seed": hashlib.sha256(f"seed {client} {transfer}".encode()).hexdigest(),
    }
    return Seed(**(told | change))


def row_of(
    client: str, base: int, version: int, table: list[int] = TABLE, run: str = RUN
) -> MaskedUpdate:
    """An update, and what it counts in ``version``."""
    late = max(0, min(version - 1 - base, len(table) - 1))
    return MaskedUpdate(
        client=client,
        base_version=base,
        transfer=transfer_of(client, base, run=run),
        weight=table[late],
    )


def request_of(version: int, *clients: str | tuple[str, int], **change: Any) -> Unmask:
    """What the coordinator asks for ``version``; a client's update is of the version before.

    Unless it is told with a base version.
    """
    secure = change.get("secure", TERMS)
    pairs = [one if isinstance(one, tuple) else (one, version - 1) for one in clients]
    told = {
        "federation": FEDERATION,
        "run": RUN,
        "version": version,
        "layout": LAYOUT,
        "secure": secure,
        "updates": [
            row_of(client, base, version, secure.weights, change.get("run", RUN))
            for client, base in pairs
        ],
    }
    return Unmask(**(told | change))


class Desk:
    """A keeper in one process: rules, ledger on the disk, seeds; ``ask`` gives bytes or raises."""

    def __init__(self, folder: Path, **change: Any) -> None:
        self.folder = folder
        self.keys, _ = key_file.make(folder)
        told = {"federation": FEDERATION, "key": KEEPER, "least": 3}
        self.rules = Rules(**(told | change))
        self.seeds = Seeds(FEDERATION)
        self.journal = Journal.open(folder, self.keys.encrypt_key_id)
        self.adder = Adder()
        self.slots = Slots(folder)

    def send(self, *seeds: Seed) -> None:
        """Take seeds from those whose they are."""
        for seed in seeds:
            self.seeds.add(seed, seed.client.partition(".")[0], len(self.seeds) + 1)

    def plan(self, request: Unmask) -> Plan:
        """What would be added up; raises Refused."""
        return plan(request, self.rules, self.journal.history, self.seeds)

    def ask(self, request: Unmask) -> bytes:
        """The sum, when it is in the ledger; raises Refused."""
        made = self.plan(request)
        buffer, total = self.adder.begin(made)
        entry = made.entry
        noise = None
        if self.rules.noise is not None:
            noise = NoiseSource(self.rules.noise, self.keys.noise, self.slots)
            entry = noise.draw(made, total, self.journal.history.runs.get(entry.run))
        if not made.repeats:
            self.journal.append(entry)
            if noise is not None:
                noise.revealed(entry)
        self.adder.add(made, buffer)
        return buffer.tobytes()

    def restarted(self) -> "Desk":
        """Another process with the same folder, to which the broker sends all seeds again."""
        self.journal.close()
        made = Desk.__new__(Desk)
        made.__dict__.update(self.__dict__)
        made.keys, _ = key_file.make(self.folder)
        made.journal = Journal.open(self.folder, made.keys.encrypt_key_id)
        made.adder = Adder()
        return made


def integers(answer: bytes, elements: int = ELEMENTS) -> "np.ndarray[Any, np.dtype[np.uint32]]":
    """The sum for the weights."""
    return np.frombuffer(answer, np.uint32)[:elements]
