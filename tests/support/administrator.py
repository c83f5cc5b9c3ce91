"""``broker-config`` as an administrator runs it, and as a power cut or a kill ends it.

One process has imported everything and forks a child for each command, so that hundreds of them
take a minute. A child that is told to ends itself just before its n-th effect: a file or folder
that is created, replaced or deleted, a request that changes the broker, a process that is started.
As nothing happens between two effects that anybody else could see, that is also just after the one
before.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

KILLED: Final = 137
_FILES: Final = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "subprocess.Popen")


@dataclass(frozen=True)
class Ran:
    """What became of a command: its exit code, its effects in order, and what it printed."""

    code: int
    effects: list[str]
    said: str


class Administrator:
    """Runs ``broker-config`` with ``--home`` in children of one process."""

    def __init__(self, home: Path) -> None:
        self.home = home
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WARREN_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.administrator"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def __enter__(self) -> "Administrator":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(
        self, *words: str, home: Path | None = None, killed_before: int = 0, full: bool = False
    ) -> Ran:
        """Run a command; from its ``killed_before``-th effect (from 1) on nothing happens.

        ``full``: it is not killed there, but the disk takes no more bytes from then on.
        """
        told = {
            "words": [words[0], "--home", str(home or self.home), *words[1:]],
            "stop": killed_before,
            "full": full,
            "root": str((home or self.home).parent),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return Ran(**json.loads(self._process.stdout.readline()))

    def works(self, *words: str, home: Path | None = None) -> Ran:
        """Run a command that has to succeed."""
        ran = self.run(*words, home=home)
        assert ran.code == 0, (words, ran.said)
        return ran


class _Effects:
    """Counts the effects of this process, and ends it, or fills its disk, before one of them."""

    def __init__(self, root: str, stop: int, *, full: bool, report: int) -> None:
        self._root, self._stop, self._full, self._report = root, stop, full, report
        self._count = 0

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook; see `sys.addaudithook`."""
        if event in _FILES:
            path = str(arguments[0])
            is_ours = path.startswith(self._root) and (event != "os.remove" or os.path.exists(path))
            if event == "subprocess.Popen" or is_ours:
                self.happens(f"{event} {path.removeprefix(self._root)}")
        elif event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            path, flags = str(arguments[0]), arguments[2]
            if flags & os.O_CREAT and path.startswith(self._root) and not path.endswith(".tmp"):
                self.happens(f"create {path.removeprefix(self._root)}")
            elif flags & os.O_CREAT and path.startswith(self._root) and self._is_over():
                raise OSError(28, "No space left on device", path)

    def happens(self, effect: str) -> None:
        """An effect is about to happen."""
        self._count += 1
        if self._count == self._stop and not self._full:
            os._exit(KILLED)
        os.write(self._report, f"{effect}\n".encode())

    def _is_over(self) -> bool:
        return self._full and self._count >= self._stop


def _command(told: dict[str, Any], report: int, output: int) -> None:
    """In a child: run the command, effects into ``report``, what it prints into ``output``."""
    from broker_config import cli
    from broker_config.broker.management_api import Management

    os.dup2(output, 1)
    os.dup2(output, 2)
    effects = _Effects(told["root"], told["stop"], full=told["full"], report=report)
    ask = Management._ask

    def counted(self: Management, method: str, path: tuple[str, ...], body: Any) -> Any:
        if method != "GET":
            effects.happens(f"{method} {'/'.join(path)}")
        return ask(self, method, path, body)

    Management._ask = counted  # type: ignore[method-assign]
    sys.addaudithook(effects.heard)
    code = cli.main(told["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _read(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode(errors="replace")


def _warm_up() -> None:
    """Load what a command loads, so that no child has to."""
    import broker_config.cli
    import broker_config.commands  # noqa: F401
    from broker_config.broker.management_api import Management
    from warren_shared.errors import BrokerConfigError

    with Management("http://guest:guest@127.0.0.1:1") as nobody, suppress(BrokerConfigError):
        nobody.get("overview")


def _serve(lines: Iterable[str]) -> None:
    _warm_up()
    for line in lines:
        report, output = os.memfd_create("effects"), os.memfd_create("said")
        child = os.fork()
        if child == 0:
            try:
                _command(json.loads(line), report, output)
            except BaseException as error:  # noqa: BLE001  a traceback would go nowhere
                os.write(output, f"{type(error).__name__}: {error}".encode())
            os._exit(70)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        ran = Ran(code, _read(report).splitlines(), _read(output))
        print(json.dumps(vars(ran)), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve(sys.stdin)
