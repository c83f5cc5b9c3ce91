"""A certificate authority for one federation, and the certificates it vouches for.

Kept in ``HOME/tls``: ``ca.pem`` and ``ca.key``, ``server.pem`` and ``server.key``, and for mutual
TLS ``users/NAME.pem`` and ``.key``, where the common name is the broker user. ECDSA on P-256.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from warren_shared.errors import BrokerConfigError, ConfigError
from warren_shared.files import private_folder, write_private
from warren_shared.tls import authorities

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_CA_DAYS: Final = 3650
_DAYS: Final = 825  # longer ones some platforms refuse
_RENEW_DAYS: Final = 30
_SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    def for_bundle(self) -> tuple[str, str]:
        """Both as base64 of their DER, a line each."""
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        der = key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return line_of(certificate), base64.b64encode(der).decode("ascii")


class Authority:
    """The authority in ``home``; made on first use and never replaced, since bundles name it.

    Raises:
        BrokerConfigError: its files are damaged.
    """

    def __init__(self, home: Path) -> None:
        self.folder = private_folder(home / "tls")
        self.certificate = self.folder / "ca.pem"
        self._key = self.folder / "ca.key"
        if not self.certificate.exists():
            self._create()

    def server(self, hosts: Iterable[str] = (), *, renew: bool = False) -> Identity:
        """The broker's certificate, for this machine and for ``hosts``, names or addresses."""
        identity = Identity(self.folder / "server.pem", self.folder / "server.key")
        wanted = {str(_name(host).value) for host in (*LOCAL_HOSTS, *hosts)}
        has = _hosts(identity.certificate)
        if renew or not wanted <= has or self._is_unusable(identity):
            names = sorted({*wanted, *has})
            self._issue(identity, "broker", [_SERVER], [_name(name) for name in names])
        return identity

    def user(self, name: str, *, renew: bool = False) -> Identity:
        """The certificate that ``name`` logs in with."""
        folder = private_folder(self.folder / "users")
        identity = Identity(folder / f"{name}.pem", folder / f"{name}.key")
        if renew or self._is_unusable(identity):
            self._issue(identity, name, [_CLIENT], [])
        return identity

    def forget(self, name: str) -> None:
        """Delete the certificate of ``name``; what it named can log in no more anyway."""
        for ending in ("pem", "key"):
            (self.folder / "users" / f"{name}.{ending}").unlink(missing_ok=True)

    def for_bundle(self) -> str:
        """Its certificate as base64 of the DER."""
        return line_of(self._load()[0])

    def _create(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _subject("Warren development CA")
        built = (
            _builder(name, name, key.public_key(), _CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(_key_id(key.public_key()), critical=False)
        )
        write_private(self._key, _pem(key))
        write_private(self.certificate, _text(built.sign(key, hashes.SHA256())))

    def _load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            key = serialization.load_pem_private_key(self._key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise BrokerConfigError(
                f"{self.folder} has no usable authority ({error}): restore ca.pem and ca.key, or"
                " delete the folder and hand out all bundles again"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise BrokerConfigError(f"{self._key} is not one of ours: delete {self.folder}")
        return certificate, key

    def _is_unusable(self, identity: Identity) -> bool:
        """Whether it is missing, ends soon, or was left half-written: without its own key, or by
        another authority.
        """
        found = _certificate(identity.certificate)
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RENEW_DAYS)
        if found is None or found.not_valid_after_utc < soon:
            return True
        try:
            key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
            found.verify_directly_issued_by(self._load()[0])
        except (OSError, ValueError, TypeError, InvalidSignature):
            return True
        return key.public_key() != found.public_key()

    def _issue(
        self,
        identity: Identity,
        name: str,
        usage: list[x509.ObjectIdentifier],
        hosts: list[x509.GeneralName],
    ) -> None:
        authority, signing = self._load()
        key = ec.generate_private_key(ec.SECP256R1())
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
        built = (
            _builder(_subject(name), authority.subject, key.public_key(), _DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(_key_id(key.public_key()), critical=False)
            .add_extension(signer, critical=False)
        )
        if hosts:
            built = built.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        write_private(identity.key, _pem(key))
        write_private(identity.certificate, _text(built.sign(signing, hashes.SHA256())))


def line_of(certificate: x509.Certificate) -> str:
    """A certificate as base64 of its DER, on one line."""
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode("ascii")


def read_ca(path: Path) -> str:
    """The certificates in a file, PEM or DER, as base64 of their DER, one behind the other.

    Those that vouch for themselves come first: older workers read the first alone.

    Raises:
        BrokerConfigError: there is none.
    """
    try:
        return authorities(str(path))
    except ConfigError as error:
        raise BrokerConfigError(f"--ca {path} is no PEM certificate ({error})") from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_id(key: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key)


def _usage(*, signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode("ascii"))
    except (UnicodeError, ValueError):
        raise BrokerConfigError(f"--host {host} is neither a host name nor an address") from None


def _certificate(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def _hosts(path: Path) -> set[str]:
    found = _certificate(path)
    if found is None:
        return set()
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in names}


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
