"""Encrypted connections: whom to believe, who we are, and what it means when that fails.

Certificates and keys stand in a bundle as base64 of their DER, on one line; each setting may name
a file instead: PEM, with whatever stands between the certificates, or DER.
"""

import base64
import binascii
import os
import re
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from warren_shared.errors import ConfigError

_BLOCK: Final = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 ]+)-----(?P<body>.*?)-----END (?P=label)-----", re.DOTALL
)
_CERTIFICATES: Final = ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE")
_KEYS: Final = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")


@dataclass(frozen=True)
class Broker:
    """Where a broker is and how to log in: a URL, and for ``amqps`` what TLS needs beyond it.

    ``ca`` is who may vouch for the broker (default: the authorities that the system trusts);
    ``tls_certificate`` and ``tls_key`` are who we are, if we prove it by certificate. ``proxy`` and
    ``token_file`` are the settings of those names (`warren_shared.amqp.proxy`,
    `warren_shared.amqp.token`).
    """

    url: str
    ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    proxy: str = ""
    token_file: str = ""

    @classmethod
    def from_bundle(cls, path: Path) -> "Broker":
        """As the bundle in ``path`` says."""
        pairs = (line.partition("=") for line in path.read_text().splitlines())
        told = {name.removeprefix("WARREN_").lower(): value for name, _, value in pairs}
        names = ("ca", "tls_certificate", "tls_key", "proxy", "token_file")
        return cls(told["broker_url"], *(told.get(name, "") for name in names))

    def __repr__(self) -> str:
        """Nothing that may be secret."""
        return "Broker(…)"

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or later, certificate and host name checked.

        Raises ConfigError if a certificate or key cannot be read.
        """
        ca = "".join(_certificates("WARREN_CA", self.ca)) if self.ca else None
        try:
            context = ssl.create_default_context(cadata=ca)
        except ssl.SSLError:
            raise ConfigError("WARREN_CA holds no certificate: use the bundle as it is") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if bool(self.tls_certificate) != bool(self.tls_key):
            missing = "TLS_KEY" if self.tls_certificate else "TLS_CERTIFICATE"
            raise ConfigError(f"WARREN_{missing} is missing: use the whole bundle")
        if self.tls_certificate:
            self._identify(context)
        return context

    def _identify(self, context: ssl.SSLContext) -> None:
        chain = _certificates("WARREN_TLS_CERTIFICATE", self.tls_certificate)
        key = _key("WARREN_TLS_KEY", self.tls_key)
        # Ours has to come first, and each before who vouches for it; files have them in any order.
        for number in range(len(chain)):
            ordered = _in_order(chain, number)
            if _load(context, "".join(ordered) + key):
                return
        raise ConfigError(
            "WARREN_TLS_CERTIFICATE and WARREN_TLS_KEY do not belong together: use the bundle as"
            " `broker-config` wrote it"
        )


def authorities(file: str) -> str:
    """The certificates in ``file`` as a bundle has them: base64 of their DER, roots first.

    Raises ConfigError if there is none.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    found = [x509.load_pem_x509_certificate(p.encode()) for p in _certificates("the file", file)]
    found.sort(key=lambda certificate: certificate.issuer != certificate.subject)
    return base64.b64encode(b"".join(c.public_bytes(Encoding.DER) for c in found)).decode("ascii")


class _Block(NamedTuple):
    label: str
    body: bytes

    def pem(self) -> str:
        """The block as OpenSSL reads it, whatever line ends it had."""
        text = base64.encodebytes(base64.b64decode(b"".join(self.body.split()), validate=True))
        return f"-----BEGIN {self.label}-----\n{text.decode('ascii')}-----END {self.label}-----\n"


def _load(context: ssl.SSLContext, pem: str) -> bool:
    """Whether ``pem``, a chain and a key that belong together, is who we are from now on."""
    # Python reads these from files only; no other user may read this one; it is deleted at once.
    descriptor, name = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(pem)
        context.load_cert_chain(name, password=lambda: "")  # a service must never ask a terminal
    except ssl.SSLError:
        return False
    except OSError as error:
        raise ConfigError(
            f"OpenSSL reads our certificate from a file, and {tempfile.gettempdir()} takes none"
            f" ({error.strerror}): make room there, or set TMPDIR"
        ) from None
    finally:
        Path(name).unlink(missing_ok=True)
    return True


def _in_order(chain: list[str], first: int) -> list[str]:
    """The ``first`` of ``chain``, who vouches for it, and so on; what is left comes last."""
    from cryptography import x509

    left = list(chain)
    ordered = [left.pop(first)]
    try:
        known = {pem: x509.load_pem_x509_certificate(pem.encode()) for pem in chain}
    except ValueError:
        return ordered + left
    while True:
        issuer = known[ordered[-1]].issuer
        found = [pem for pem in left if known[pem].subject == issuer]
        if not found:
            return ordered + left
        left.remove(found[0])
        ordered.append(found[0])


def _certificates(name: str, value: str) -> list[str]:
    """The certificates that the setting ``name`` holds or names, each as PEM.

    Raises ConfigError if there are none, or one is damaged.
    """
    blocks = [
        block for block in _blocks(name, value, "CERTIFICATE") if block.label in _CERTIFICATES
    ]
    if not blocks:
        raise ConfigError(f"{name} {_NEITHER}")
    found = []
    for number, block in enumerate(blocks, start=1):
        try:
            pem = block.pem()
            ssl.create_default_context(cadata=pem)
        except (binascii.Error, ssl.SSLError, ValueError):
            raise ConfigError(
                f"{name}: certificate {number} of {len(blocks)} is damaged; get the file again"
            ) from None
        found.append(pem)
    return found


def _key(name: str, value: str) -> str:
    """The private key that the setting ``name`` holds or names, as PEM.

    Raises ConfigError if there is none, or it is encrypted.
    """
    blocks = _blocks(name, value, "PRIVATE KEY")
    if any(
        block.label == "ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in block.body for block in blocks
    ):
        raise ConfigError(
            f"{name} is encrypted, and a service cannot type its passphrase: decrypt it with"
            " `openssl pkey -in OLD -out NEW`, and let only this worker read it"
        )
    if any(block.label == "OPENSSH PRIVATE KEY" for block in blocks):
        raise ConfigError(f"{name} is a key of OpenSSH's; TLS needs one in PEM (`openssl pkey`)")
    keys = [block for block in blocks if block.label in _KEYS]
    try:
        return keys[0].pem()
    except (IndexError, binascii.Error):
        raise ConfigError(f"{name} {_NEITHER}") from None


_NEITHER: Final = "is neither a PEM file nor what `broker-config` writes into a bundle"


def _blocks(name: str, value: str, kind: str) -> list[_Block]:
    """What stands between BEGIN and END in the setting or the file that it names.

    DER has no labels; it is taken for ``kind``.
    """
    data = _der(value)
    if data is None:
        try:
            data = Path(value).read_bytes()
        except (OSError, ValueError):
            raise ConfigError(f"{name} {_NEITHER}") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # as editors on Windows save text
        data = data.decode("utf-16", "replace").encode()
    if parts := _der_parts(data):
        if kind == "PRIVATE KEY":
            return [_der_key(data)]
        return [_Block(kind, base64.b64encode(part)) for part in parts]
    return [_Block(found["label"].decode(), found["body"]) for found in _BLOCK.finditer(data)]


def _der_key(data: bytes) -> _Block:
    """A key in DER, which does not say of which of three forms it is."""
    from cryptography.hazmat.primitives import serialization as form

    try:
        key = form.load_der_private_key(data, None)
    except TypeError:  # it wants a passphrase
        return _Block("ENCRYPTED PRIVATE KEY", b"")
    except ValueError:
        return _Block("PRIVATE KEY", base64.b64encode(data))
    der = key.private_bytes(form.Encoding.DER, form.PrivateFormat.PKCS8, form.NoEncryption())
    return _Block("PRIVATE KEY", base64.b64encode(der))


def _der(value: str) -> bytes | None:
    """The DER that ``value`` is in base64; None if it is none, but the name of a file."""
    try:
        data = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if _der_parts(data) else None


def _der_parts(data: bytes) -> list[bytes]:
    """The DER sequences that ``data`` is, one behind the other; none if it is anything else."""
    found = []
    while data:
        width = data[1] & 0x7F if len(data) > 1 and data[1] & 0x80 else 0
        if data[0] != 0x30 or len(data) < 2 + width or width > 4:
            return []
        length = int.from_bytes(data[2 : 2 + width], "big") if width else data[1]
        end = 2 + width + length
        if end > len(data):
            return []
        found.append(data[:end])
        data = data[end:]
    return found


# Words of OpenSSL, and what to do; the first that occurs is meant.
_MENDS: Final = (
    ("has expired", "its certificate has expired: renew it with `broker-config certs --renew`"),
    ("not yet valid", "its certificate is not valid yet: check this machine's clock"),
    ("mismatch", "its certificate is for another host name: connect by that name"),
    ("not valid for", "its certificate is for another host name: connect by that name"),
    (
        "certificate verify failed",
        "its certificate is not from whom we trust: use the bundle, whose WARREN_CA vouches for it",
    ),
    ("WRONG_VERSION_NUMBER", "no TLS there: begin the URL with amqp://, or use the TLS port"),
    ("RECORD_LAYER_FAILURE", "no TLS there: begin the URL with amqp://, or use the TLS port"),
    (
        "CERTIFICATE_REQUIRED",
        "it wants a client certificate: use a bundle of `broker-config enrol`",
    ),
    ("HANDSHAKE_FAILURE", "it wants a client certificate: use a bundle of `broker-config enrol`"),
    ("PROTOCOL_VERSION", "it speaks no TLS 1.2 or later: enable that on the broker"),
    ("UNSUPPORTED_PROTOCOL", "it speaks no TLS 1.2 or later: enable that on the broker"),
    ("ALERT", "it does not accept our certificate: use the newest bundle"),
)


def explain(said: str) -> tuple[str, bool]:
    """What OpenSSL's words mean, what to do, and whether waiting cannot help."""
    for words, hint in _MENDS:
        if words in said:
            return hint, True
    return f"TLS failed ({said})", False
