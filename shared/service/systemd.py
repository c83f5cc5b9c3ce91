"""systemd units of the workers, and writing units where systemd looks.

The units stand here and nowhere else: `deploy/systemd` is what `install` writes by default, and a
test keeps it so.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from warren_shared.config.command_line import Parser
from warren_shared.errors import ConfigError

SYSTEM_FOLDER: Final = Path("/etc/systemd/system")
SETTINGS: Final = "/etc/warren/warren.toml"
# Where ProtectHome lets nothing in, or the folder's own mode does not.
HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))

# What nothing of ours needs. A worker reads its data and settings, dials out, and writes its state;
# a broker's node beside that lets others in.
CONFINED: Final = """\
NoNewPrivileges=yes
ProtectSystem=strict
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
# What is not allowed fails, and can be logged; else it would be a kill without a word.
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=
UMask=0077
"""

_UNIT: Final = Template("""\
# Written by `$program install`; yours to change, or better to add to: `systemctl edit $name`.
[Unit]
Description=$description
Wants=network-online.target
After=network-online.target
# The broker may be away for a day.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=$command
$where
Restart=on-failure
RestartSec=5
# Wrong input stays wrong, and 0 means that the run is over.
RestartPreventExitStatus=2
# Stopped in an unfinished run: nothing failed.
SuccessExitStatus=143
# Two minutes without an answer from the thread that does the work: it hangs, and is restarted.
WatchdogSec=2min
TimeoutStopSec=30

$confined
[Install]
WantedBy=$target
""")


@dataclass(frozen=True)
class Unit:
    """A worker as a service.

    ``arguments`` follow the settings file on its command line, ``where`` are lines of the unit on
    user, folders and environment, ``confined`` what it may not do beside `CONFINED`. ``start`` is
    what to type after `systemctl enable --now`.
    """

    program: str
    name: str
    description: str
    arguments: str
    where: str
    confined: str
    start: str

    def text(self, program: Path, settings: str, folder: str, *, user: bool = False) -> str:
        """The unit's file; ``user`` is for one's own systemd, which can confine less."""
        where = Template(self.where).substitute(folder=folder)
        if user:
            where = where.replace("DynamicUser=yes\n", "")
        return _UNIT.substitute(
            program=self.program,
            name=self.name.removesuffix(".service"),
            description=self.description,
            command=f"{program} --settings {settings} {self.arguments}",
            where=where.rstrip("\n"),
            confined="NoNewPrivileges=yes\n" if user else f"{CONFINED}{self.confined}",
            target="default.target" if user else "multi-user.target",
        )


COORDINATOR: Final = Unit(
    program="coordinator-worker",
    name="coordinator-worker.service",
    description="Warren coordinator",
    arguments="--checkpoint-dir %S/warren-coordinator",
    # `--evaluate` runs a program of its user's, mostly `client-worker evaluate`: it imports a task
    # from the folder, and its framework writes machine code (no MemoryDenyWriteExecute). The memory
    # panel reads /proc (no ProcSubset); numpy places its memory at its import (mbind).
    where="""\
EnvironmentFile=$folder/coordinator.env
# The program of `--evaluate` finds its task here.
WorkingDirectory=$folder
Environment=TF_CPP_MIN_LOG_LEVEL=2 HOME=%S/warren-coordinator
DynamicUser=yes
StateDirectory=warren-coordinator
StateDirectoryMode=0700
""",
    confined="""\
PrivateDevices=yes
PrivateUsers=yes
ProtectHome=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=mbind
""",
    start="coordinator-worker",
)

CLIENT: Final = Unit(
    program="client-worker",
    name="client-worker@.service",
    description="Warren client %i",
    arguments="--state-dir %S/warren-client-%i",
    # Frameworks write machine code (no MemoryDenyWriteExecute), look at /proc and pin threads, and
    # may use a graphics card; data may lie in somebody's home.
    where="""\
# A fleet's bundle for all instances, and one for an instance that is an enrolled site.
EnvironmentFile=-$folder/client.env
EnvironmentFile=-$folder/client-%i.env
# Tasks are imported from here.
WorkingDirectory=$folder
Environment=TF_CPP_MIN_LOG_LEVEL=2 HOME=%S/warren-client-%i
DynamicUser=yes
StateDirectory=warren-client-%i
StateDirectoryMode=0700
""",
    confined="""\
PrivateUsers=yes
ProtectHome=read-only
SystemCallFilter=@system-service
""",
    start="client-worker@{1..4}",
)

KEEPER: Final = Unit(
    program="keeper-worker",
    name="keeper-worker.service",
    description="Warren keeper",
    # Keys first: `keeper-worker keys --state-dir /var/lib/warren-keeper`; systemd takes it over.
    arguments="--state-dir %S/warren-keeper",
    where="""\
EnvironmentFile=$folder/keeper.env
WorkingDirectory=$folder
Environment=HOME=%S/warren-keeper
DynamicUser=yes
StateDirectory=warren-keeper
StateDirectoryMode=0700
""",
    confined="""\
PrivateDevices=yes
PrivateUsers=yes
ProtectHome=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=mbind
""",
    start="keeper-worker",
)


def flags(unit: Unit) -> argparse.ArgumentParser:
    """The command line of `install`."""
    parser = Parser(
        prog=f"{unit.program} install",
        description=f"Write {unit.name}, so that systemd runs this worker; see docs/deploy.md.",
    )
    parser.add_argument(
        "--settings",
        metavar="FILE",
        help=f"the worker's settings file (default: {SETTINGS}, with --user warren/warren.toml in"
        " your ~/.config); bundles and tasks lie beside it",
    )
    add_flags(parser)
    return parser


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options that every `install` has."""
    parser.add_argument(
        "--user", action="store_true", help="for your own systemd (systemctl --user), without root"
    )
    parser.add_argument("--dir", metavar="DIR", type=Path, help="write it there instead")
    parser.add_argument("--print", action="store_true", help="print it, write nothing")
    parser.add_argument("--force", action="store_true", help="replace one that was changed")


def install(unit: Unit, asked: argparse.Namespace, program: Path | None = None) -> None:
    """Write ``unit`` as ``asked``, for the ``program`` that runs now, and say what to do next.

    Raises:
        ConfigError: a unit that somebody changed is there, or it cannot be written.
    """
    settings = Path(asked.settings or (_user_settings(os.environ) if asked.user else SETTINGS))
    if not settings.is_absolute():
        raise ConfigError(f"--settings {settings}: systemd needs the whole path")
    program = program or Path(sys.argv[0]).resolve()
    text = unit.text(program, str(settings), str(settings.parent), user=asked.user)
    if not asked.user and not asked.print:
        _warn_of_homes(program, settings)
    place(text, unit.name, asked, unit.start, f"'{unit.program}*'")


def place(text: str, name: str, asked: argparse.Namespace, start: str, shown: str) -> None:
    """Write the unit ``name``, or print it, as ``asked``, and say what to do next.

    ``start`` is what to enable, ``shown`` what `systemctl status` is to be asked for.

    Raises:
        ConfigError: a unit that somebody changed is there, or it cannot be written.
    """
    if asked.print:
        sys.stdout.write(text)
        return
    folder = asked.dir or (_user_folder(os.environ) if asked.user else SYSTEM_FOLDER)
    path = folder / name
    try:
        if path.exists() and path.read_text() != text and not asked.force:
            raise ConfigError(f"{path} is there and differs: --force replaces it")
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): be root, or --user"
        ) from None
    control = "systemctl --user" if asked.user else "systemctl"
    sys.stdout.write(
        f"written: {path}\nnext:\n  {control} daemon-reload\n"
        f"  {control} enable --now {start}\n  {control} status {shown}\n"
    )


def _warn_of_homes(*paths: Path) -> None:
    """Say of each path in somebody's home that the service cannot get there."""
    homes = (*HOMES, Path.home())
    for path in paths:
        home = next((h for h in homes if h != Path("/") and path.is_relative_to(h)), None)
        if home is not None:
            sys.stderr.write(
                f"warning: {path} is below {home}, where the service may not look: install Warren"
                " and its settings elsewhere, such as /opt/warren and /etc/warren, or give --user\n"
            )


def _config_folder(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _user_folder(environment: Mapping[str, str]) -> Path:
    return _config_folder(environment) / "systemd" / "user"


def _user_settings(environment: Mapping[str, str]) -> Path:
    return _config_folder(environment) / "warren" / "warren.toml"
