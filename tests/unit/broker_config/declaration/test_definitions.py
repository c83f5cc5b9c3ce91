"""The topology as RabbitMQ's definitions."""

import json

from broker_config.declaration.definitions import definitions, is_password, password_hash
from broker_config.declaration.topology import Federation, topology

DECLARED = topology(Federation(clients=("hospital-a",)))
PASSWORDS = {user.name: f"secret of {user.name}" for user in DECLARED.users} | {"admin": "root"}


def test_everything_declared_is_in_the_definitions_and_in_the_federations_vhost() -> None:
    found = definitions(DECLARED, PASSWORDS)
    assert found["vhosts"] == [{"name": "warren"}]
    found["policies"] += found["parameters"]  # those of the operator
    for kind in ("exchanges", "queues", "bindings", "policies"):
        assert len(found[kind]) == len(getattr(DECLARED, kind))
        assert {row["vhost"] for row in found[kind]} == {"warren"}
    assert all(row["durable"] for kind in ("exchanges", "queues") for row in found[kind])


def test_no_password_stands_in_the_definitions() -> None:
    text = json.dumps(definitions(DECLARED, PASSWORDS, admin=True))
    assert not [password for password in PASSWORDS.values() if password in text]


def test_without_passwords_no_user_can_log_in_by_password() -> None:
    assert {user["password_hash"] for user in definitions(DECLARED)["users"]} == {""}


def test_the_administrator_is_only_a_private_nodes() -> None:
    names = {user["name"] for user in definitions(DECLARED, PASSWORDS)["users"]}
    assert names == {"coordinator", "watcher", "hospital-a", "client"}
    private = definitions(DECLARED, PASSWORDS, admin=True)
    assert "admin" in {user["name"] for user in private["users"]}
    assert "admin" in {row["user"] for row in private["permissions"]}


def test_a_hash_is_salted_and_matches_its_password_alone() -> None:
    assert password_hash("secret") != password_hash("secret")
    assert is_password("secret", password_hash("secret"))
    assert not is_password("other", password_hash("secret"))


def test_the_hash_is_rabbitmqs_own() -> None:
    # The worked example of RabbitMQ's documentation on passwords: salt 908DC60A, "test12".
    salt = bytes.fromhex("908DC60A")
    assert password_hash("test12", salt) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
