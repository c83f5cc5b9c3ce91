"""Environment variables that were meant as settings."""

import pytest

from client_worker.settings import ClientSettings
from coordinator_worker.settings import CoordinatorSettings
from warren_shared.config import unknown_env

KINDS = (ClientSettings, CoordinatorSettings)


@pytest.mark.parametrize(
    ("name", "kind", "setting"),
    [
        ("WARREN_QORUM", CoordinatorSettings, "WARREN_QUORUM (--quorum)"),
        ("WARREN_BROKER_ULR", ClientSettings, "WARREN_BROKER_URL (--broker-url)"),
        ("WARREN_STATEDIR", ClientSettings, "WARREN_STATE_DIR (--state-dir)"),
    ],
)
def test_a_misspelt_variable_is_told_what_it_was_to_be(name: str, kind: type, setting: str) -> None:
    (line,) = unknown_env.warnings(kind, ["HOME", "WARREN_", name])
    assert line == f"{name} is no setting: did you mean {setting}?"


def test_no_variable_that_anybody_reads_is_taken_for_a_mistake() -> None:
    """One environment, or one env_file of a service, may hold what several commands read."""
    names = {f"WARREN_{name}" for name in unknown_env.OTHERS}
    names |= {f"WARREN_{name.upper()}" for kind in KINDS for name in kind.model_fields}
    for kind in KINDS:
        assert unknown_env.warnings(kind, sorted(names)) == []
    for other in ("WARREN_TEST_RABBITMQ_SERVER", "WARREN_HEART_DISEASE_DATA", "PATH"):
        assert unknown_env.warnings(CoordinatorSettings, [other]) == []


def test_what_is_commented_out_in_a_bundle_is_not_there(tmp_path) -> None:
    bundle = tmp_path / "x.env"
    bundle.write_text("# WARREN_QORUM=3\nexport WARREN_ROUNDS=4\n\nWARREN_QUORUM=2\n")
    assert unknown_env.names_in(bundle) == ["WARREN_ROUNDS", "WARREN_QUORUM"]
    assert unknown_env.names_in(None) == []
