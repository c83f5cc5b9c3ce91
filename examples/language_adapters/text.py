"""Text that is there wherever the example runs: docstrings of installed packages.

They are read from the source files with `ast`, so nothing is imported, and in one order everywhere.
"""

import ast
import importlib.util
import platform
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from warren_examples.language_adapters import COMMON, SITES
from warren_shared.errors import ConfigError
from warren_shared.tensors.layout import Array

CONTEXT = 64  # bytes that the model sees
LEAST = 80  # characters of a docstring
TRAIN, HELD_OUT = 1000, 500  # pieces of a site's text: 64 kB to train on
SKIPPED = frozenset(("test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3"))
Pieces = tuple[Array, Array]  # inputs and, one byte on, targets; int32, (n, CONTEXT) each


@cache
def docstrings(folder: Path) -> tuple[str, ...]:
    """The docstrings in the Python files of ``folder``, each once, in the order of the files."""
    found: dict[str, None] = {}
    for path in sorted(folder.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(folder).parts):
            found.update(dict.fromkeys(_in(path)))
    return tuple(found)


def _in(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates, and what tests the parser
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text is not None and len(text) >= LEAST:
            yield text


def pieces(text: str) -> Pieces:
    """``text`` as ASCII, cut into pieces, and each piece one byte on."""
    data = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int32)
    many = (len(data) - 1) // CONTEXT
    end = many * CONTEXT
    return data[:end].reshape(many, CONTEXT), data[1 : end + 1].reshape(many, CONTEXT)


def common() -> Pieces:
    """What the base is trained on: docstrings of Python's standard library and COMMON, shuffled."""
    folders = [Path(sysconfig.get_path("stdlib")), *map(_folder, COMMON)]
    x, y = pieces("\n\n".join(text for folder in folders for text in docstrings(folder)))
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], y[order]


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the example reads the docstrings of {package}: install it")
    return Path(spec.origin).parent


def origin() -> str:
    """Which text `common` is, without reading it: versions of Python and the packages."""
    versions = (f"{package} {version(package)}" for package in COMMON)
    return ", ".join((f"Python {platform.python_version()}", *versions))


@cache
def site(name: str) -> tuple[Pieces, Pieces]:
    """What the site trains on, and what it holds out: of different docstrings."""
    texts = list(docstrings(_folder(SITES[name])))
    np.random.default_rng(0).shuffle(texts)
    x, y = pieces("\n\n".join(texts))
    if len(x) < TRAIN + HELD_OUT:
        raise ConfigError(f"the docstrings of {SITES[name]} are {len(x)} pieces, too few")
    return (x[:TRAIN], y[:TRAIN]), (x[-HELD_OUT:], y[-HELD_OUT:])
