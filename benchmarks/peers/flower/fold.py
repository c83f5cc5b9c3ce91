"""Flower's ways of folding, as contestants; runs in Flower's own environment.

``python -m benchmarks.peers.flower.fold COUNT SIZE_BYTES CONTESTANT`` serves one of them, so that
the peak of this process's memory is that contestant's.
"""

import sys
from typing import TYPE_CHECKING, Final

from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.strategy.aggregate import aggregate, aggregate_inplace

from benchmarks.harness.arrays import examples, flat, tensors
from benchmarks.harness.contestants import serve

if TYPE_CHECKING:
    from collections.abc import Callable

AGGREGATE: Final = "aggregate"
INPLACE: Final = "aggregate_inplace"


def whole_lists(count: int, size_bytes: int) -> "Callable[[], object]":
    """``aggregate``: takes the arrays of all clients at once."""
    results = [(tensors(flat(n, size_bytes)), examples(n)) for n in range(count)]
    return lambda: aggregate(results)


def from_bytes(count: int, size_bytes: int) -> "Callable[[], object]":
    """``aggregate_inplace``: what FedAvg calls by default; takes all clients' serialised arrays."""
    done = Status(Code.OK, "")
    results = []
    for n in range(count):
        parameters = ndarrays_to_parameters(tensors(flat(n, size_bytes)))
        results.append((None, FitRes(done, parameters, examples(n), {})))
    return lambda: aggregate_inplace(results)


if __name__ == "__main__":
    make = {AGGREGATE: whole_lists, INPLACE: from_bytes}[sys.argv[3]]
    serve({sys.argv[3]: make(int(sys.argv[1]), int(sys.argv[2]))})
