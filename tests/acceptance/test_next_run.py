"""What lies in a mailbox when a run has ended does not keep its client from the next one."""

from pathlib import Path

import pytest

from tests.acceptance.test_federation import start_client, start_coordinator
from tests.conftest import Place
from tests.support.processes import Worker, workers


def first_run(place: Place, folder: Path, started: list[Worker]) -> None:
    """A run of two rounds by alfa alone; bravo, who is away, has its models in the mailbox."""
    alfa = start_client(place, "alfa", "line")
    coordinator = start_coordinator(place, folder, "--quorum", "1", "--rounds", "2")
    started += [alfa, coordinator]
    assert (coordinator.end(), alfa.end()) == (0, 0)


@pytest.mark.parametrize(
    "client",
    [(), ("--features", "7"), ("--features", "7", "--stay")],
    ids=["same model", "another model", "another model, to stay"],
)
def test_a_client_that_was_away_takes_part_in_the_next_run(
    place: Place, tmp_path: Path, client: tuple[str, ...]
) -> None:
    with workers() as started:
        first_run(place, tmp_path / "one", started)
        bravo = start_client(place, "bravo", "line", *client)
        started.append(bravo)
        bravo.wait_for("ended_run")
        alfa = start_client(place, "alfa", "line", *client)
        arguments = ("--quorum", "2", "--rounds", "2")
        second = start_coordinator(place, tmp_path / "two", *arguments)
        started += [alfa, second]
        assert second.end() == 0
        bravo.wait_for("finished")
        if "--stay" not in client:
            assert (alfa.end(), bravo.end()) == (0, 0)


def test_a_run_with_more_rounds_goes_on_with_who_was_away(place: Place, tmp_path: Path) -> None:
    with workers() as started:
        first_run(place, tmp_path, started)
        bravo = start_client(place, "bravo", "line")
        started.append(bravo)
        bravo.wait_for("ended_run")
        alfa = start_client(place, "alfa", "line")
        second = start_coordinator(place, tmp_path, "--quorum", "2", "--rounds", "4")
        started += [alfa, second]
        assert [worker.end() for worker in (second, alfa, bravo)] == [0, 0, 0]


def test_models_of_an_unfinished_run_with_another_layout_end_nobody(
    place: Place, tmp_path: Path
) -> None:
    with workers() as started:
        alfa = start_client(place, "alfa", "line")
        first = start_coordinator(place, tmp_path / "one", "--quorum", "1")
        started += [alfa, first]
        first.wait_for("model_published", version=2)
        first.kill()
        alfa.kill()
        bravo = start_client(place, "bravo", "line", "--features", "7")
        started.append(bravo)
        bravo.wait_for("other_model")
        alfa = start_client(place, "alfa", "line", "--features", "7")
        second = start_coordinator(place, tmp_path / "two", "--quorum", "2", "--rounds", "2")
        started += [alfa, second]
        assert [worker.end() for worker in (second, alfa, bravo)] == [0, 0, 0]
