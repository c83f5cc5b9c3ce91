"""Features of an image that are the same function at every site: no data is looked at for them."""

from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

SIDE, CELL, DIRECTIONS = 28, 4, 8
CELLS: Final = SIDE // CELL
FEATURES: Final = CELLS * CELLS * (DIRECTIONS + 1)
FLAT: Final = 0.3  # added to a cell's norm, so that one without edges is not noise alone
BRIGHTNESS: Final = 2.0  # as strong as what edges say
_AT_ONCE: Final = 2_000


def oriented_gradients(images: Array) -> Array:
    """Where edges are and how they lie: ``images`` (n, 784) to (n, 441), float32.

    Histograms of oriented gradients (Dalal & Triggs 2005) of cells of 4 x 4 pixels, in 8 directions
    of half a turn, each cell normalised by itself, and the brightness of each cell.
    """
    found = np.empty((len(images), FEATURES), np.float32)
    for first in range(0, len(images), _AT_ONCE):
        found[first : first + _AT_ONCE] = _features(images[first : first + _AT_ONCE])
    return found


def _features(images: Array) -> Array:
    pixels = images.reshape(-1, SIDE, SIDE)
    across, down = np.zeros_like(pixels), np.zeros_like(pixels)
    across[:, :, 1:-1] = pixels[:, :, 2:] - pixels[:, :, :-2]
    down[:, 1:-1] = pixels[:, 2:] - pixels[:, :-2]
    length = np.hypot(across, down)
    turned = np.arctan2(down, across) % np.pi * (DIRECTIONS / np.pi)
    whole = np.floor(turned)
    beyond, lower = turned - whole, whole.astype(np.int64) % DIRECTIONS
    edges = np.zeros((*pixels.shape, DIRECTIONS), np.float32)
    for direction, share in ((lower, 1 - beyond), ((lower + 1) % DIRECTIONS, beyond)):
        there = np.take_along_axis(edges, direction[..., None], -1)
        np.put_along_axis(edges, direction[..., None], there + (length * share)[..., None], -1)
    histograms = _cells(edges).sum(axis=(2, 4))
    histograms /= np.linalg.norm(histograms, axis=-1, keepdims=True) + FLAT
    brightness = BRIGHTNESS * _cells(pixels[..., None]).mean(axis=(2, 4))
    return np.concatenate([histograms, brightness], axis=-1).reshape(len(images), FEATURES)


def _cells(values: Array) -> Array:
    """(n, 28, 28, d) as (n, 7, 4, 7, 4, d)."""
    return values.reshape(len(values), CELLS, CELL, CELLS, CELL, values.shape[-1])
