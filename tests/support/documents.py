"""Documents as programs: their blocks, run in order in one folder as a reader would run them.

The first word behind the fence says what becomes of a block:

- ``sh`` is run; ``sh beside`` in a terminal of its own, while the next blocks are run; ``sh until
  SOME WORDS`` until it has printed these, and is killed then;
- ``python``, ``toml``, ``ini``, ``yaml`` and ``json`` whose first line is ``# some/file.name`` are
  saved under that name when their turn comes; python without a name is run;
- ``python shown`` is only compiled, for what needs more than we have;
- ``console`` is shown, and its commands are ones that there are (`tests.support.command_lines`);
- ``text`` is what a command prints, but for its figures; nothing at all is a picture.

Further words are for the tests of one document, such as on which machine a block is run.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.processes import BIN, ROOT

FILES: Final = ("python", "toml", "ini", "yaml", "json")
LANGUAGES: Final = ("sh", "console", "text", "", *FILES)
_FENCE: Final = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAME: Final = re.compile(r"(?:#|//) ([\w./-]+\.[a-z]+)\b[^\n]*\n")
_END: Final = "END_OF_THIS_FILE"


@dataclass(frozen=True)
class Block:
    """What stands between two fences in ``document``, from ``line`` on."""

    document: str
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        """The file it is saved as; "" for none."""
        if self.language not in FILES or "shown" in self.words:
            return ""
        found = _NAME.match(self.text)
        return found[1] if found else ""

    @property
    def needs_test(self) -> bool:
        """Whether only running the document shows that it is right."""
        return self.language == "sh" or (self.language == "python" and "shown" not in self.words)

    @property
    def is_program(self) -> bool:
        """Whether it is Python that is run at its place."""
        return self.language == "python" and self.needs_test and not self.name

    def __str__(self) -> str:
        """Where it is, as editors understand it."""
        return f"{self.document}:{self.line}"


def documents() -> list[str]:
    """All Markdown files in the repository, as paths from its root."""
    listed = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        text=True,
    )
    return [path for path in listed.splitlines() if (ROOT / path).exists()]


def text_of(document: str) -> str:
    """What ``document`` says."""
    return (ROOT / document).read_text()


def blocks(document: str, language: str | None = None) -> list[Block]:
    """The blocks of ``document``, all or those in ``language``."""
    text = text_of(document)
    found = []
    for match in _FENCE.finditer(text):
        kind, *words = match[1].split() or [""]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(document, line, kind, tuple(words), match[2]))
    return [block for block in found if language in (None, block.language)]


def save(some: Iterable[Block], folder: Path) -> None:
    """Write the blocks that have a name into ``folder``."""
    for block in some:
        if block.name:
            (folder / block.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.name).write_text(block.text)


def as_script(some: Iterable[Block]) -> str:
    """The blocks as one script of bash, which also stops the broker that it started."""
    return "\n".join(
        ["set -eu", "trap 'broker-config down; exit' EXIT TERM", *_steps(some), "wait", ""]
    )


def _steps(some: Iterable[Block]) -> Iterator[str]:
    for block in some:
        if block.name:
            yield f"mkdir -p $(dirname {block.name})"
            yield f"cat > {block.name} <<'{_END}'\n{block.text}{_END}"
        elif block.language == "sh" and block.words[:1] == ("until",):
            yield _until(" ".join(block.words[1:]), block.text)
        elif block.language == "sh":
            yield f"( {block.text} ) &" if "beside" in block.words else block.text
        elif block.is_program:
            yield f"python - <<'{_END}'\n{block.text}{_END}"


def _until(words: str, text: str) -> str:
    """One command, killed when it has printed ``words``; the script fails if it ends before."""
    return f"""
( exec {text} ) > .printed 2>&1 &
until grep --quiet '{words}' .printed; do kill -0 $!; sleep 0.1; done
kill -KILL $!; cat .printed"""


def as_printed(text: str) -> str:
    """``text`` without what differs from one run to the next: figures, names of runs, widths."""
    text = re.sub(r"\b(?=[a-z]*\d)[0-9a-f]{8}\b", "0", text)
    return re.sub(r"[\d.]*\d", "0", " ".join(text.split()))


def environment(folder: Path) -> dict[str, str]:
    """Our commands on the path, no settings, and a home that is a folder of the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    return kept | {
        "PATH": f"{BIN}:{kept['PATH']}",
        "HOME": str(folder),
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONUNBUFFERED": "1",
    }


def run(
    some: Iterable[Block],
    folder: Path,
    *,
    change: Callable[[str], str] = str,
    files: Mapping[str, str] | None = None,
    deadline_s: float = 300,
) -> str:
    """Run the blocks in ``folder``, beside ``files``; return all that was printed.

    ``change`` is applied to the script. Fails if a command of the document does.
    """
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    process = subprocess.Popen(
        ["bash", "-c", change(as_script(some))],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # bash stops the broker then, and ends
        said, _ = process.communicate()
        raise AssertionError(f"not done after {deadline_s} s:\n{said}") from None
    assert process.returncode == 0, said
    assert "Traceback" not in said, said
    return said


def run_python(text: str, folder: Path) -> str:
    """Run Python by itself; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
