"""A coordinator that is killed in mid-round is back at once, and nobody works twice for it."""

import json
import time
from pathlib import Path

import numpy as np

from tests.acceptance.test_federation import final_weights, start_client, start_coordinator
from tests.conftest import Place
from tests.support.pace import allow
from tests.support.processes import workers

BACK_S = 10.0  # 0.5 on a machine with nothing else to do; the tests share theirs


def test_after_kill_minus_nine_the_round_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    arguments = ("--quorum", "3", "--rounds", "1")
    with workers() as started:
        killed = start_coordinator(place, tmp_path, *arguments)
        clients = [
            start_client(place, user, "ledger", "--index", str(index))
            for index, user in enumerate(("alfa", "bravo"))
        ]
        started += [killed, *clients]
        for _ in clients:
            killed.wait_for("update_accepted")
        killed.kill()
        begin = time.monotonic()
        again = start_coordinator(place, tmp_path, *arguments)
        started.append(again)
        for _ in clients:
            again.wait_for("update_accepted")
        assert time.monotonic() - begin < allow(BACK_S)
        third = start_client(place, "charlie", "ledger", "--index", "2")
        started.append(third)
        clients.append(third)
        assert [worker.end() for worker in (again, *clients)] == [0] * 4
    np.testing.assert_allclose(final_weights(tmp_path)[0][:4], [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    for client in clients:
        actions = [json.loads(line)["action"] for line in client.lines if line.startswith("{")]
        assert actions.count("training") == 1
