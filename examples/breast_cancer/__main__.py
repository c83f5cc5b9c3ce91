"""The main demonstration: ``python -m examples.breast_cancer``, which ``make demo`` runs."""

import sys

from examples.stage.command import main
from examples.stage.study import Study

STUDY = Study(
    title="Breast cancer at four clinics",
    description="569 patients of the Wisconsin study, split over four clinics of unequal size and"
    " case mix. Question: is the tumour malignant?",
    names=("screening-centre", "city-hospital", "university-hospital", "tumour-centre"),
    module="examples.breast_cancer.task",
    arguments=lambda number: ["--clinic", str(number)],
    rounds=20,
    epochs=2,
    learning_rate=0.3,
)

if __name__ == "__main__":
    sys.exit(main(STUDY, out="runs/demo"))
