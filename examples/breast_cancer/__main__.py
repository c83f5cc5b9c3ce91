"""The main demonstration: ``coordinator-worker demo``, which ``make demo`` runs in a checkout."""

import sys

from warren_examples.stage.command import main, parser, run
from warren_examples.stage.study import Study

STUDY = Study(
    title="Breast cancer at four clinics",
    description="569 patients of the Wisconsin study, split over four clinics of unequal size and"
    " case mix. Question: is the tumour malignant?",
    names=("screening-centre", "city-hospital", "university-hospital", "tumour-centre"),
    module="warren_examples.breast_cancer.task",
    arguments=lambda number: ["--clinic", str(number)],
    rounds=20,
    epochs=2,
    learning_rate=0.3,
)

OUT = "runs/demo"


def demo(argv: list[str]) -> None:
    """Run it as the command does."""
    run(STUDY, parser(STUDY, OUT, "coordinator-worker demo").parse_args(argv))


if __name__ == "__main__":
    sys.exit(main(STUDY, out=OUT))
