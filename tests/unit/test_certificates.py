"""The authority of a federation, and what it vouches for."""

import base64
import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from broker_config import certificates
from broker_config.certificates import Authority, read_ca
from broker_config.errors import BrokerConfigError
from shared.errors import ConfigError
from shared.tls import Broker


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_server_is_vouched_for_by_every_name_it_has(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = certificate(authority.server(["b.example", "10.1.2.3"]).certificate)
    store = Store([certificate(authority.certificate)])
    for name in ("localhost", "b.example"):
        verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name))
        assert len(verifier.verify(server, [])) == 2
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"127.0.0.1", "10.1.2.3", "::1"} <= {str(name.value) for name in names}


def test_a_users_certificate_names_the_user_and_is_for_clients_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    user = certificate(authority.user("alfa").certificate)
    (name,) = user.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "alfa"
    usage = user.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not user.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_nobody_else_can_read_a_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    keys = [authority.server().key, authority.user("alfa").key, authority.folder / "ca.key"]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_what_is_good_is_kept_and_what_ends_soon_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    first = authority.server().certificate.read_text()
    vouches = authority.certificate.read_text()
    assert Authority(tmp_path).server().certificate.read_text() == first
    renewed = authority.server(renew=True).certificate.read_text()
    assert renewed != first
    more = authority.server(["b.example"]).certificate.read_text()
    assert more != renewed
    assert authority.server().certificate.read_text() == more, "a name once given stays"
    monkeypatch.setattr(certificates, "_RENEW_DAYS", 9999)
    assert authority.server().certificate.read_text() != more
    assert authority.certificate.read_text() == vouches, "every bundle names it"


def test_it_lasts_long_enough_and_no_longer(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority = Authority(tmp_path)
    assert (certificate(authority.certificate).not_valid_after_utc - now).days > 3600
    assert 800 < (certificate(authority.server().certificate).not_valid_after_utc - now).days <= 825


def test_what_is_no_host_and_what_is_no_certificate_is_said(tmp_path: Path) -> None:
    with pytest.raises(BrokerConfigError, match="neither a host name"):
        Authority(tmp_path).server(["no..host" + "x" * 300])
    (tmp_path / "x.pem").write_text("no")
    with pytest.raises(BrokerConfigError, match="no PEM certificate"):
        read_ca(tmp_path / "x.pem")
    (tmp_path / "tls" / "ca.key").write_text("no")
    with pytest.raises(BrokerConfigError, match="no usable authority"):
        Authority(tmp_path).user("bravo")


def test_workers_read_what_bundles_hold_and_files_alike(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    identity = authority.user("alfa")
    text, key = identity.for_bundle()
    for broker in (
        Broker("amqps://h", authority.for_bundle(), text, key),
        Broker("amqps://h", *map(str, (authority.certificate, identity.certificate, identity.key))),
    ):
        context = broker.context()
        assert len(context.get_ca_certs()) == 1
        assert context.check_hostname
        assert context.minimum_version.name == "TLSv1_2"
        assert "PRIVATE" not in repr(broker)
        assert key not in repr(broker)


def test_a_wrong_setting_is_named_and_not_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    text, key = authority.user("alfa").for_bundle()
    other = authority.user("bravo").for_bundle()[1]
    wrong = base64.b64encode(b"0\x82" + bytes(400)).decode()
    for broker, named in (
        (Broker("amqps://h", wrong), "WARREN_CA"),
        (Broker("amqps://h", "/no/such.pem"), "WARREN_CA"),
        (Broker("amqps://h", "", text, ""), "WARREN_TLS_KEY"),
        (Broker("amqps://h", "", "", key), "WARREN_TLS_CERTIFICATE"),
        (Broker("amqps://h", "", text, other), "do not belong together"),
        (Broker("amqps://h", "", text, "/no/such.pem"), "WARREN_TLS_KEY"),
    ):
        with pytest.raises(ConfigError, match=named) as error:
            broker.context()
        assert key not in str(error.value)
