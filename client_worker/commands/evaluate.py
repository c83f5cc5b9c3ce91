"""``client-worker evaluate``: what a model is worth on a task's validation data."""

from client_worker.evaluate import EvaluateSettings, evaluate
from warren_shared import strict_json
from warren_shared.config import settings

ABOUT = (
    "Print what a model is worth on the validation data of a task, as a JSON object of figures."
    " Flags that are not listed below belong to the task."
)


def run(argv: list[str]) -> None:
    """Print the figures."""
    given, rest = settings.load(EvaluateSettings, description=ABOUT, argv=argv, keep_unknown=True)
    print(strict_json.dumps(evaluate(given, rest)))  # noqa: T201
