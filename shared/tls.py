"""Encrypted connections: whom to believe, who we are, and what it means when that fails.

Certificates and keys stand in a bundle as base64 of their DER, on one line; each setting may name
a PEM file instead.
"""

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import ConfigError

_KINDS: Final = {"ca": "CERTIFICATE", "tls_certificate": "CERTIFICATE", "tls_key": "PRIVATE KEY"}


@dataclass(frozen=True)
class Broker:
    """Where a broker is and how to log in: a URL, and for ``amqps`` what TLS needs beyond it.

    ``ca`` is who may vouch for the broker (default: whoever the system trusts);
    ``tls_certificate`` and ``tls_key`` are who we are, if we prove it by certificate.
    """

    url: str
    ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""

    @classmethod
    def from_bundle(cls, path: Path) -> "Broker":
        """As the bundle in ``path`` says."""
        pairs = (line.partition("=") for line in path.read_text().splitlines())
        told = {name.removeprefix("WARREN_").lower(): value for name, _, value in pairs}
        names = ("ca", "tls_certificate", "tls_key")
        return cls(told["broker_url"], *(told.get(name, "") for name in names))

    def __repr__(self) -> str:
        """Nothing that may be secret."""
        return "Broker(…)"

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or later, certificate and host name checked.

        Raises ConfigError if a certificate or key cannot be read.
        """
        ca = self._pem("ca")
        try:
            context = ssl.create_default_context(cadata=ca or None)
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
        # Python reads these from files only; nobody else may read this one, and it goes at once.
        descriptor, name = tempfile.mkstemp(suffix=".pem")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self._pem("tls_certificate") + self._pem("tls_key"))
            context.load_cert_chain(name)
        except (ssl.SSLError, OSError):
            raise ConfigError(
                "WARREN_TLS_CERTIFICATE and WARREN_TLS_KEY do not belong together: use the bundle"
                " as `broker-config` wrote it"
            ) from None
        finally:
            Path(name).unlink(missing_ok=True)

    def _pem(self, setting: str) -> str:
        value: str = getattr(self, setting)
        if not value:
            return ""
        kind, name = _KINDS[setting], f"WARREN_{setting.upper()}"
        try:
            if value.startswith("MI"):  # how every DER of more than 255 bytes begins in base64
                der = base64.b64decode(value, validate=True)
                text = base64.encodebytes(der).decode("ascii")
                pem = f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n"
            else:
                pem = Path(value).read_text()
            if setting != "tls_key":
                ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN") :].strip())
        except (OSError, ValueError):
            raise ConfigError(
                f"{name} is neither a PEM file nor what `broker-config` writes into a bundle"
            ) from None
        return pem if pem.endswith("\n") else pem + "\n"


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
    """What OpenSSL's words mean, what to do, and whether waiting cannot mend it."""
    for words, mend in _MENDS:
        if words in said:
            return mend, True
    return f"TLS failed ({said})", False
