"""Announce keys: what a node shows the tracker to prove that it may take part in one partition's swarm.

A key is `NODE.SITE.EXPIRY.MAC` in URL-safe characters, where MAC = HMAC-SHA-256 over node, site, info-hash and expiry.
It opens one swarm to one node until one instant; a node that loses its right simply gets no new one.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from catalog.errors import NotEntitled

KEY_LIFE = timedelta(hours=12)
"""How long a key is good: longer than any staging, short enough that a right withdrawn ends within the day."""

MIN_SECRET = 32
"""Bytes of secret: as many as the MAC has."""

ORIGIN = "origin"
"""The node name in the key of the catalog's own seeding peer, to which tracker answers prefer other seeds."""

_DOMAIN = b"partita announce key v1\0"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}|")


@dataclass(frozen=True)
class KeyHolder:
    """Whom a key was issued to: the node and its site's label. Both may be empty: a stranger in a public swarm."""

    node: str
    site: str


class AnnounceKeys:
    """Issues and checks keys under one secret of the catalog."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET:
            raise ValueError(f"the secret of announce keys has at least {MIN_SECRET} bytes, not {len(secret)}")
        self._secret = secret

    def issue(self, holder: KeyHolder, short_hash: bytes, now: datetime, life: timedelta = KEY_LIFE) -> str:
        """A key for one node and one swarm (`short_hash`: the info-hash's first 20 bytes).

        Node and site are labels of letters, digits, `_` and `-`, at most 63 characters; ValueError otherwise.
        """
        for label in (holder.node, holder.site):
            if not _NAME.fullmatch(label):
                raise ValueError(f"{label[:80]!r} is not a label: letters, digits, '_' and '-', at most 63")
        expiry = int((now + life).timestamp())
        return f"{holder.node}.{holder.site}.{expiry}.{self._mac(holder, short_hash, expiry)}"

    def check(self, key: str, short_hash: bytes, now: datetime) -> KeyHolder:
        """Whom a key was issued to.

        Raises:
            NotEntitled: it is no key, another swarm's, changed, or expired; what it claims is not repeated.
        """
        parts = key.split(".")
        if len(key) > 256 or len(parts) != 4 or not re.fullmatch(r"[0-9]{1,12}", parts[2]):
            raise NotEntitled("the announce key is not of the form NODE.SITE.EXPIRY.MAC; ask the catalog for one")
        holder, expiry = KeyHolder(parts[0], parts[1]), int(parts[2])
        if not hmac.compare_digest(self._mac(holder, short_hash, expiry).encode(), parts[3].encode()):
            raise NotEntitled("the announce key is not one for this swarm; ask the catalog for one")
        if now.timestamp() >= expiry:
            ended = datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise NotEntitled(f"the announce key expired at {ended}; ask the catalog for a new one")
        return holder

    def _mac(self, holder: KeyHolder, short_hash: bytes, expiry: int) -> str:
        # Lengths first, so that no two different tuples are the same bytes.
        fields = (holder.node.encode(), holder.site.encode(), short_hash, b"%d" % expiry)
        message = _DOMAIN + b"".join(len(field).to_bytes(2, "big") + field for field in fields)
        digest = hmac.digest(self._secret, message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
