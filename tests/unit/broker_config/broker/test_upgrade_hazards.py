"""What is said of a broker before it is upgraded, from rows as the management API has them."""

from typing import Any

import pytest

from broker_config.broker.upgrade_hazards import disabled, of_queue

NODES = ("rabbit@a", "rabbit@b", "rabbit@c")


def queue(*online: str) -> dict[str, Any]:
    return {"name": "update", "members": list(NODES), "online": list(online)}


def status(*versions: object) -> list[dict[str, Any]]:
    return [
        {"Node Name": node, "Machine Version": version}
        for node, version in zip(NODES, versions, strict=False)
    ]


def test_stable_flags_that_are_off_are_named_and_others_are_not() -> None:
    flags = [
        {"name": "khepri_db", "state": "disabled", "stability": "experimental"},
        {"name": "rabbitmq_4.2.0", "state": "disabled", "stability": "stable"},
        {"name": "rabbitmq_4.1.0", "state": "enabled", "stability": "stable"},
    ]
    (said,) = disabled(flags)
    assert str(said).startswith("feature flag rabbitmq_4.2.0: disabled")
    assert not list(disabled(flags[2:]))


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("told", [(), status(4, 5, 8)])
def test_a_queue_that_is_whole_and_of_this_age_is_not_mentioned(told: Any, is_on: bool) -> None:
    assert not list(of_queue(queue(*NODES), told, is_on=is_on))


def test_a_member_that_is_away_forbids_an_upgrade() -> None:
    (said,) = of_queue(queue("rabbit@a", "rabbit@c"), status(8), is_on=True)
    assert "rabbit@b is away: upgrade nothing" in str(said)


@pytest.mark.parametrize(
    ("is_on", "said"), [(False, "enable none"), (True, "it may confirm and drop")]
)
def test_a_queue_left_at_a_machine_version_of_rabbitmq_3_is_told(is_on: bool, said: str) -> None:
    (found,) = of_queue(queue(*NODES), status(3, 3, "noproc"), is_on=is_on)
    assert "machine version is 3" in str(found)
    assert said in str(found)
