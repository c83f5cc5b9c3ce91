"""The systemd unit of a private node or cluster."""

from __future__ import annotations

import pwd
import re
import sys
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

from warren_shared.errors import BrokerConfigError, ConfigError
from warren_shared.service import systemd

if TYPE_CHECKING:
    import argparse

NAME: Final = "warren-broker.service"
_PLAIN_PATH: Final = re.compile(r"[\w./@+:-]+")  # what systemd reads as it stands

# Erlang writes machine code (no MemoryDenyWriteExecute), and asks for the machine's addresses
# (AF_NETLINK). Without PrivateUsers: a `broker-config` that runs beside it looks for the mark in
# the environment of its processes, which cannot be read from outside another user namespace.
_UNIT: Final = Template("""\
# Written by `broker-config install`; yours to change, or better to add to: `systemctl edit $name`.
[Unit]
Description=Warren broker in $home
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=$command
${user}WorkingDirectory=$home
Restart=on-failure
RestartSec=5
# Wrong input stays wrong.
RestartPreventExitStatus=2
# RabbitMQ ends in its own order when broker-config asks it to; systemd's signal is for that alone.
KillMode=mixed
# Longer than a boot with much data, and than the end of three nodes one after the other.
TimeoutStartSec=10min
TimeoutStopSec=3min
LimitNOFILE=65536

$confined
[Install]
WantedBy=$target
""")

_CONFINED: Final = """\
ReadWritePaths=$home
ProtectHome=read-only
PrivateDevices=yes
SystemCallFilter=@system-service
"""


def text(program: Path, home: Path, *, user: bool = False) -> str:
    """The unit that has ``program`` run the node in ``home`` as the user who owns it.

    ``user`` is for one's own systemd, which can confine less.

    Raises:
        BrokerConfigError: systemd would read one of the paths otherwise.
    """
    for path in (program, home):
        if not _PLAIN_PATH.fullmatch(str(path)):
            raise BrokerConfigError(
                f"{path}: a unit takes a path of letters, digits and ./@+:-_ alone: move it"
            )
    confined = systemd.CONFINED.replace("AF_UNIX", "AF_UNIX AF_NETLINK")
    confined = confined.replace("CapabilityBoundingSet=", "CapabilityBoundingSet=$bind")
    return _UNIT.substitute(
        name=NAME.removesuffix(".service"),
        home=home,
        command=f"{program} up --foreground --home {home}",
        user="" if user else f"User={_owner(home)}\n",
        confined="NoNewPrivileges=yes\n" if user else Template(confined + _CONFINED).substitute(
            home=home, bind="CAP_NET_BIND_SERVICE",
        ),
        target="default.target" if user else "multi-user.target",
    )  # fmt: skip


def install(home: Path, asked: argparse.Namespace, program: Path | None = None) -> None:
    """Write the unit for ``home`` as ``asked``, and say what to do next.

    Raises:
        BrokerConfigError: there is no node in ``home`` yet, a unit that somebody changed is there,
            or it cannot be written.
    """
    if not (home / "node.json").exists():
        raise BrokerConfigError(
            f"{home} has no node that a service could start: `broker-config up` first, with the"
            " options that it is to remember"
        )
    found = text(program or Path(sys.argv[0]).resolve(), home, user=asked.user)
    try:
        systemd.place(found, NAME, asked, NAME.removesuffix(".service"), NAME)
    except ConfigError as error:
        raise BrokerConfigError(str(error)) from None


def _owner(home: Path) -> str:
    number = home.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
