"""Settings of a worker: flags, environment (``WARREN_…``), ``--env-file``, ``--settings`` file.

One pydantic model names each setting once; flag, environment variable, key in the settings file and
help come from it.
"""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar

from dotenv import dotenv_values
from pydantic import (
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
)

from warren_shared.amqp.broker_url import BrokerUrl
from warren_shared.amqp.proxy import NONE, Proxy
from warren_shared.config import bundle_owner, command_line, settings_file, unknown_env
from warren_shared.config.settings_model import Settings, in_bundle, in_environment
from warren_shared.config.validation_messages import complaint
from warren_shared.errors import ConfigError
from warren_shared.naming import COORDINATOR_USER, WATCHER_USER
from warren_shared.tls import Broker

_VARIABLE: Final = re.compile(r"\$\{(\w*)")


class WorkerSettings(Settings):
    """What all workers are told."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "the broker": (
            "broker_url",
            "ca",
            "tls_certificate",
            "tls_key",
            "token_file",
            "proxy",
            "wait_broker_s",
        ),
        "as a service": ("ready_file", "log_format", "log_level"),
    }

    # The kind of bundle that this program takes, and what to call the program; "": any.
    BUNDLE_OF: ClassVar[tuple[str, str]] = ("", "")

    _unknown_settings: tuple[str, ...] = PrivateAttr(())

    broker_url: str = Field(
        description="the broker, as amqp://user:password@host:port/federation; the user is who"
        " you are, the vhost is the federation. Better in the environment or the --env-file that"
        " `broker-config` wrote than on the command line, where others can read it"
    )
    ca: str | None = Field(
        None,
        description="certificate authority that vouches for an amqps:// broker, as a PEM file or as"
        " a bundle has it (default: those that the system trusts)",
    )
    tls_certificate: str | None = Field(
        None,
        description="our own certificate, for a broker that knows its users by theirs; a PEM file"
        " or as a bundle has it",
    )
    tls_key: SecretStr | None = Field(None, description="its private key, in the same ways")
    spare_mailboxes: bool = Field(
        False,
        description="the broker is a cluster in which each client has a second mailbox, on another"
        " node; a bundle of `broker-config` says so",
    )
    token_file: Path | None = Field(
        None,
        description="file with an OAuth2 access token, which is the password; read again when it is"
        " renewed, which another program does",
    )
    proxy: str | None = Field(
        None,
        description="proxy that leads to the broker, as http://host:port (it is asked to CONNECT)"
        " or socks5://host:port, with user:password@ before the host where it wants a login; better"
        " in the environment then. none: go straight (default: https_proxy for amqps://, all_proxy"
        " and no_proxy of the environment)",
    )
    wait_broker_s: float = Field(
        10.0, ge=0, description="how long to wait at the start for a broker that does not answer"
    )
    ready_file: Path | None = Field(
        None, description="a file that exists while this worker is connected (for health checks)"
    )
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or tools")
    log_level: Literal["DEBUG", "INFO", "WARNING"] = Field("INFO", description="how much to log")

    @field_validator("broker_url")
    @classmethod
    def _can_be_split(cls, url: str) -> str:
        try:
            BrokerUrl.parse(url)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return url

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, url: str | None) -> str | None:
        try:
            if url and url.strip().lower() != NONE:
                Proxy.parse(url)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return url

    @staticmethod
    def secret(value: SecretStr | None) -> str | None:
        """What a secret setting holds."""
        return value.get_secret_value() if value is not None else None

    @classmethod
    def of_this_worker(cls, environment: dict[str, Any]) -> dict[str, Any]:
        """``environment`` without what another worker on this machine left in it."""
        return environment

    def note_unknown_settings(self, lines: list[str]) -> None:
        """Remember what the environment has that was meant as a setting and is none."""
        self._unknown_settings = tuple(lines)

    @property
    def unknown_settings(self) -> tuple[str, ...]:
        """Lines about variables that are no settings, though they look as if they should be."""
        return self._unknown_settings

    @property
    def broker(self) -> Broker:
        """Where the broker is and how to log in."""
        key = self.secret(self.tls_key) or ""
        told = (self.broker_url, self.ca or "", self.tls_certificate or "", key)
        token_file = str(self.token_file) if self.token_file else ""
        return Broker(*told, proxy=self.proxy or "", token_file=token_file)

    @property
    def user(self) -> str:
        """The broker user that the URL names."""
        return BrokerUrl.parse(self.broker_url).user or "guest"

    @property
    def federation(self) -> str:
        """The federation's name, which is the broker URL's vhost."""
        return BrokerUrl.parse(self.broker_url).vhost


S = TypeVar("S", bound=Settings)


class WatcherSettings(WorkerSettings):
    """What those who watch are told."""

    BUNDLE_OF = (WATCHER_USER, "who watches")


class StaffSettings(WorkerSettings):
    """What commands that look into the coordinator's queues are told."""

    BUNDLE_OF = (COORDINATOR_USER, "this command")


def load(
    kind: type[S],
    *,
    description: str,
    argv: list[str],
    keep_unknown: bool = False,
    own: argparse.ArgumentParser | None = None,
    commands: Mapping[str, str] | None = None,
) -> tuple[S, list[str]]:
    """Settings from ``argv``, the environment and files, and the arguments that were not ours.

    Those begin with what the settings file has for the task, so that the command line, which
    comes later, goes before it. ``own`` has a subcommand's flags that no environment may set;
    they are in the help, and ``own_words`` reads them. ``commands`` are listed in the help.

    Raises ConfigError with one line about the first thing that is wrong.
    """
    known, rest = command_line.parser(kind, description, own, commands).parse_known_args(argv)
    if rest and not keep_unknown:
        raise command_line.unknown_option(rest[0], command_line.flags(kind))
    given = {name: value for name, value in vars(known).items() if value is not None}
    path = given.pop("settings", None) or os.environ.get("WARREN_SETTINGS")
    found = (
        settings_file.read(path, kind, WorkerSettings.model_fields)
        if path
        else settings_file.SettingsFile()
    )
    bundle = given.pop("env_file", None) or os.environ.get("WARREN_ENV_FILE")
    bundle = bundle or found.values.pop("env_file", None)
    if bundle and not os.access(bundle, os.R_OK):
        raise ConfigError(f"--env-file {bundle} cannot be read: name the bundle you were given")
    environment = _in_bundle(kind, bundle) | in_environment(kind)
    if issubclass(kind, WorkerSettings):
        environment = kind.of_this_worker(environment)
    names = [*os.environ, *unknown_env.names_in(bundle)]
    try:
        made = kind(**(found.values | environment | given))
    except ValidationError as error:
        wrong = unknown_env.by_setting(kind, names, rest)
        raise _first_of(error, found.places, environment | given, wrong) from None

    if isinstance(made, WorkerSettings):
        allowed, whose = made.BUNDLE_OF
        if allowed:
            given_to = bundle_owner.variables(bundle)
            bundle_owner.refuse_others(made.user, given_to, allowed=allowed, whose=whose)
        made.note_unknown_settings(unknown_env.warnings(kind, names))
    return made, [*found.task, *rest]


def made(kind: type[S], values: Mapping[str, Any]) -> S:
    """Settings from ``values`` alone; raises ConfigError, one line about the first wrong one."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise _first_of(error, {}, values, {}) from None


def _in_bundle(kind: type[Settings], bundle: str | Path | None) -> dict[str, Any]:
    """What ``bundle`` sets; an editor may have put a byte-order mark before it."""
    if not bundle:
        return {}
    try:
        found = in_bundle(kind, bundle, encoding="utf-8-sig")
        raw = dotenv_values(bundle, encoding="utf-8-sig", interpolate=False)
    except UnicodeDecodeError:
        raise ConfigError(
            f"--env-file {bundle} is no text in UTF-8: use it as it was written"
        ) from None
    except OSError as error:
        raise ConfigError(f"--env-file {bundle} cannot be read: {error.strerror}") from None
    url = raw.get("WARREN_BROKER_URL")
    if url and any(name not in os.environ and name not in raw for name in _VARIABLE.findall(url)):
        found["broker_url"] = url  # what looks like a variable is a piece of the password
    return found


def own_words(
    own: argparse.ArgumentParser, kind: type[Settings], argv: list[str]
) -> argparse.Namespace:
    """What a subcommand's ``own`` flags are in ``argv``, beside those of ``kind``."""
    both = command_line.Parser(parents=[own], add_help=False, allow_abbrev=False)
    command_line.add(both, kind)  # or the value of one of them would be taken for a word of our own
    return both.parse_known_args(argv)[0]


def _first_of(
    error: ValidationError,
    places: Mapping[str, str],
    elsewhere: Mapping[str, object],
    misspelt: Mapping[str, str],
) -> ConfigError:
    """One line about the first thing that is wrong, in the words of where it was read."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "missing":
        flag = command_line.flag_of(name)
        hint = f": you wrote {misspelt[name]}" if name in misspelt else "; see --help"
        if name == "broker_url" and name not in misspelt:
            hint = ": name the bundle that `broker-config` wrote for you with --env-file"
        return ConfigError(f"{flag} (or WARREN_{name.upper()}) is needed{hint}")
    if not name:
        return ConfigError(first["msg"].removeprefix("Value error, "))
    place = places[name] if name in places and name not in elsewhere else command_line.flag_of(name)
    return ConfigError(complaint(place, first))
