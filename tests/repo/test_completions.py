"""What bash completes, by the very function that it would call."""

import subprocess

import pytest

from tests.support.processes import ROOT
from tools.completions import FILE, completions

ASK = """
source {file}
words=({words})
COMP_WORDS=("${{words[@]}}"); COMP_CWORD=$((${{#words[@]}} - 1))
$(complete -p {program} | sed 's/.*-F //; s/ .*//')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def test_the_file_is_what_the_parsers_take() -> None:
    assert completions() == FILE.read_text(), "run `make settings`"


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("coordinator-worker ver", ["versions"]),
        ("coordinator-worker --quo", ["--quorum"]),
        ("coordinator-worker rejected --del", ["--delete-all"]),
        ("coordinator-worker rejected --quo", [""]),
        ("coordinator-worker --rounds 5 --targ", ["--target"]),
        ("client-worker --virt", ["--virtual"]),
        ("broker-config sta", ["status"]),
        ("broker-config status --j", ["--json"]),
    ],
)
def test_bash_completes_a_word(words: str, completed: list[str]) -> None:
    script = ASK.format(file=FILE, words=words, program=words.split(maxsplit=1)[0])
    found = subprocess.check_output(["bash", "-c", script], text=True, cwd=ROOT)
    assert found.splitlines() == completed
