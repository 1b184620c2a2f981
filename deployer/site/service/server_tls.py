"""TLS of a site's service: its own certificate, and the client certificates that it accepts.

A client certificate is optional: people have tokens. Accepted are those of the site's own CA, which nodes and
guests have, and, where the site names a directory of CAs, those of the grid with their proxies (RFC 3820). A verified
chain says nothing about rights: authorization comes afterwards, by the leaf.
"""

import ssl
from datetime import datetime, timedelta
from pathlib import Path

from catalog.errors import Misused
from deployer.pki.ca import (
    CertificateAuthority,
    certificate_of,
    fingerprint,
    needs_renewal,
)
from deployer.site.settings import SiteSettings
from signer.runtime import files
from signer.x509.authority import CertificateKeyPair

SERVER_LIFE = timedelta(days=365)
"""Validity of the certificate that the site makes for itself; it is renewed in time, also without a restart."""

FILE = "tls.pem"


class ServerTls:
    """The TLS context of the service's connections.

    Args:
        settings: names, a certificate of another CA, CAs of the grid.
        authority: the site's own CA.
        now: the present.

    Raises:
        Misused: a file that the settings name cannot be used.
    """

    def __init__(self, settings: SiteSettings, authority: CertificateAuthority, now: datetime) -> None:
        if (settings.certificate is None) != (settings.key is None):
            raise Misused("site.certificate and site.key belong together: set both, or neither")
        self._settings, self._authority = settings, authority
        self._shown = b""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=authority.certificate.decode("ascii"))
        if settings.grid_certificates is not None:
            if not settings.grid_certificates.is_dir():
                raise Misused(f"{settings.grid_certificates}: not a directory of CA certificates")
            context.load_verify_locations(capath=str(settings.grid_certificates))
            context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
        self.context = context
        self.renew(now)

    def renew(self, now: datetime) -> None:
        """Renew the certificate if it is due, or reload the other CA's from its files. Connections stay open."""
        if self._settings.certificate is not None and self._settings.key is not None:
            self._shown = _load(self.context, self._settings.certificate, self._settings.key)
        elif not self._shown or needs_renewal(self._shown, now):
            pair = self._authority.server(self._settings.names, now, SERVER_LIFE)
            place = self._settings.directory / FILE
            _write(place, pair)
            self._shown = _load(self.context, place, place)

    @property
    def shown(self) -> str:
        """SHA-256 of the present certificate, 64 hex digits."""
        return fingerprint(certificate_of(self._shown, 0))

    @property
    def anchors(self) -> bytes:
        """The certificates (PEM) that nodes verify the service with: the site's CA and the last of another CA's chain."""
        if self._settings.certificate is None:
            return self._authority.certificate
        return self._authority.certificate + certificate_of(self._shown, -1)


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> bytes:
    try:
        shown = certificate.read_bytes()
        context.load_cert_chain(certificate, key)
    except OSError as exc:
        raise Misused(
            f"{certificate}, {key}: not usable as the site's certificate and key: {exc.strerror or exc}"
        ) from exc
    return shown


def _write(place: Path, pair: CertificateKeyPair) -> None:
    """Write the file for this user alone; the library takes keys from files only."""
    files.write(place, pair.key + pair.certificate, mode=0o600)
