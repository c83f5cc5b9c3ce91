"""Several federations on one broker, each with a home of its own."""

import stat
from pathlib import Path

import pytest

from broker_config.cli import main
from broker_config.node.record import Node
from broker_config.secrets.bundles import load_passwords
from tests.support.keeper import KEEPER
from warren_shared.naming import mailbox


def value(bundle: Path, name: str) -> str:
    (found,) = [
        line.partition("=")[2]
        for line in bundle.read_text().splitlines()
        if line.startswith(f"{name}=")
    ]
    return found


@pytest.fixture(autouse=True)
def no_broker_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARREN_HOME", "WARREN_MANAGEMENT_URL", "WARREN_AMQP_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_a_federation_joins_the_broker_of_another_home_and_remembers_it(
    node: Node, tmp_path: Path
) -> None:
    home = tmp_path / "region"
    told = ("--home", str(home), "--on", str(node.home), "--federation", "beside")
    try:
        assert main(["apply", *told, "--fleet", "aside:2"]) == 0
        url = value(home / "bundles" / "coordinator.env", "WARREN_BROKER_URL")
        assert url.endswith(f"@127.0.0.1:{node.ports.amqp}/beside")
        password = load_passwords(node.home)["coordinator"]
        assert f"//coordinator:{password}@" in url, "users are the broker's"
        assert not (home / "credentials.json").exists()
        assert stat.S_IMODE((home / "broker-home").stat().st_mode) == 0o600
        assert main(["check", "--home", str(home)]) == 0
        assert main(["enrol", "--home", str(home), "beside-too"]) == 0
        bundle = home / "bundles" / "beside-too.env"
        before = value(bundle, "WARREN_BROKER_URL")
        assert main(["rotate", "--home", str(home), "beside-too"]) == 0
        assert value(bundle, "WARREN_BROKER_URL") != before
        assert load_passwords(node.home)["beside-too"] in value(bundle, "WARREN_BROKER_URL")
        assert main(["revoke", "--home", str(home), "beside-too"]) == 0
        assert not bundle.exists()
        assert "beside-too" not in load_passwords(node.home)
    finally:
        with node.manage() as management:
            management.delete("vhosts", "beside")


def test_a_home_that_is_none_or_has_a_broker_is_one_clear_line(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        capsys.readouterr()
        assert main(list(words)) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    nowhere, home = str(tmp_path / "nowhere"), str(tmp_path / "home")
    said = refused("apply", "--home", home, "--on", nowhere)
    assert f"broker-config up --home {nowhere}" in said
    said = refused("apply", "--home", str(node.home), "--on", str(node.home))
    assert "give the federation" in said
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "broker-home").write_text(str(node.home))
    assert "starts that" in refused("up", "--home", home)


def test_a_user_that_two_federations_share_is_revoked_in_one_of_them_only(
    node: Node, tmp_path: Path
) -> None:
    homes = {name: tmp_path / name for name in ("north", "south")}
    try:
        for name, home in homes.items():
            told = ("--home", str(home), "--on", str(node.home), "--federation", name)
            assert main(["apply", *told, "--fleet", "aside:2"]) == 0
            assert main(["enrol", "--home", str(home), "both"]) == 0
        assert main(["revoke", "--home", str(homes["north"]), "both"]) == 0
        assert not (homes["north"] / "bundles" / "both.env").exists()
        bundle = homes["south"] / "bundles" / "both.env"
        assert main(["check", "--home", str(homes["south"])]) == 0
        assert load_passwords(node.home)["both"] in value(bundle, "WARREN_BROKER_URL")
        with node.manage() as management:
            rows = management.get("users", "both", "permissions")
            assert [row["vhost"] for row in rows] == ["south"]
            assert management.get("queues", "north", mailbox("both")) is None
            assert management.get("queues", "south", mailbox("both")) is not None
        assert main(["revoke", "--home", str(homes["south"]), "both"]) == 0
        with node.manage() as management:
            assert management.get("users", "both") is None
        assert "both" not in load_passwords(node.home)
    finally:
        with node.manage() as management:
            for name in homes:
                if management.get("vhosts", name) is not None:
                    management.delete("vhosts", name)


def test_a_keeper_of_two_federations_leaves_one_of_them(node: Node, tmp_path: Path) -> None:
    homes = {name: tmp_path / name for name in ("north", "south", "without")}
    try:
        for name, home in homes.items():
            told = ("--home", str(home), "--on", str(node.home), "--federation", name)
            keeper = () if name == "without" else ("--keeper", KEEPER)
            assert main(["apply", *told, *keeper, "--fleet", "aside:2"]) == 0
        assert main(["apply", "--home", str(homes["north"]), "--keeper", "none"]) == 0
        for home in homes.values():
            assert main(["check", "--home", str(home)]) == 0
        bundle = homes["south"] / "bundles" / "keeper.env"
        assert load_passwords(node.home)["keeper"] in value(bundle, "WARREN_BROKER_URL")
        with node.manage() as management:
            rows = management.get("users", "keeper", "permissions")
            assert [row["vhost"] for row in rows] == ["south"]
            assert management.get("queues", "north", "mask") is None
            assert management.get("queues", "south", "mask") is not None
        assert main(["apply", "--home", str(homes["south"]), "--keeper", "none"]) == 0
        with node.manage() as management:
            assert management.get("users", "keeper") is None
    finally:
        with node.manage() as management:
            for name in homes:
                if management.get("vhosts", name) is not None:
                    management.delete("vhosts", name)
