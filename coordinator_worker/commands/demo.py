"""``coordinator-worker demo``: a federation of four clinics on this machine, from broker to report.

The clinics, their data and the report are in `warren_examples`, which is installed with the workers
and stands above them, so it is imported by name here.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Final

from warren_shared.errors import ConfigError

NEEDED: Final = ("keras", "sklearn", "tensorflow")


def run(argv: list[str]) -> None:
    """Train on 569 patients at four clinics, and print the table beside its baselines.

    Raises:
        ConfigError: TensorFlow or scikit-learn is not installed.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the demo trains with TensorFlow on data of scikit-learn, and {missing[0]} is not"
            " installed: pip install 'warren-fl[demo]'"
        )
    import_module("warren_examples.breast_cancer.__main__").demo(argv)
