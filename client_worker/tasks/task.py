"""A task: model + data, brought by the user and found by import path."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from client_worker.client import FederatedClient
from client_worker.models.tensorflow_log import without_greetings
from client_worker.settings import ClientSettings
from client_worker.tasks.code import code_of
from client_worker.tasks.failures import one_line, reason_of, where
from client_worker.training.update_rules import UpdateRule, replace
from warren_shared.config.command_line import flag_of, flags, nearest
from warren_shared.config.import_path import is_own, load
from warren_shared.config.validation_messages import complaint
from warren_shared.errors import ConfigError, WarrenError
from warren_shared.naming import user_of
from warren_shared.tensors.layout import Array
from warren_shared.tensors.update import Update

OnModel = Callable[[int, Mapping[str, Array]], object]
OnTrained = Callable[[Update], object]
OnFinished = Callable[[Mapping[str, Array]], object]
HOOKS: Final = ("on_model", "on_trained", "on_finished")

_OPEN: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass
class Task:
    """What a user brings: a model, the data of this client, and how fast to learn.

    The fields are those of FederatedClient: ``model`` is a Keras model or any TrainableModel.

    The hooks are called by the client worker on its main thread, and a subclass may have them as
    methods: ``on_model(version, weights)`` before training from a global model, and with the last
    one; ``on_trained(update)`` after training, before the update is sent; ``on_finished(weights)``
    when the model has taken over the run's last weights. ``weights`` are arrays by name of the
    tensor, in the model's order. All arrays are read-only: what is changed here would reach nobody.
    What a hook raises is a failure of the task, which is tried again like a failure of ``fit``.
    """

    model: Any
    data: Any
    learning_rate: float = 0.1
    validation: Any = None
    num_examples: int | None = None
    update_rule: UpdateRule = replace
    local: Sequence[str | int] = ()
    ditto: float = 0.0
    record_privacy: str | None = None
    on_model: OnModel | None = None
    on_trained: OnTrained | None = None
    on_finished: OnFinished | None = None

    def __post_init__(self) -> None:
        # A hook that was not given may be a method of a subclass, which None would hide.
        for name in HOOKS:
            if vars(self)[name] is None:
                del vars(self)[name]

    def client(self) -> FederatedClient:
        """The client of federated learning that this task makes."""
        return FederatedClient(
            self.model,
            self.data,
            self.learning_rate,
            validation=self.validation,
            num_examples=self.num_examples,
            update_rule=self.update_rule,
            local=self.local,
            ditto=self.ditto,
            record_privacy=self.record_privacy,
        )


class TaskSource:
    """A task by its import path ``package.module:attribute``, and the arguments it is made with.

    The attribute is a Task, or a function that returns one; such a function's parameters are the
    task's own command line flags (``shard: int`` is ``--shard 3``). What the command line leaves
    open, the federation's config may fill in: a coordinator started with ``--config seed=7`` makes
    every client's task with ``seed=7``. ``code`` is the version of its code
    (`client_worker.tasks.code`), as it was imported; empty if that is in no file.
    """

    code: str = ""

    def __init__(
        self,
        path: str,
        arguments: Sequence[str],
        attribute: Task | Callable[..., Task] | None = None,
    ) -> None:
        self.path = path
        self._attribute = _find(path) if attribute is None else attribute
        if attribute is None:
            self.code = code_of(path.partition(":")[0])
        elif not isinstance(attribute, Task):
            self.code = code_of(getattr(attribute, "__module__", "") or "")
        self._parameters = _parameters(self._attribute)
        self._given = self._parse(arguments)

    @classmethod
    def of(cls, attribute: Task | Callable[..., Task], arguments: Mapping[str, Any]) -> Self:
        """A task that is here already; what it is made with are values, not words."""
        source = cls(getattr(attribute, "__qualname__", type(attribute).__name__), (), attribute)
        for name, value in arguments.items():
            if name not in source._parameters:
                raise ConfigError(source._unknown(flag_of(name)))
            source._given[name] = value
        return source

    def check_place(self, settings: ClientSettings) -> None:
        """Raise ConfigError if the command line names the shard, and the place in a fleet too.

        Every replica would train on the same data, and it would count as often as there are some.
        """
        shard = self._given.get("shard")
        if shard is not None and shard != settings.place and (settings.fleet or settings.place):
            fleet = settings.fleet or user_of(settings.client or "")
            raise ConfigError(
                f"--shard {shard}: in a fleet the place is the shard: leave --shard out, or ask"
                f" for the place with --client {fleet}.{shard}"
            )

    def takes(self, name: str) -> bool:
        """Whether the task has a parameter ``name`` that the command line left open."""
        return name in self._parameters and name not in self._given

    def arguments(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What the task is made with: the command line, then ``config``."""
        filled = {name: self._typed(name, config[name]) for name in config if self.takes(name)}
        return filled | self._given

    def make(self, arguments: Mapping[str, Any]) -> Task:
        """Make the task. Raises ConfigError if an argument or its data is missing."""
        if isinstance(self._attribute, Task):
            return self._attribute
        needed = [
            f"--{name.replace('_', '-')}"
            for name, parameter in self._parameters.items()
            if parameter.kind not in _OPEN
            and parameter.default is parameter.empty
            and name not in arguments
        ]
        if needed:
            raise ConfigError(f"the task {self.path} needs {', '.join(needed)}")
        try:
            task = self._attribute(**arguments)
        except WarrenError:
            raise
        except (OSError, ValueError) as error:
            said = f"the task {self.path} cannot be made: {one_line(error)}{where(error)}"
            raise ConfigError(said) from error
        if not isinstance(task, Task):
            raise ConfigError(f"{self.path} returned {type(task).__name__}, not a Task")
        return task

    def _parse(self, words: Sequence[str]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        rest = list(words)
        while rest:
            flag, equals, text = rest.pop(0).partition("=")
            name = flag.removeprefix("--").replace("-", "_")
            if not flag.startswith("--") or name not in self._parameters:
                raise ConfigError(self._unknown(flag))
            if not equals:
                if not rest:
                    raise ConfigError(f"{flag} needs a value")
                text = rest.pop(0)
            given[name] = self._typed(name, text)
        return given

    def _unknown(self, flag: str) -> str:
        own = [flag_of(name) for name in self._parameters]
        guess = nearest(flag, [*own, *flags(ClientSettings)])
        takes = f"the task {self.path} takes {', '.join(own) or 'none'}"
        said = f"{guess} {takes}" if guess else takes
        return f"unknown argument {flag}: {said}; for the worker's own see --help"

    def _typed(self, name: str, value: Any) -> Any:
        annotation = self._parameters[name].annotation
        if annotation is inspect.Parameter.empty:
            return value
        try:
            adapter = TypeAdapter(annotation)
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            said = (
                f"{flag_of(name)}: the task's annotation {annotation!r} is no type that a flag can"
            )
            raise ConfigError(f"{said} have: use str, int, float, bool or Path") from error
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            said = complaint(flag_of(name), error.errors(include_url=False)[0])
            raise ConfigError(said) from None


def _find(path: str) -> Any:
    found = load(
        path, "--task", _may_be_task, around=without_greetings, reason=reason_of,
        action="task_failed",
    )  # fmt: skip
    if not isinstance(found, Task) and not callable(found):
        raise ConfigError(f"--task {path}: it is neither a Task nor a function that returns one")
    return found


def _may_be_task(value: object, module: str) -> bool:
    return isinstance(value, Task) or is_own(value, module)


def _parameters(attribute: Task | Callable[..., Task]) -> dict[str, inspect.Parameter]:
    if isinstance(attribute, Task):
        return {}
    try:
        signature = inspect.signature(attribute, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        named = getattr(attribute, "__name__", "the task")
        raise ConfigError(f"{named}: an annotation of its parameters cannot be evaluated:"
                          f" {one_line(error)}; import that name at the top of the file, not only"
                          " for type checkers") from error  # fmt: skip
    except ValueError:  # a callable without a signature has no flags
        return {}
    return dict(signature.parameters)
