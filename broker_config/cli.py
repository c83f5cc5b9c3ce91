"""The command ``broker-config``: get a broker for a federation, and keep it as declared."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker_config import options as read
from warren_shared.config.command_line import Parser, add_version, nearest, unknown_option
from warren_shared.errors import BrokerConfigError, ConfigError
from warren_shared.service.subcommands import print_anything
from warren_shared.service.systemd import add_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_ABOUT = """\
Get a RabbitMQ broker for a federation, and keep it as declared.

  broker-config up                       a private broker in .warren, fleet `client` of 20
  broker-config up --tls --host b.example
                                         the same, for other machines, which know it as b.example
  broker-config up --nodes 3             a private cluster, to try what happens without a node
  broker-config enrol hospital-a         one more site; hand it .warren/bundles/hospital-a.env
  broker-config revoke hospital-a        its access ends at once, open connections included
  broker-config rotate hospital-b        a new password and bundle; the old ones end at once
  broker-config certs --host b.example   certificates for a broker of your own
  broker-config check                    what differs from the declared state, if anything
  broker-config down                     stop it; data, passwords and ports are kept
  broker-config install                  have systemd start it and keep it running

For a broker of your own, name its management API and an administrator:

  export WARREN_MANAGEMENT_URL=https://admin:secret@broker.example:15671
  broker-config apply --client hospital-a --amqp-address amqps://broker.example:5671

Several federations on one broker, each with its own home, such as a root and its regions:

  broker-config up --federation root --client region-a --client region-b
  broker-config apply --home .warren-a --on .warren --federation region-a --fleet phone-a:20

The clients, fleets and the model's size are remembered in the home folder, so that a later
command needs no options. Passwords are made up, kept in HOME/credentials.json (mode 0600) and
handed out as environment files: HOME/bundles/USER.env, for `--env-file`.
"""

_ENVIRONMENT = """\
environment:
  WARREN_HOME                  like --home
  WARREN_MANAGEMENT_URL        management API of a broker of your own, login included
  WARREN_MANAGEMENT_PASSWORD   password, if the URL names only the user
  WARREN_AMQP_ADDRESS          like --amqp-address
  RABBITMQ_SERVER              like --server

exit codes: 0 fine; 1 not possible, and one line says what to do (also: `check` found a
difference, `status` found no running node); 2 the command line is wrong
"""

# What this command reads of the environment; workers read more.
_VARIABLES: Final = (
    "WARREN_AMQP_ADDRESS", "WARREN_HOME", "WARREN_MANAGEMENT_PASSWORD", "WARREN_MANAGEMENT_URL",
)  # fmt: skip

_MENDED = {
    errno.ENOSPC: "make room and repeat the command, or name another home folder",
    errno.EDQUOT: "make room and repeat the command, or name another home folder",
    errno.EROFS: "name a home folder on a disk that can be written",
    errno.ENOTDIR: "a file is in the way: move it, or name another home folder",
    errno.EEXIST: "a file is in the way: move it, or name another home folder",
    errno.EISDIR: "a folder is in the way: move it, or name another home folder",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``broker-config`` and return its exit code."""
    print_anything()
    try:
        options = _parse(_parser(), argv)
    except ConfigError as error:
        print(f"broker-config: {error}", file=sys.stderr)
        return 2
    for line in _unknown_variables():
        print(f"broker-config: {line}", file=sys.stderr)
    # Not before the options are read: --help need not wait for an HTTP client.
    from broker_config import commands

    try:
        code: int = getattr(commands, options.command)(options)
        sys.stdout.flush()
    except BrokerConfigError as error:
        print(f"broker-config: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `broker-config definitions | head`; Python would complain again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"broker-config: {_of_disk(error, options)}", file=sys.stderr)
        return 1
    return code


def _parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """What ``argv`` says; raises ConfigError if it has an option that the command does not know."""
    options, rest = parser.parse_known_args(argv)
    if rest:
        actions = subcommands(parser)[options.command]._actions
        raise unknown_option(
            rest[0], [word for action in actions for word in action.option_strings]
        )
    return options


def subcommands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parsers of the commands that ``parser`` has, by their names."""
    found = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    choices: Mapping[str, argparse.ArgumentParser] = found.choices
    return choices


def _unknown_variables() -> list[str]:
    """A line for each variable that was probably meant as one of ours, and is none."""
    found = [name for name in os.environ if name.startswith("WARREN_") and name not in _VARIABLES]
    hints = {name: nearest(name, _VARIABLES, cutoff=0.9) for name in found}
    return [f"{name} is no setting: {hint}" for name, hint in hints.items() if hint]


def _of_disk(error: OSError, options: argparse.Namespace) -> str:
    """One line about a disk or file that does not take, or give, what is to be kept."""
    place = error.filename or f"the home folder {read.home(options)}"
    hint = _MENDED.get(error.errno or 0, "see that it can be read and written, or name another")
    return f"{place}: {error.strerror or error}: {hint} (--home)"


def _parser() -> Parser:
    parser = Parser(
        prog="broker-config",
        description=_ABOUT,
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    home, federation, broker = _home(), _federation(), _broker()

    def command(name: str, about: str, *parents: Parser) -> Parser:
        return commands.add_parser(name, help=about, description=about, parents=[home, *parents])

    up = command("up", "Start a private RabbitMQ node, or find it running.", federation)
    up.add_argument(
        "--port", type=read.port, help="AMQP port (default: as before, else a free one)"
    )
    up.add_argument("--management-port", type=read.port, help="port of the management UI and API")
    up.add_argument(
        "--host", metavar="NAME", type=read.host,
        help="name or address by which other machines reach this one: lets them in, by AMQP alone,"
        " and goes into the bundles (remembered; default: no other machine is let in)",
    )  # fmt: skip
    up.add_argument(
        "--prometheus-port",
        type=read.optional_port,
        help="port of RabbitMQ's own metrics for Prometheus (remembered; default, or off: none)",
    )
    up.add_argument(
        "--nodes", type=int, metavar="N",
        help="a cluster of 3, 5 or 7 nodes on this machine, to try what happens without one of them"
        " (remembered; default: 1)",
    )  # fmt: skip
    up.add_argument(
        "--replace-lost", action="store_true",
        help="give up a node of the cluster whose folder is gone, and make another in its place",
    )  # fmt: skip
    up.add_argument("--server", metavar="SCRIPT", help="another rabbitmq-server to start")
    up.add_argument(
        "--foreground", action="store_true",
        help="stay, start again what ends of the node by itself, and stop it on SIGTERM or Ctrl-C;"
        " for services, see `install`",
    )  # fmt: skip
    tls = up.add_mutually_exclusive_group()
    tls.add_argument("--tls", dest="tls", action="store_const", const="tls",
                     help="encrypt all connections (remembered); makes certificates")  # fmt: skip
    tls.add_argument("--mutual-tls", dest="tls", action="store_const", const="mutual",
                     help="and users log in by certificate, without a password")  # fmt: skip
    tls.add_argument("--no-tls", dest="tls", action="store_const", const="",
                     help="neither any more")  # fmt: skip
    command("down", "Stop the private node; nothing of it is deleted.")
    add_flags(
        command("install", "Write warren-broker.service, so that systemd runs the private node.")
    )
    about = "Show the private node's state, ports and management URL."
    _add_json(command("status", about))
    apply = command("apply", "Bring a broker to the declared state.", federation, broker)
    apply.add_argument(
        "--reset-passwords",
        action="store_true",
        help="give users that have another password the one in HOME/credentials.json",
    )
    _add_json(command("check", "Print what differs from the declared state.", federation, broker))
    enrol = command("enrol", "Add clients and write their bundles.", federation, broker)
    enrol.add_argument("name", nargs="+", metavar="NAME", help="name of the client, also its user")
    _access(command, federation, broker)
    definitions = command("definitions", "Print the RabbitMQ definitions file.", federation)
    definitions.add_argument(
        "--password-hashes",
        action="store_true",
        help="include salted hashes of the passwords in HOME/credentials.json",
    )
    return parser


def _add_json(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="for programs: a JSON object a line")


def _access(
    command: Callable[..., Parser],
    federation: Parser,
    broker: Parser,
) -> None:
    certs = command("certs", "Make certificates for a broker of your own.", federation)
    certs.add_argument(
        "--host", metavar="NAME", action="append", default=[],
        help="name or address that the broker is reached by; repeatable",
    )  # fmt: skip
    certs.add_argument("--mutual", action="store_true", help="also one for each user")
    certs.add_argument("--renew", action="store_true", help="make new ones now, not when needed")
    revoke = command("revoke", "End clients' access at once: connections, mailboxes, user.", broker)
    revoke.add_argument("name", nargs="+", metavar="NAME", help="a client or fleet, or keeper")
    rotate = command("rotate", "Replace passwords; who logged in with the old is out.", broker)
    rotate.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="users, also coordinator, watcher, keeper (default: all)",
    )
    rotate.add_argument(
        "--keys",
        action="store_true",
        help="replace the coordinator's keys instead; the last ones stay good until the next time",
    )


def _home() -> Parser:
    parser = Parser(add_help=False)
    parser.add_argument(
        "--home", metavar="DIR", help="where everything is kept (default: $WARREN_HOME or .warren)"
    )
    return parser


def _federation() -> Parser:
    parser = Parser(add_help=False)
    group = parser.add_argument_group("the federation (remembered in HOME/federation.json)")
    group.add_argument("--federation", metavar="NAME", help="its name and vhost (default: warren)")
    group.add_argument(
        "--client", metavar="NAME", action="append", help="a site with its own user; repeatable"
    )
    group.add_argument(
        "--fleet",
        metavar="NAME:SIZE",
        type=read.fleet,
        action="append",
        help="SIZE replicas that share a user; repeatable (default, if nothing else: client:20)",
    )
    group.add_argument(
        "--model-bytes",
        metavar="SIZE",
        type=read.size,
        help="size of the model's weights, like 64MiB (the default); sets the mailboxes' length",
    )
    group.add_argument(
        "--encrypt-updates",
        action=argparse.BooleanOptionalAction,
        help="clients encrypt what they send, so that only the coordinator can read it",
    )
    group.add_argument(
        "--keeper",
        metavar="LINE",
        type=read.keeper,
        help="secure aggregation with this keeper: the line that `keeper-worker keys` prints at its"
        " organisation; implies --encrypt-updates; none takes it away",
    )
    return parser


def _broker() -> Parser:
    parser = Parser(add_help=False)
    group = parser.add_argument_group("the broker (default: the private node in HOME)")
    group.add_argument(
        "--on",
        metavar="DIR",
        help="the broker of another home, its passwords too, for a federation beside the one there"
        " (remembered)",
    )
    group = parser.add_argument_group("a broker of your own")
    group.add_argument(
        "--management-url",
        metavar="URL",
        help="http[s]://user@host:port; its password belongs in WARREN_MANAGEMENT_PASSWORD",
    )
    group.add_argument(
        "--amqp-address",
        metavar="URL",
        action="append",
        help="how workers reach it: amqps://host:port, or all nodes of a cluster, with commas"
        " between them (remembered; default: amqp://, the same hosts, port 5672)",
    )
    group.add_argument(
        "--ca",
        metavar="FILE",
        type=Path,
        help="PEM certificate of the authority that vouches for it; goes into the bundles"
        " (remembered)",
    )
    group.add_argument(
        "--client-certificates",
        action=argparse.BooleanOptionalAction,
        help="users log in by certificates of `broker-config certs` instead of passwords"
        " (remembered)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
