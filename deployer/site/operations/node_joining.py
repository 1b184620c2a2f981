"""Joining of nodes: an operator requests a token, and the node redeems it once for a certificate.

The token is a secret and the fingerprint of the site's CA: the operator carries both to the node in one line, so the
very first connection is to the right site and by the right node. The site keeps only a digest of the secret. The node
makes its own key; the site gives it an identity. From then on it renews its certificate by showing it.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from deployer.pki.ca import CertificateAuthority
from deployer.protocol.joining import JoinRequest, JoinResponse, NodeCertificate
from deployer.site.schema.messages import JoinToken
from deployer.site.store.changes import add_node, new_join_token, redeem_join_token
from deployer.site.store.store import SiteStore

SECRET = 32
"""Bytes of a token's secret: too many to guess, so digests need no salt and no slow hash."""


@dataclass(frozen=True)
class NodeJoinService:
    """Issues join tokens, admits nodes and renews their certificates.

    Attributes:
        store: of the site.
        authority: the site's CA.
        fingerprint: of the CA that the site is trusted by.
        url: of the site, for people.
        life: of nodes' certificates.
        random: returns that many random bytes.
    """

    store: SiteStore
    authority: CertificateAuthority
    fingerprint: str
    url: str
    life: timedelta
    random: Callable[[int], bytes]

    def token(self, name: str, life: timedelta, now: datetime) -> JoinToken:
        """A token for a node that will have that name; with an empty name the node chooses it."""
        secret = "j" + base64.urlsafe_b64encode(self.random(SECRET)).rstrip(b"=").decode("ascii")
        expires = (now + life).replace(microsecond=0)
        self.store.write(new_join_token, join_token_digest(secret), expires, name)
        return JoinToken(token=f"{secret}.{self.fingerprint}", expires=expires, url=self.url)

    def join(self, wanted: JoinRequest, now: datetime) -> JoinResponse:
        """Admit a node.

        Raises:
            Misused: the certificate request is unusable; the token stays valid.
            The errors of the store about the token.
        """
        self.authority.node(wanted.request, "trial", now, self.life)
        name = self.store.write(redeem_join_token, join_token_digest(wanted.token), now) or wanted.name
        node = self.store.write(add_node, name, wanted.labels)
        return JoinResponse(
            node=node.uuid,
            name=node.name,
            certificate=self.authority.node(wanted.request, node.uuid, now, self.life),
        )

    def renew(self, request: str, node: str, now: datetime) -> NodeCertificate:
        """A new certificate for a node that authenticated with its old one; Misused as in :meth:`join`."""
        return NodeCertificate(certificate=self.authority.node(request, node, now, self.life))


def join_token_digest(secret: str) -> str:
    """The digest that the site keeps of a token's secret."""
    return hashlib.sha256(secret.encode()).hexdigest()
