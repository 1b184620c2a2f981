"""The CA of restricted swarms, which issues short-lived TLS certificates, each for one content.

The swarm of a restricted content uses TLS; a peer is accepted if the CA in the info dict signed its certificate and the
certificate names the torrent (libtorrent's manual, "SSL torrents"). A node generates its own key, which never leaves it.
Certificates are not revoked; they expire within hours.
"""

from datetime import datetime, timedelta
from typing import Self

from catalog.errors import Malformed
from signer.x509.authority import CLIENT_AND_SERVER, X509Authority, requested_key, subject_name


class SwarmCa(X509Authority):
    """The CA. Its certificate is part of the swarms' info-hashes; its key is in the catalog's database."""

    @classmethod
    def make(cls, now: datetime) -> Self:
        """Make a new CA."""
        return cls.named("Partita swarms", now)

    def issue(self, request: str, torrent: str, holder: str, now: datetime, life: timedelta) -> str:
        """Issue a certificate (PEM) for the key in a request (PKCS #10, PEM), valid for one torrent until `now + life`.

        Args:
            request: only its key is used, and the proof that the sender has the private key.
            torrent: the torrent's name, which libtorrent compares with the subjectAltName, byte for byte.
            holder: the node's name, for people who read the certificate.

        Raises:
            Malformed: not a certificate request, not for a P-256 key, or not signed with that key.
        """
        try:
            public = requested_key(request)
        except ValueError as exc:
            raise Malformed(str(exc)) from exc
        return self.sign(public, subject_name(holder), (torrent,), now, life, CLIENT_AND_SERVER)
