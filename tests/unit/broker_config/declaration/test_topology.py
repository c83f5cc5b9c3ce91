"""The declaration: what a federation has on the broker."""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from broker_config.broker.drift import Difference, differences
from broker_config.declaration.federation import MAILBOX_LIMIT, load, save
from broker_config.declaration.keeper import KeeperKeys
from broker_config.declaration.topology import (
    KEEPER_QUEUES,
    Binding,
    Federation,
    Fleet,
    Permission,
    Topology,
    is_contributor,
    topology,
)
from tests.support.keeper import KEEPER, base64url
from warren_shared.errors import BrokerConfigError
from warren_shared.naming import owner_of_mailbox

FEDERATION = Federation(
    clients=("hospital-a", "hospital_b"), fleets=(Fleet("phone", 3),), model_bytes=10 << 20
)
KEPT = replace(FEDERATION, keeper=KEEPER)


def names_of(things: Iterable[Any]) -> set[str]:
    return {thing.name for thing in things}


def permission(declared: Topology, user: str) -> Permission:
    (found,) = [each.permission for each in declared.users if each.name == user]
    assert found is not None
    return found


def test_every_client_and_every_replica_has_a_mailbox_bound_to_model() -> None:
    declared = topology(FEDERATION)
    mailboxes = {binding.queue for binding in declared.bindings if binding.source == "model"}
    assert mailboxes == {
        "model.hospital-a",
        "model.hospital_b",
        "model.phone.0",
        "model.phone.1",
        "model.phone.2",
    }
    assert mailboxes <= {queue.name for queue in declared.queues}


def test_updates_wait_in_a_quorum_queue_that_tells_the_publisher_when_it_is_full() -> None:
    (updates,) = [queue for queue in topology(FEDERATION).queues if queue.name == "update"]
    assert updates.arguments["x-queue-type"] == "quorum"
    assert updates.arguments["x-overflow"] == "reject-publish"


def test_what_its_sender_lets_expire_goes_nowhere() -> None:
    """A client's `expiration` would put its message among the rejected, past the coordinator."""
    (updates,) = [queue for queue in topology(FEDERATION).queues if queue.name == "update"]
    assert not [name for name in updates.arguments if "dead-letter" in name]


def test_on_a_broker_of_an_earlier_version_nothing_leads_to_the_rejected() -> None:
    declared = topology(FEDERATION)
    dead = {"x-dead-letter-exchange": "update.rejected"}
    queues = tuple(
        replace(queue, arguments={**queue.arguments, **dead}) if queue.name == "update" else queue
        for queue in declared.queues
    )
    observed = replace(declared, queues=queues)
    assert [str(each) for each in differences(declared, observed)] == [
        "binding update.rejected -> update.rejected: must not be there any more"
    ]
    mended = tuple(each for each in observed.bindings if each.source != "update.rejected")
    assert differences(declared, replace(observed, bindings=mended)) == []


@pytest.mark.parametrize(
    ("model_bytes", "messages"),
    [(1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (64 << 20, 64)],
)
def test_a_mailbox_holds_one_model_and_eight_notices(model_bytes: int, messages: int) -> None:
    declared = topology(Federation(model_bytes=model_bytes))
    (policy,) = [policy for policy in declared.policies if policy.name == "mailbox"]
    assert policy.definition == {"max-length": messages + 8, "overflow": "drop-head"}


def test_no_two_policies_match_one_queue() -> None:
    declared = topology(FEDERATION)
    for queue in declared.queues:
        of_queue = [each for each in declared.policies if re.search(each.pattern, queue.name)]
        assert len([policy for policy in of_queue if not policy.operator]) == 1, queue.name
        assert len([policy for policy in of_queue if policy.operator]) <= 1, queue.name


def test_a_client_reads_its_own_mailbox_and_nothing_that_looks_like_it() -> None:
    rights = permission(topology(FEDERATION), "hospital-a")
    assert re.search(rights.read, "model.hospital-a")
    others = ("model", "modelXhospital-a", "model.hospital-a.0", "model.hospital-ab", "update")
    assert not [name for name in others if re.search(rights.read, name)]
    assert re.search(rights.write, "update")
    assert not [
        name
        for name in ("model", "update.rejected", "event", "amq.default")
        if re.search(rights.write, name)
    ]
    assert not re.search(rights.configure, "model.hospital-a")


def test_a_fleet_reads_its_row_of_mailboxes_and_no_other() -> None:
    rights = permission(topology(FEDERATION), "phone")
    assert re.search(rights.read, "model.phone.0")
    others = ("model.phone", "model.phone.", "model.phone.x", "model.tablet.0", "model.phone.0.0")
    assert not [name for name in others if re.search(rights.read, name)]


def test_on_a_cluster_each_client_has_a_spare_of_its_own_and_no_other() -> None:
    cluster = topology(replace(FEDERATION, spare_mailboxes=True))
    queues = {queue.name: queue for queue in cluster.queues}
    for member in FEDERATION.members:
        assert queues[f"model.{member}.spare"].apart_from == f"model.{member}"
        assert Binding("model", f"model.{member}.spare") in cluster.bindings
    for queue in ("event.state", "update.rejected"):
        assert queues[queue].arguments["x-queue-type"] == "quorum"
    for user, theirs in (("hospital-a", "model.hospital-a"), ("phone", "model.phone.0")):
        rights = permission(cluster, user)
        assert re.search(rights.read, theirs)
        assert re.search(rights.read, f"{theirs}.spare")
        others = (f"{theirs}.spare.spare", f"{theirs}xspare", "model.spare", "model.tablet.0.spare")
        assert not [name for name in others if re.search(rights.read, name)]
        assert owner_of_mailbox(f"{theirs}.spare") == user
        assert is_contributor(rights, user)
        assert not re.search(permission(topology(FEDERATION), user).read, f"{theirs}.spare")


def test_what_was_classic_before_there_was_a_cluster_stays_so() -> None:
    before = topology(FEDERATION)
    after = topology(replace(FEDERATION, spare_mailboxes=True))
    changed = {each.name: each.detail for each in differences(after, before) if each.conflict}
    assert changed == {}
    missing = {each.name for each in differences(after, before) if each.kind == "queue"}
    assert missing == {f"model.{member}.spare" for member in FEDERATION.members}


def test_the_coordinator_publishes_models_events_and_to_one_mailbox_but_no_updates() -> None:
    rights = permission(topology(FEDERATION), "coordinator")
    for name in ("model", "event", "update.rejected", "amq.default"):
        assert re.search(rights.write, name)
    assert not re.search(rights.write, "update")
    assert not re.search(rights.configure, "update")


def test_a_watcher_reads_events_and_the_last_word_and_publishes_nothing() -> None:
    rights = permission(topology(FEDERATION), "watcher")
    for name in ("event", "event.state", "watch.0a1b2c3d"):
        assert re.search(rights.read, name)
    others = ("update", "update.rejected", "model", "model.hospital-a", "event.states")
    assert not [name for name in others if re.search(rights.read, name)]
    for name in ("event", "event.state", "update", "model", "amq.default"):
        assert not re.search(rights.write, name)


@pytest.mark.parametrize(
    ("clients", "fleets"),
    [
        (("Hospital",), ()),
        (("a.b",), ()),
        (("admin",), ()),
        (("a", "a"), ()),
        (("a",), (Fleet("a", 2),)),
        ((), (Fleet("a", 0),)),
    ],
)
def test_impossible_names_and_sizes_are_one_clear_line(
    clients: tuple[str, ...], fleets: tuple[Fleet, ...]
) -> None:
    with pytest.raises(BrokerConfigError) as raised:
        Federation(clients=clients, fleets=fleets)
    assert "\n" not in str(raised.value)


def test_a_model_that_no_mailbox_could_hold_is_refused() -> None:
    with pytest.raises(BrokerConfigError, match="bytes"):
        Federation(model_bytes=MAILBOX_LIMIT << 20)


def test_a_federation_is_remembered_as_it_was(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("home") / "federation.json"
    assert load(path) is None
    save(path, FEDERATION)
    assert load(path) == FEDERATION


def test_enrolling_adds_clients_and_resizes_fleets() -> None:
    grown = FEDERATION.enrolling(("hospital-a", "hospital-c"), (Fleet("phone", 5),))
    assert grown.clients == ("hospital-a", "hospital_b", "hospital-c")
    assert grown.fleets == (Fleet("phone", 5),)


def test_a_broker_as_declared_has_no_differences_and_an_empty_one_has_one_per_thing() -> None:
    declared = topology(FEDERATION)
    assert differences(declared, declared) == []
    assert differences(declared, None) == [Difference("vhost", "warren", "missing")]
    empty = Topology("warren", (), (), (), (), ())
    things = (*declared.exchanges, *declared.queues, *declared.bindings, *declared.policies)
    assert len(differences(declared, empty)) == len(things) + len(declared.users)


def test_everybody_has_limits_and_a_fleet_more_of_them() -> None:
    limits = {user.name: user.limits for user in topology(FEDERATION).users}
    assert all(set(found) == {"max-connections", "max-channels"} for found in limits.values())
    fleet = FEDERATION.fleets[0]
    assert limits[fleet.name]["max-connections"] >= 2 * fleet.size


def test_another_limit_is_a_difference() -> None:
    declared = topology(FEDERATION)
    users = tuple(replace(user, limits={"max-channels": 3}) for user in declared.users)
    found = differences(declared, replace(declared, users=users))
    assert [each.kind for each in found] == ["limit"] * 2 * len(users)


def test_a_model_of_another_size_is_a_policy_that_differs() -> None:
    bigger = Federation(FEDERATION.name, FEDERATION.clients, FEDERATION.fleets, 20 << 20)
    found = differences(topology(bigger), topology(FEDERATION))
    assert [str(each) for each in found] == [
        "policy mailbox: max-length is 18, declared 28",
    ]
    assert not found[0].conflict


def test_without_a_keeper_there_is_nothing_of_it() -> None:
    declared, kept = topology(FEDERATION), topology(KEPT)
    assert names_of(kept.queues) - names_of(declared.queues) == {"mask", "unmask", "unmasked"}
    assert names_of(kept.exchanges) - names_of(declared.exchanges) == {"unmasked"}
    assert names_of(kept.users) - names_of(declared.users) == {"keeper"}
    assert [each for each in declared.queues if each not in kept.queues] == []
    more = {(each.kind, each.name) for each in kept.policies if each not in declared.policies}
    assert more == {
        ("policy", "keeper"), ("operator policy", "mask"), ("operator policy", "unmask"),
        ("operator policy", "unmasked"),
    }  # fmt: skip
    assert [each for each in declared.policies if each not in kept.policies] == []
    changed = {user.name for user in declared.users if user not in kept.users}
    assert changed == {"coordinator"}


@pytest.mark.parametrize("in_cluster", [False, True])
def test_the_keepers_queues_are_logs_for_one_reader_that_refuse_when_they_are_full(
    in_cluster: bool,
) -> None:
    declared = topology(replace(KEPT, spare_mailboxes=in_cluster))
    queues = {each.name: each for each in declared.queues}
    for name in KEEPER_QUEUES:
        assert queues[name].arguments == {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-overflow": "reject-publish",
        }


def test_seeds_come_by_the_exchange_of_updates_and_answers_by_one_of_their_own() -> None:
    more = set(topology(KEPT).bindings) - set(topology(FEDERATION).bindings)
    assert more == {Binding("update", "mask", "mask"), Binding("unmasked", "unmasked")}


def test_the_keepers_queues_are_bounded_by_members_and_by_the_models_size() -> None:
    def limits(federation: Federation) -> dict[str, Any]:
        policies = topology(federation).policies
        return {each.name: each.definition for each in policies if each.operator}

    assert limits(KEPT)["mask"] == {"max-length": 8_192, "max-length-bytes": 64 << 20}
    assert limits(KEPT)["unmask"] == {"max-length": 64, "max-length-bytes": 64 << 20}
    assert limits(KEPT)["unmasked"] == {"max-length": 4 * 18, "max-length-bytes": 4 * (18 << 20)}
    many = replace(KEPT, fleets=(Fleet("phone", 10_000),))
    assert limits(many)["mask"] == {
        "max-length": 64 * 10_002, "max-length-bytes": 64 * 10_002 * 1024,
    }  # fmt: skip
    policies = {each.name: each for each in topology(KEPT).policies if not each.operator}
    assert policies["keeper"].definition == policies["update"].definition


def test_no_two_policies_match_one_queue_of_a_keeper() -> None:
    declared = topology(KEPT)
    for queue in declared.queues:
        of_queue = [each for each in declared.policies if re.search(each.pattern, queue.name)]
        assert len([policy for policy in of_queue if not policy.operator]) == 1, queue.name
        assert len([policy for policy in of_queue if policy.operator]) <= 1, queue.name


def test_a_keeper_reads_seeds_and_requests_writes_answers_and_nothing_else() -> None:
    kept = topology(KEPT)
    rights = permission(kept, "keeper")
    objects = names_of(kept.queues) | names_of(kept.exchanges) | {"amq.default", "masks", "xmask"}
    assert {name for name in objects if re.search(rights.read, name)} == {"mask", "unmask"}
    assert {name for name in objects if re.search(rights.write, name)} == {"unmasked"}
    assert not {name for name in objects if re.search(rights.configure, name)}
    (keeper,) = [user for user in kept.users if user.name == "keeper"]
    (client,) = [user for user in kept.users if user.name == "hospital-a"]
    assert (keeper.limits, keeper.tags) == (client.limits, ())


def test_the_coordinator_reads_answers_and_no_seed() -> None:
    rights = permission(topology(KEPT), "coordinator")
    found = {name for name in KEEPER_QUEUES if re.search(rights.read, name)}
    assert found == {"unmasked"}
    assert not {name for name in KEEPER_QUEUES if re.search(rights.write, name)}
    assert not re.search(permission(topology(FEDERATION), "coordinator").read, "unmasked")


def test_what_a_keeper_is_told_apart_by_is_its_rights() -> None:
    rights = permission(topology(KEPT), "keeper")
    assert is_contributor(rights, "keeper")
    assert not is_contributor(rights, "hospital-a")
    assert not is_contributor(permission(topology(KEPT), "watcher"), "keeper")


def test_a_keeper_implies_encrypted_updates_and_is_remembered(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    assert not FEDERATION.encrypt_updates
    assert KEPT.encrypt_updates
    path = tmp_path_factory.mktemp("home") / "federation.json"
    save(path, KEPT)
    assert load(path) == KEPT
    assert replace(KEPT, keeper="").encrypt_updates
    # As a version without keepers wrote it.
    found = json.loads(path.read_text())
    del found["keeper"]
    path.write_text(json.dumps(found))
    assert load(path) == replace(KEPT, keeper="")
    path.write_text(json.dumps(found | {"keeper": "broken"}))
    with pytest.raises(BrokerConfigError, match="is no keeper"):
        load(path)


def test_a_federation_can_be_left_by_its_keeper_and_only_if_it_has_one() -> None:
    assert KEPT.without(["keeper"]) == replace(KEPT, keeper="")
    assert KEPT.without(["hospital-a"]).keeper == KEEPER
    assert KEPT.revocable == ("hospital-a", "hospital_b", "phone", "keeper")
    with pytest.raises(BrokerConfigError, match="'keeper' is not enrolled"):
        FEDERATION.without(["keeper"])


def test_a_keepers_line_is_two_keys_with_or_without_padding() -> None:
    keys = KeeperKeys.parse(f" {KEEPER.replace('=', '')}\n")
    assert (keys.verify, keys.encrypt) == (base64url(b"v" * 32), base64url(b"e" * 32))
    assert keys.line == KEEPER
    assert replace(FEDERATION, keeper=KEEPER.replace("=", "")) == KEPT


@pytest.mark.parametrize(
    "line",
    [
        "keeper",
        base64url(b"v" * 32),
        f"{KEEPER}.{base64url(b'x' * 32)}",
        f"{base64url(b'v' * 31)}.{base64url(b'e' * 32)}",
        f"{base64url(b'v' * 32)}.{base64url(b'e' * 33)}",
        KEEPER.replace(".", ","),
        f"{KEEPER[:5]}+{KEEPER[6:]}",
        f"{KEEPER[:5]}ä{KEEPER[6:]}",
        f"{KEEPER[:5]}\n{KEEPER[6:]}",
        # Of low order: with it every shared secret is zeros.
        f"{base64url(b'v' * 32)}.{base64url(bytes(32))}",
        f"{base64url(b'v' * 32)}.{base64url(bytes([1, *bytes(31)]))}",
    ],
)
def test_what_is_no_keeper_is_one_clear_line(line: str) -> None:
    with pytest.raises(BrokerConfigError, match="is no keeper") as raised:
        replace(FEDERATION, keeper=line)
    assert "\n" not in str(raised.value)
