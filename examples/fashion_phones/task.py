"""Fashion-MNIST (Xiao et al. 2017) on a hundred phones, each with a taste of its own.

The 60,000 training images are dealt out by Dirichlet(0.3) over the classes: a phone has 600 images
on average, mostly of two or three kinds. Every virtual phone reads the same files and takes its
part; the network is made once and serves all of them, since only one trains at a time.
"""

import gzip
from functools import cache
from pathlib import Path

import numpy as np

from client_worker import NumpyModel, Task
from client_worker.models import mlp
from client_worker.partition import dirichlet
from warren_examples.fashion_phones import PHONES, WHERE

ALPHA, SEED = 0.3, 7
HEADER_BYTES = {"images-idx3": 16, "labels-idx1": 8}
Images = tuple[np.ndarray, np.ndarray]


@cache
def images(folder: Path, part: str) -> Images:
    """Pixels in 0 to 1, (n, 784) float32, and labels (n,), of ``train`` or ``t10k``."""
    found = []
    for kind, header in HEADER_BYTES.items():
        path = folder / f"{part}-{kind}-ubyte.gz"
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}: {WHERE}")
        found.append(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header))
    x, y = found
    return (x.reshape(len(y), -1) / np.float32(255)), y.astype(np.int64)


@cache
def network() -> NumpyModel:
    """784-64-10, about 51,000 parameters; two passes over a phone's images in batches of 20."""
    return mlp((784, 64, 10), seed=SEED, epochs=2, batch_size=20)


@cache
def parts(folder: Path) -> list[np.ndarray]:
    """Which phone has which images."""
    return dirichlet(images(folder, "train")[1], PHONES, ALPHA, SEED)


def phone(data: str, shard: int = 0, learning_rate: float = 0.05) -> Task:
    """The task of phone number ``shard``; a tenth of its images is held out."""
    x, y = images(Path(data), "train")
    mine = parts(Path(data))[shard % PHONES]
    held_out, kept = np.split(mine, [max(1, len(mine) // 10)])
    return Task(network(), (x[kept], y[kept]), learning_rate, (x[held_out], y[held_out]))


def judge(data: str) -> Task:
    """The task by which ``client-worker evaluate`` judges models: the 10,000 test images."""
    test = images(Path(data), "t10k")
    return Task(network(), (test[0][:1], test[1][:1]), validation=test)
