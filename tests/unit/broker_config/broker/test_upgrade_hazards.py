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
    assert not list(of_queue(queue(*NODES), told, running=NODES, is_on=is_on))


def test_a_member_that_is_away_forbids_an_upgrade() -> None:
    whole = queue("rabbit@a", "rabbit@c")
    (said,) = of_queue(whole, status(8), running=("rabbit@a", "rabbit@c"), is_on=True)
    assert "rabbit@b is away: upgrade nothing" in str(said)


def test_a_member_that_its_node_has_lost_is_told_with_what_brings_it_back() -> None:
    whole = queue("rabbit@a", "rabbit@c") | {"vhost": "chaos"}
    (said,) = of_queue(whole, status(8), running=NODES, is_on=True)
    assert "`rabbitmq-queues delete_member --vhost chaos update rabbit@b`" in str(said)
    assert "away" not in str(said)


@pytest.mark.parametrize(
    ("is_on", "said"), [(False, "enable none"), (True, "it may confirm and drop")]
)
def test_a_queue_left_at_a_machine_version_of_rabbitmq_3_is_told(is_on: bool, said: str) -> None:
    (found,) = of_queue(queue(*NODES), status(3, 3, "noproc"), running=NODES, is_on=is_on)
    assert "machine version is 3" in str(found)
    assert said in str(found)
