"""What a federation is told from Python: the coordinator's settings by name, and its clients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from client_worker.tasks.task import Task
from coordinator_worker.runtime.resources import RunRules
from coordinator_worker.settings import CoordinatorSettings
from warren_shared.config.command_line import flag_of, nearest
from warren_shared.config.settings import made
from warren_shared.config.settings_model import Settings
from warren_shared.errors import ConfigError

FLEET: Final = "client"
# Who logs in where, and how the process behaves, is said by the bundle and by us.
OURS: Final = frozenset(
    {"broker_url", "ca", "tls_certificate", "tls_key", "token_file", "spare_mailboxes", "clients"}
    | {"signing_keys", "decrypt_keys", "keeper_key", "keeper_verify_key", "parent", "ready_file"}
    | {"log_format", "log_level", "listen"}
)
_PLACE: Final = "amqp://coordinator@localhost/warren"  # nothing connects to it

MadeTask = str | Task | Callable[..., Task]
Clients = int | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class Site:
    """One client: its id, its task, and what that is made with beside the run's config."""

    name: str
    task: MadeTask
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> int | None:
        """Which slot of a fleet this is; None of a client with a user of its own."""
        number = self.name.partition(".")[2]
        return int(number) if number else None


def sites(task: MadeTask | None, clients: Clients, fleet: str = FLEET) -> list[Site]:
    """The clients, of which each has ``task`` unless it brings its own.

    Args:
        task: import path, Task, or callable that returns one.
        clients: how many, who then are the slots of ``fleet`` and whose tasks get ``shard``; or of
            each client its task or its task's arguments, by name or in a sequence.
        fleet: name of the fleet.

    Raises:
        ConfigError: a client has no task, or something that is none.
    """
    if isinstance(clients, bool) or not isinstance(clients, int | Mapping | Sequence):
        raise ConfigError(
            f"clients={clients!r}: a number, or a mapping or a sequence of tasks or arguments"
        )
    if isinstance(clients, str):
        raise ConfigError(f"clients={clients!r}: a string is no sequence of clients; put it in [ ]")
    if isinstance(clients, int):
        if clients < 0:
            raise ConfigError(f"clients={clients}: 0 or more")
        return [Site(f"{fleet}.{n}", _checked(task, "task")) for n in range(clients)]
    if not isinstance(clients, Mapping):
        clients = {f"{FLEET}-{number}": given for number, given in enumerate(clients)}
    return [_site(name, task, given) for name, given in clients.items()]


def _site(name: str, task: MadeTask | None, given: Any) -> Site:
    if isinstance(given, Mapping):
        return Site(name, _checked(task, "task"), dict(given))
    if given is None:
        return Site(name, _checked(task, "task"))
    return Site(name, _checked(given, f"clients: {name}"))


def _checked(task: Any, named: str) -> MadeTask:
    if task is None:
        raise ConfigError("task: what to train, as package.module:attribute or a callable")
    if not isinstance(task, str | Task) and not callable(task):
        raise ConfigError(f"{named}: {type(task).__name__} is no import path, Task or callable")
    found: MadeTask = task
    return found


def in_processes(all_sites: Sequence[Site]) -> None:
    """Raise ConfigError if a task cannot be made in another process."""
    for site in all_sites:
        if not isinstance(site.task, str):
            named = getattr(site.task, "__qualname__", type(site.task).__name__)
            raise ConfigError(
                f"the task {named} exists in this process only, and clients are processes of their"
                " own: put it in a module and give its import path, as module:attribute, or use"
                ' workers="threads"'
            )


def check(
    given: Mapping[str, Any], clients: int, total: int | None, *, has_bundle: bool
) -> dict[str, Any]:
    """``given`` as the coordinator's settings take it, having checked all of it.

    Without ``quorum`` a round takes an update of each of the ``clients`` here. ``total``: how many
    the federation has, if that is known. ``has_bundle``: the coordinator gets keys that are not
    known here.

    Raises:
        ConfigError: in one line what is wrong.
    """
    for name in given:
        if name not in CoordinatorSettings.model_fields or name in OURS:
            known = sorted(set(CoordinatorSettings.model_fields) - OURS)
            hint = nearest(name, known) or "its settings are the coordinator's (docs/settings.md)"
            raise ConfigError(f"Federation takes no {name}: {hint}")
    told = {"metrics_port": 0, **given}
    if clients:
        told.setdefault("quorum", clients)
    if isinstance(config := told.get("config"), Mapping):
        told["config"] = tuple(f"{name}={_word(value)}" for name, value in config.items())
    elif config is not None and not isinstance(config, str):
        told["config"] = tuple(config)
    settings = made(CoordinatorSettings, {"broker_url": _PLACE, "clients": total, **told})
    if settings.secure is not None and not has_bundle:
        raise ConfigError(
            "secure needs a keeper, which another organisation runs: use a broker that has one, by"
            " the folder of its bundles (broker=FOLDER)"
        )
    waits_for_rounds = settings.privacy is not None and settings.rounds is None  # as `run` says
    if settings.secure is None and not waits_for_rounds:
        RunRules.from_settings(settings)
    return told


def words(kind: type[Settings], given: Mapping[str, Any]) -> list[str]:
    """``given`` on a command line."""
    found = []
    for name, value in given.items():
        flag = flag_of(name)
        if value is None:
            continue
        if kind.model_fields[name].annotation is bool:
            found.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif isinstance(value, tuple | list):
            found += [f"{flag}={_word(each)}" for each in value]
        else:
            found.append(f"{flag}={_word(value)}")
    return found


def task_words(arguments: Mapping[str, Any]) -> list[str]:
    """A task's arguments on a command line."""
    return [f"{flag_of(name)}={_word(value)}" for name, value in arguments.items()]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
