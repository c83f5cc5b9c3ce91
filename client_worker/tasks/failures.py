"""Failures of the user's code: told in one line, tried again, and at last the end of the client.

A task's ``fit`` may fail for a moment (a card that is out of memory, a file that is being replaced)
or for good. Neither is a reason to lose the traceback, nor for the federation to wait and wonder,
nor, where many clients share a process, for the others to stop.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from warren_shared.errors import WarrenError
from warren_shared.protocol.messages import MAX_REASON

PAUSES_S: Final = (5.0, 30.0, 180.0)  # before the second attempt, the third, and the last
_OURS: Final = ("client_worker", "shared")  # whose lines do not say where the user's code failed


class UserCodeError(Exception):
    """The user's code raised ``cause``; ``reason`` says it in one line."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        self.reason = reason_of(cause)
        super().__init__(self.reason)


@contextmanager
def user_code() -> Iterator[None]:
    """Around a call of the user's code: what it raises is a UserCodeError, our own errors aside."""
    try:
        yield
    except WarrenError:
        raise
    except Exception as error:
        raise UserCodeError(error) from error


def reason_of(error: BaseException) -> str:
    """``KeyError: 'age' (my_task.py:12, in fit)``: one line, bounded, printable."""
    words = "".join(c if c.isprintable() else " " for c in str(error)[: 2 * MAX_REASON])
    said = f"{type(error).__name__}: {' '.join(words.split())}".removesuffix(": ")
    place = where(error)
    room = MAX_REASON - len(place)
    return f"{said if len(said) <= room else said[: room - 1] + '…'}{place}"


def one_line(error: BaseException) -> str:
    """What an error of ours says, bounded and printable."""
    words = "".join(c if c.isprintable() else " " for c in str(error)[: 2 * MAX_REASON])
    said = " ".join(words.split()) or type(error).__name__
    return said if len(said) <= MAX_REASON else said[: MAX_REASON - 1] + "…"


def where(error: BaseException) -> str:
    """`` (my_task.py:12, in fit)``: the last line of code that is neither ours nor a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    if not own:
        return ""
    name = "".join(c for c in Path(own[-1].filename).name if c.isprintable())[-60:]
    return f" ({name}:{own[-1].lineno}, in {own[-1].name[:40]})"


def _is_users(filename: str) -> bool:
    parts = Path(filename).parts
    library = {"site-packages", "dist-packages"} & set(parts) or filename.startswith("<")
    root = Path(__file__).parents[2]
    ours = any(Path(filename).is_relative_to(root / package) for package in _OURS)
    standard = Path(filename).is_relative_to(Path(traceback.__file__).parent)
    return not (library or ours or standard)
