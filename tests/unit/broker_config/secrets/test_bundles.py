"""Who is told what in a bundle."""

import base64
from dataclasses import replace
from pathlib import Path

from broker_config.declaration.federation import Federation, Fleet
from broker_config.secrets.bundles import (
    Address,
    bundle_path,
    outdated_bundles,
    write_bundles,
)
from broker_config.secrets.keys import ensure_keys, rotate_keys
from client_worker.settings import ClientSettings
from coordinator_worker.settings import CoordinatorSettings
from tests.support.keeper import ENCRYPT, KEEPER, OTHER_KEEPER, VERIFY
from warren_shared.config.settings import load
from warren_shared.protocol.keys import key_id

ADDRESS = Address("amqps://broker.example:5671", "https://broker.example:15671", ca="QUJD")
FEDERATION = Federation(clients=("hospital-a",), fleets=(Fleet("phone", 3),))
KEPT = replace(FEDERATION, keeper=KEEPER)
USERS = ("coordinator", "watcher", "admin", "hospital-a", "phone", "keeper")
PASSWORDS = {user: f"password-{user}" for user in USERS}


def bundles(home: Path, federation: Federation) -> dict[str, dict[str, str]]:
    """What each bundle says that is written now."""
    written = write_bundles(home, federation, ADDRESS, PASSWORDS)
    return {
        path.stem: dict(line.split("=", 1) for line in path.read_text().splitlines())
        for path in written
    }


def test_a_keeper_is_told_where_the_broker_is_and_the_coordinators_public_keys(
    tmp_path: Path,
) -> None:
    keys = ensure_keys(tmp_path)
    assert bundles(tmp_path, replace(KEPT, spare_mailboxes=True))["keeper"] == {
        "WARREN_BROKER_URL": "amqps://keeper:password-keeper@broker.example:5671/warren",
        "WARREN_VERIFY_KEYS": ",".join(keys.verify),
        "WARREN_ENCRYPT_KEY": keys.encrypt,
        "WARREN_KEEPER_KEY": ENCRYPT,
        "WARREN_CA": "QUJD",
    }


def test_clients_get_the_key_to_encrypt_to_and_the_coordinator_the_one_to_verify_with(
    tmp_path: Path,
) -> None:
    found = bundles(tmp_path, KEPT)
    for contributor in ("hospital-a", "phone"):
        assert found[contributor]["WARREN_KEEPER_KEY"] == ENCRYPT
        assert found[contributor]["WARREN_ENCRYPT_KEY"] == ensure_keys(tmp_path).encrypt
    assert found["coordinator"]["WARREN_KEEPER_VERIFY_KEY"] == VERIFY
    knows = {user for user, said in found.items() if any("KEEPER" in name for name in said)}
    assert knows == {"hospital-a", "phone", "coordinator", "keeper"}
    assert found["coordinator"]["WARREN_KEEPER_KEY"] == ENCRYPT
    assert [user for user in knows if "WARREN_KEEPER_VERIFY_KEY" in found[user]] == ["coordinator"]


def test_the_workers_settings_take_what_their_bundles_say(tmp_path: Path) -> None:
    bundles(tmp_path, KEPT)
    kinds = {"coordinator": CoordinatorSettings, "hospital-a": ClientSettings}
    words = {"coordinator": ["--quorum", "3"], "hospital-a": ["--task", "tests.tasks:ledger"]}
    told = {}
    for user, kind in kinds.items():
        argv = ["--env-file", str(bundle_path(tmp_path, user)), *words[user]]
        told[user], _ = load(kind, description="", argv=argv, keep_unknown=True)
    coordinator, client = told["coordinator"], told["hospital-a"]
    assert isinstance(coordinator, CoordinatorSettings)
    assert isinstance(client, ClientSettings)
    assert coordinator.keeper == key_id(base64.urlsafe_b64decode(ENCRYPT))
    assert client.keeper_key == coordinator.keeper_key


def test_without_a_keeper_no_bundle_says_a_word_of_one(tmp_path: Path) -> None:
    found = bundles(tmp_path, FEDERATION)
    assert set(found) == set(USERS) - {"keeper"}
    assert not [name for said in found.values() for name in said if "KEEPER" in name]


def test_another_keeper_makes_the_bundles_of_those_who_know_it_out_of_date(tmp_path: Path) -> None:
    bundles(tmp_path, KEPT)
    assert outdated_bundles(tmp_path, KEPT, ADDRESS, PASSWORDS) == []
    other = replace(KEPT, keeper=OTHER_KEEPER)
    found = {path.stem for path in outdated_bundles(tmp_path, other, ADDRESS, PASSWORDS)}
    assert found == {"coordinator", "hospital-a", "phone", "keeper"}


def test_other_keys_of_the_coordinator_reach_the_keeper(tmp_path: Path) -> None:
    before = bundles(tmp_path, KEPT)["keeper"]
    rotate_keys(tmp_path, ensure_keys(tmp_path))
    assert bundle_path(tmp_path, "keeper") in outdated_bundles(tmp_path, KEPT, ADDRESS, PASSWORDS)
    after = bundles(tmp_path, KEPT)["keeper"]
    assert after["WARREN_ENCRYPT_KEY"] != before["WARREN_ENCRYPT_KEY"]
    assert after["WARREN_VERIFY_KEYS"].endswith("," + before["WARREN_VERIFY_KEYS"])
