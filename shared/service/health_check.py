"""What ``check`` finds: one line each, and what to do about it."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from warren_shared import strict_json
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.files import writable

GIB: Final = 1 << 30


class CheckFailed(WarrenError):
    """Something would keep the worker from its work."""


@dataclass(frozen=True)
class Finding:
    """``ok``, ``warn`` (it works, but look at it) or ``FAIL`` (it will not work)."""

    status: Literal["ok", "warn", "FAIL"]
    about: str
    message: str

    def __str__(self) -> str:
        return f"{self.status:<5} {self.about}: {self.message}"


def ok(about: str, message: str) -> Finding:
    """All is well."""
    return Finding("ok", about, message)


def warn(about: str, message: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding("warn", about, message)


def fail(about: str, message: object) -> Finding:
    """It will not work."""
    return Finding("FAIL", about, str(message))


def json_flag(program: str) -> argparse.ArgumentParser:
    """The options that every ``check`` has beside the settings of its worker."""
    own = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False)
    own.add_argument("--json", action="store_true", help="for programs: a JSON object a line")
    return own


def show(findings: Iterable[Finding], *, as_json: bool) -> None:
    """Print findings as they are made; raise CheckFailed at the end if one is a FAIL.

    Settings that cannot be read at all are the last finding.
    """
    failed = 0
    for finding in _with_settings(findings):
        sys.stdout.write(strict_json.lines([asdict(finding)]) if as_json else f"{finding}\n")
        sys.stdout.flush()
        failed += finding.status == "FAIL"
    if failed:
        raise CheckFailed(f"{failed} {'finding' if failed == 1 else 'findings'} FAIL: see above")


def _with_settings(findings: Iterable[Finding]) -> Iterator[Finding]:
    try:
        yield from findings
    except ConfigError as error:
        yield fail("settings", error)


def folder(path: Path, flag: str, needed_bytes: int) -> Iterator[Finding]:
    """Whether files can be written to ``path``, and whether ``needed_bytes`` of them fit.

    By writing one: what is mounted read-only, and a full disk, let everybody look.
    """
    try:
        writable(path, flag)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".check-") as file:
            file.write(b"written by check\n")
            file.flush()
            os.fsync(file.fileno())
    except ConfigError as error:
        yield fail(flag, error)
        return
    except OSError as error:
        yield fail(flag, f"{path} takes no files: {error.strerror}")
        return
    yield ok(flag, f"{path} can be written")
    yield room(path, shutil.disk_usage(path).free, needed_bytes)


def room(path: Path, free_bytes: int, needed_bytes: int) -> Finding:
    """What ``free_bytes`` mean to somebody who is going to write ``needed_bytes`` there."""
    said = f"{free_bytes / GIB:.1f} GiB free at {path}, {needed_bytes / GIB:.1f} needed"
    if free_bytes < needed_bytes:
        return fail("disk", f"{said}: make room, or name another folder")
    if free_bytes < max(GIB, 3 * needed_bytes):
        return warn("disk", f"{said}: little is left for what else is written")
    return ok("disk", said)
