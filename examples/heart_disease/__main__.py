"""Four real hospitals: ``python -m warren_examples.heart_disease --data FOLDER``."""

import sys

from warren_examples.heart_disease import HOSPITALS, WHERE
from warren_examples.stage.command import main_with_data
from warren_examples.stage.study import Study


def study(folder: str) -> Study:
    """The comparison over the hospitals' files in ``folder``."""
    return Study(
        title="Heart disease at four hospitals",
        description="740 patients of the UCI heart disease data at the hospitals that treated"
        " them. Question: is there any heart disease?",
        names=HOSPITALS,
        module="warren_examples.heart_disease.task",
        arguments=lambda number: ["--data", folder, "--hospital", HOSPITALS[number]],
        rounds=20,
        epochs=2,
        learning_rate=0.05,
        options={"data": folder},
    )


def start(argv: list[str]) -> int:
    """Take ``--data FOLDER`` out of the arguments and run the study."""
    files = [f"processed.{hospital}.data" for hospital in HOSPITALS]
    return main_with_data(study, files, WHERE, out="runs/heart-disease", argv=argv)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
