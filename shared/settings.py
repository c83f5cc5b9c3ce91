"""Settings of a worker: flags, then environment (``WARREN_…``), then the ``--env-file``.

One pydantic model names each setting once; flag, environment variable and help come from it.
"""

import argparse
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import ConfigError
from shared.tls import Broker

Words = Annotated[tuple[str, ...], NoDecode]  # a flag that may be given more than once


class WorkerSettings(BaseSettings):
    """What both workers are told."""

    model_config = SettingsConfigDict(env_prefix="WARREN_", extra="ignore")

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
        urlsplit(url)
        return url

    @staticmethod
    def secret(value: SecretStr | None) -> str | None:
        """What a secret setting holds."""
        return value.get_secret_value() if value is not None else None

    @property
    def broker(self) -> Broker:
        """Where the broker is and how to log in."""
        key = self.secret(self.tls_key) or ""
        return Broker(self.broker_url, self.ca or "", self.tls_certificate or "", key)

    @property
    def user(self) -> str:
        """The broker user that the URL names."""
        return unquote(urlsplit(self.broker_url).username or "guest")

    @property
    def federation(self) -> str:
        """The federation's name, which is the broker URL's vhost."""
        return unquote(urlsplit(self.broker_url).path.removeprefix("/")) or "/"


S = TypeVar("S", bound=BaseSettings)


def load(
    kind: type[S],
    *,
    description: str,
    argv: list[str],
    keep_unknown: bool = False,
    own: argparse.ArgumentParser | None = None,
) -> tuple[S, list[str]]:
    """Settings from ``argv`` and the environment, and the arguments that were not ours.

    ``own`` has a subcommand's flags that no environment may set; they are in the help, and it is
    for the caller to parse them.

    Raises ConfigError with one line about the first thing that is wrong.
    """
    parser = _parser(kind, description, own)
    if keep_unknown:
        known, unknown = parser.parse_known_args(argv)
    else:
        known, unknown = parser.parse_args(argv), []
    given = {name: value for name, value in vars(known).items() if value is not None}
    env_file = given.pop("env_file", None) or os.environ.get("WARREN_ENV_FILE")
    if env_file and not os.access(env_file, os.R_OK):
        raise ConfigError(f"--env-file {env_file} cannot be read: name the bundle you were given")
    try:
        return kind(_env_file=env_file, **given), unknown
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        flag = name.replace("_", "-")
        if first["type"] == "missing":
            raise ConfigError(
                f"--{flag} (or WARREN_{name.upper()}) is needed; see --help"
            ) from None
        said = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"--{flag}: {said}" if flag else said) from None


def _parser(
    kind: type[BaseSettings], description: str, own: argparse.ArgumentParser | None
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=own.prog if own else None,
        description=description,
        allow_abbrev=False,
        parents=[own] if own else [],
    )
    parser.add_argument(
        "--env-file", metavar="FILE", help="read settings from FILE, lines of WARREN_NAME=value"
    )
    for name, field in kind.model_fields.items():
        if SecretStr in get_args(field.annotation):
            continue  # everybody can read a command line
        flag = "--" + name.rstrip("_").replace("_", "-")  # json_: a model has a method json
        text = f"{field.description}{_default(field)}".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(flag, action="store_true", default=None, dest=name, help=text)
        elif str in get_args(field.annotation) and ... in get_args(field.annotation):
            parser.add_argument(flag, action="append", metavar="NAME=VALUE", help=text)
        else:
            options = get_args(field.annotation) if _is_choice(field) else ()
            metavar = "|".join(options) or name.split("_")[-1].upper()
            parser.add_argument(flag, metavar=metavar, help=text)
    return parser


def _is_choice(field: FieldInfo) -> bool:
    return all(isinstance(option, str) for option in get_args(field.annotation) or (0,))


def _default(field: FieldInfo) -> str:
    default: Any = field.get_default()
    return "" if default in (None, (), False) or field.is_required() else f" (default: {default})"
