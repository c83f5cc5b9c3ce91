"""Environment variables that were meant as settings and are none: ``WARREN_QORUM``.

The environment is shared with others, so what is unknown there is no error, but it is said.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from warren_shared.config.command_line import flag_of
from warren_shared.config.settings_model import PREFIX, Settings

CUTOFF: Final = 0.75
# What a worker is told has names in its own settings; these are other commands', or of no setting.
OTHERS: Final = frozenset({
    "AMQP_ADDRESS", "HOME", "MANAGEMENT_PASSWORD", "MANAGEMENT_URL",  # broker-config
    "ADMIN_PASSWORD",  # docker-compose.yml
    "ENV_FILE", "SETTINGS",
    "CLIENT", "ENCRYPT_KEY", "FLEET", "STATE_DIR", "STAY", "TASK", "VERIFY_KEYS", "VIRTUAL",
    "CHECKPOINT_DIR", "CLIENTS", "DECRYPT_KEYS", "SIGNING_KEYS",  # both workers' bundles
})  # fmt: skip


def names_in(bundle: str | Path | None) -> list[str]:
    """Variables that an --env-file sets."""
    if not bundle:
        return []
    lines = Path(bundle).read_text(errors="replace").splitlines()
    return [name.removeprefix("export ").strip() for name, equals, _ in _parted(lines) if equals]


def by_setting(
    kind: type[Settings], names: Iterable[str], words: Iterable[str] = ()
) -> Mapping[str, str]:
    """Names that are no setting of ``kind``, by the setting that each was meant to be.

    ``names`` are of environment variables, ``words`` of a command line.
    """
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    found: dict[str, str] = {}
    for name in [*(name for name in names if name.startswith(PREFIX)), *flags]:
        plain = name.removeprefix(PREFIX).removeprefix("--").replace("-", "_").lower()
        if plain not in kind.model_fields and plain.upper() not in OTHERS:
            near = difflib.get_close_matches(plain, kind.model_fields, n=1, cutoff=CUTOFF)
            found |= dict.fromkeys(near, name)
    return found


def warnings(kind: type[Settings], names: Iterable[str]) -> list[str]:
    """A line for each of ``names`` that is no setting and nearly one."""
    return [
        f"{name} is no setting: did you mean {PREFIX}{setting.upper()} ({flag_of(setting)})?"
        for setting, name in by_setting(kind, names).items()
    ]


def _parted(lines: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    return (line.partition("=") for line in lines if not line.lstrip().startswith("#"))
