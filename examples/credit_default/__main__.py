"""Four banks: ``python -m warren_examples.credit_default --data FOLDER``."""

import sys

from warren_examples.credit_default import BANKS, FILE, WHERE
from warren_examples.stage.command import main_with_data
from warren_examples.stage.study import Study


def study(folder: str) -> Study:
    """The comparison over the file in ``folder``."""
    return Study(
        title="Credit default at four banks",
        description="30,000 credit card holders in Taiwan, at banks whose customers differ in their"
        " education. Question: will the next payment be missed?",
        names=BANKS,
        module="warren_examples.credit_default.task",
        arguments=lambda number: ["--data", folder, "--bank", BANKS[number]],
        rounds=15,
        epochs=1,
        learning_rate=0.1,
        batch_size=32,
        options={"data": folder},
        people="customers",
    )


def start(argv: list[str]) -> int:
    """Take ``--data FOLDER`` out of the arguments and run the study."""
    return main_with_data(study, [FILE], WHERE, out="runs/credit-default", argv=argv)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
