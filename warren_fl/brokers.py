"""Where a federation's broker is: a private one for as long as it lasts, or one that is there."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from dotenv import dotenv_values

from broker_config.declaration.federation import Federation as Declared
from broker_config.declaration.federation import Fleet
from broker_config.node import lifecycle
from broker_config.secrets.bundles import bundle_path
from warren_fl.settings import FLEET, Site
from warren_shared.amqp.broker_url import BrokerUrl
from warren_shared.errors import ConfigError
from warren_shared.naming import COORDINATOR_USER

MODEL_BYTES: Final = 1 << 30  # a bound of mailboxes, not what they take


class Broker(Protocol):
    """A broker, and how each of us logs in."""

    def start(self) -> None:
        """Begin to make it available, without waiting for that."""
        ...

    def wait(self) -> None:
        """Return when workers may connect."""
        ...

    def stop(self) -> None:
        """Take down what was started."""
        ...

    def login(self, user: str) -> list[str]:
        """The words of a worker's command line that say where it logs in as ``user``."""
        ...

    def bundle(self, user: str) -> Path:
        """The file that says it."""
        ...


class PrivateBroker:
    """A RabbitMQ of our own in ``folder``, started and stopped on threads of ours.

    On threads, because `lifecycle` holds signals off while it works on the main thread.
    """

    def __init__(self, folder: Path, sites: Sequence[Site], model_bytes: int = MODEL_BYTES) -> None:
        self._home = folder / "broker"
        places = [site for site in sites if site.place is not None]
        self._declared = Declared(
            clients=tuple(site.name for site in sites if site.place is None),
            fleets=(Fleet(FLEET, len(places)),) if places else (),
            model_bytes=model_bytes,
        )
        self._failure: BaseException | None = None
        self._starter = threading.Thread(target=self._start, name="broker")

    def start(self) -> None:
        """Start the node."""
        self._home.mkdir(parents=True, exist_ok=True)
        self._starter.start()

    def _start(self) -> None:
        try:
            lifecycle.up(self._home, self._declared)
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            self._failure = error

    def wait(self) -> None:
        """Return when the node answers; raises BrokerConfigError if it does not start."""
        self._starter.join()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop the node, whether or not it is ready yet."""
        if self._starter.ident is not None:
            self._starter.join()
            lifecycle.down(self._home)

    def login(self, user: str) -> list[str]:
        """Its bundle."""
        return [f"--env-file={self.bundle(user)}"]

    def bundle(self, user: str) -> Path:
        """In the node's home."""
        return bundle_path(self._home, user)


@dataclass(frozen=True)
class BundleFolder:
    """A broker that is there, by the bundles that `broker-config` wrote for it."""

    folder: Path

    @classmethod
    def of(cls, path: str | Path) -> "BundleFolder":
        """The bundles in ``path``, or in ``path/bundles``; raises ConfigError if there are none."""
        for folder in (Path(path), Path(path) / "bundles"):
            if (folder / f"{COORDINATOR_USER}.env").is_file():
                return cls(folder.resolve())
        raise ConfigError(
            f"broker={str(path)!r} holds no {COORDINATOR_USER}.env: give the folder with the"
            " bundles that `broker-config` wrote, or an amqps:// URL"
        )

    def fleet(self, clients: int) -> str:
        """The name of a fleet of the coordinator's federation whose bundle is here."""
        ours = _vhost(self.folder / f"{COORDINATOR_USER}.env")
        for path in sorted(self.folder.glob("*.env")):
            if dotenv_values(path).get("WARREN_FLEET") == path.stem and _vhost(path) == ours:
                return path.stem
        raise ConfigError(
            f"clients={clients}: {self.folder} holds the bundle of no fleet; name clients,"
            " as clients={name: arguments}"
        )

    @property
    def places(self) -> int:
        """How many clients the federation has."""
        told = dotenv_values(self.bundle(COORDINATOR_USER)).get("WARREN_CLIENTS") or "0"
        return int(told) if told.isdecimal() else 0

    def start(self) -> None:
        """It is there."""

    def wait(self) -> None:
        """It is there."""

    def stop(self) -> None:
        """It stays."""

    def login(self, user: str) -> list[str]:
        """Its bundle."""
        return [f"--env-file={self.bundle(user)}"]

    def bundle(self, user: str) -> Path:
        """In the folder; raises ConfigError if it is not there, or of another federation."""
        path = self.folder / f"{user}.env"
        if not path.is_file():
            raise ConfigError(f"{path} is not there: `broker-config` writes the bundle of {user}")
        ours, theirs = _vhost(self.folder / f"{COORDINATOR_USER}.env"), _vhost(path)
        if theirs != ours:
            raise ConfigError(
                f"{path} is of federation {theirs}, and the coordinator's bundle of {ours}:"
                f" `broker-config apply` writes that of {user} anew"
            )
        return path


def _vhost(bundle: Path) -> str:
    url = dotenv_values(bundle).get("WARREN_BROKER_URL") or ""
    return BrokerUrl.parse(url, ("amqp", "amqps")).vhost


class CoordinatorUrl:
    """A broker that is there, by the coordinator's URL; its clients are not ours."""

    def __init__(self, url: str, folder: Path, clients: int) -> None:
        if clients:
            raise ConfigError(
                f"clients={clients} with a URL for broker: it is the login of one user, and each"
                " client needs its own: give the folder with the bundles, or clients=0 for clients"
                " that run elsewhere"
            )
        self._bundle = folder / f"{COORDINATOR_USER}.env"
        self._url = url

    def start(self) -> None:
        """Write the URL down: no secret stands on a command line."""
        from warren_shared.files import write_private

        write_private(self._bundle, f"WARREN_BROKER_URL={self._url}\n")

    def wait(self) -> None:
        """It is there."""

    def stop(self) -> None:
        """It stays."""

    def login(self, user: str) -> list[str]:
        """The file with the URL."""
        return [f"--env-file={self.bundle(user)}"]

    def bundle(self, user: str) -> Path:
        """The coordinator's alone."""
        if user != COORDINATOR_USER:
            raise ConfigError(f"the URL is the coordinator's, not {user}'s")
        return self._bundle
