"""The authority of a federation, and what it vouches for."""

import base64
import datetime
import itertools
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from broker_config.secrets import certificates
from broker_config.secrets.certificates import Authority, read_ca
from warren_shared.errors import BrokerConfigError, ConfigError
from warren_shared.tls import Broker


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


# --- as they are in the world ------------------------------------------------------------------

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
PRIVATE = serialization.PrivateFormat
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def issued(name: str, key: Key, by: str, signing: Key, *, ca: bool = True) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject, issuer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, by)
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signing, hashes.SHA256())
    )


@pytest.fixture(scope="module")
def root() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def authorities(root: Key) -> list[bytes]:
    """A root and two authorities below it, of lengths that base64 pads differently."""
    return [issued(name, root, "root", root).public_bytes(PEM) for name in ("root", "i", "ii")]


def accepted(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return len(Broker("amqps://h", ca=str(path)).context().get_ca_certs())


def test_authorities_are_read_in_any_order_with_anything_around_them(
    authorities: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    for order in itertools.permutations(authorities):
        assert accepted(path, b"".join(order)) == 3
    comment = "# Prüfstelle der Größe 3\n".encode()
    around = (
        comment + comment.join(authorities) + comment + "Ende – Schluß".encode("latin-1", "replace")
    )
    assert accepted(path, around) == 3
    assert accepted(path, b"\xef\xbb\xbf" + around) == 3
    assert accepted(path, around.replace(b"\n", b"\r\n")) == 3
    assert accepted(path, around.replace(b"\n", b"\r")) == 3
    assert accepted(path, b"".join(authorities).decode().encode("utf-16")) == 3
    ders = [x509.load_pem_x509_certificate(pem).public_bytes(DER) for pem in authorities]
    assert accepted(path, b"".join(ders)) == 3
    assert accepted(path, b"".join(authorities).rstrip()) == 3
    oneline = (
        b"-----BEGIN CERTIFICATE-----" + base64.b64encode(ders[0]) + b"-----END CERTIFICATE-----"
    )
    assert accepted(path, oneline) == 1


def test_a_damaged_certificate_among_others_is_numbered(
    authorities: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    lines = authorities[1].splitlines()
    for damaged in (lines[:2] + lines[3:], [*lines[:2], b"%%%%", *lines[3:]]):
        path.write_bytes(authorities[0] + b"\n".join(damaged) + b"\n" + authorities[2])
        with pytest.raises(ConfigError, match="certificate 2 of 3 is damaged"):
            Broker("amqps://h", ca=str(path)).context()


def test_a_bundle_takes_all_authorities_of_a_file_roots_first(
    authorities: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes("# ö\n".encode() + authorities[2] + authorities[0])
    line = read_ca(path)
    assert len(Broker("amqps://h", ca=line).context().get_ca_certs()) == 2
    old_reader = x509.load_der_x509_certificate(
        x509.load_pem_x509_certificate(authorities[0]).public_bytes(DER)
    )
    assert base64.b64decode(line).startswith(old_reader.public_bytes(DER))


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_our_chain_is_read_in_any_order_with_a_key_of_any_form(
    authorities: list[bytes], root: Key, kind: str, form: str, tmp_path: Path
) -> None:
    key: Key = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ec"
        else rsa.generate_private_key(65537, 2048)
    )
    leaf = issued("alfa", key, "i", root, ca=False).public_bytes(PEM)
    pem = key.private_bytes(PEM, getattr(PRIVATE, form), serialization.NoEncryption())
    chain_file, key_file = tmp_path / "chain.pem", tmp_path / "key.pem"
    key_file.write_bytes("# Schlüssel\n".encode() + pem.replace(b"\n", b"\r\n"))
    for order in itertools.permutations([leaf, *authorities[:2]]):
        chain_file.write_bytes("# ö\n".encode().join(order))
        Broker("amqps://h", "", str(chain_file), str(key_file)).context()
    both = tmp_path / "both.pem"
    both.write_bytes(pem + authorities[1] + leaf)
    Broker("amqps://h", "", str(both), str(both)).context()
    der = key.private_bytes(DER, getattr(PRIVATE, form), serialization.NoEncryption())
    key_file.write_bytes(der)
    Broker("amqps://h", "", str(chain_file), str(key_file)).context()
    Broker("amqps://h", "", str(chain_file), base64.b64encode(der).decode()).context()


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_an_encrypted_key_is_refused_in_words_and_nobody_is_asked(
    root: Key, form: str, tmp_path: Path
) -> None:
    leaf, key_file = tmp_path / "leaf.pem", tmp_path / "key.pem"
    leaf.write_bytes(issued("alfa", root, "root", root).public_bytes(PEM))
    locked = serialization.BestAvailableEncryption(b"secret")
    key_file.write_bytes(root.private_bytes(PEM, getattr(PRIVATE, form), locked))
    with pytest.raises(ConfigError, match=r"WARREN_TLS_KEY is .*(encrypted|OpenSSH)"):
        Broker("amqps://h", "", str(leaf), str(key_file)).context()
    key_file.write_bytes(root.private_bytes(DER, PRIVATE.PKCS8, locked))
    with pytest.raises(ConfigError, match="encrypted"):
        Broker("amqps://h", "", str(leaf), str(key_file)).context()
    key_file.write_text(
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    with pytest.raises(ConfigError, match="OpenSSH"):
        Broker("amqps://h", "", str(leaf), str(key_file)).context()
