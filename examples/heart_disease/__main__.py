"""Four real hospitals: ``python -m examples.heart_disease --data FOLDER``."""

import argparse
import sys
from pathlib import Path

from examples.heart_disease import HOSPITALS, WHERE
from examples.stage.command import main
from examples.stage.study import Study


def study(folder: str) -> Study:
    """The comparison over the hospitals' files in ``folder``."""
    return Study(
        title="Heart disease at four hospitals",
        description="740 patients of the UCI heart disease data at the hospitals that treated"
        " them. Question: is there any heart disease?",
        names=HOSPITALS,
        module="examples.heart_disease.task",
        arguments=lambda number: ["--data", folder, "--hospital", HOSPITALS[number]],
        rounds=20,
        epochs=2,
        learning_rate=0.05,
        options={"data": folder},
    )


def start(argv: list[str]) -> int:
    """Take ``--data FOLDER`` out of the arguments and run the study."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--data", default="")
    given, rest = flags.parse_known_args(argv)
    folder = Path(given.data).resolve()
    wanted = [folder / f"processed.{hospital}.data" for hospital in HOSPITALS]
    missing = [path for path in wanted if not path.is_file()]
    if missing and "--help" not in rest:
        what = f"there is no {missing[0]}" if given.data else "--data FOLDER is needed"
        print(f"heart_disease: {what}: {WHERE}", file=sys.stderr)
        return 2
    return main(study(str(folder)), out="runs/heart-disease", argv=rest)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
