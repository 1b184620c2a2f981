"""How to reach a site, and the credentials for it."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import Misused
from signer.runtime.tls import trust_for


@dataclass(frozen=True)
class SiteEndpoint:
    """How to reach a site, and the credentials for it.

    Attributes:
        url: of the service; unused with a socket.
        socket: of the service on this machine.
        ca: the CA certificates (PEM) to verify it with; None for those of this system.
        token: a bearer token, or empty.
        certificate, key: PEM files of a certificate or proxy.
    """

    url: str = "http://site"
    socket: Path | None = None
    ca: str | None = None
    token: str = ""
    certificate: Path | None = None
    key: Path | None = None

    def tls(self) -> ssl.SSLContext | bool:
        """The TLS context for a connection; Misused if the CA or the certificate cannot be used."""
        if self.socket is not None or not self.url.startswith("https:"):
            return trust_for("")
        try:
            context = ssl.create_default_context(cadata=self.ca)
        except ssl.SSLError as exc:
            raise Misused(f"the CA certificate for {self.url} is not a PEM certificate") from exc
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as exc:
                raise Misused(
                    f"{self.certificate}: cannot be used as a client certificate: {exc.strerror or exc}"
                ) from exc
        return context
