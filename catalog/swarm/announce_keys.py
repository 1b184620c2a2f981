"""Announce keys, by which a node proves to the tracker that it may take part in the swarm of one content.

A key is `NODE.SITE.EXPIRY.MAC` in URL-safe characters, where MAC = HMAC-SHA-256 over node, site, info-hash and expiry.
It admits one node to one swarm until one instant; a node that loses its right gets no new key.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from catalog.errors import NotEntitled

KEY_LIFE = timedelta(hours=12)
"""Validity of a key: longer than any staging, short enough that a removed right ends within the day."""

MIN_SECRET = 32
"""Bytes of the secret, at least: the length of the MAC."""

ORIGIN = "origin"
"""The node name in the key of the catalog's own seeding peer, which the tracker names after other seeds."""

_DOMAIN = b"partita announce key v1\0"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}|")


@dataclass(frozen=True)
class KeyHolder:
    """The holder of a key: the node and its site's label. Both are empty for an anonymous peer in a public swarm."""

    node: str
    site: str


class AnnounceKeys:
    """Issues and checks announce keys under one secret of the catalog."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET:
            raise ValueError(f"the secret of announce keys needs at least {MIN_SECRET} bytes, not {len(secret)}")
        self._secret = secret

    def issue(self, holder: KeyHolder, short_hash: bytes, now: datetime, life: timedelta = KEY_LIFE) -> str:
        """Make a key for one node and one swarm (`short_hash`: the first 20 bytes of the info-hash).

        Node and site are labels of letters, digits, `_` and `-`, at most 63 characters; ValueError otherwise.
        """
        for label in (holder.node, holder.site):
            if not _NAME.fullmatch(label):
                raise ValueError(f"{label[:80]!r} is not a valid label: use letters, digits, '_' and '-', at most 63")
        expiry = int((now + life).timestamp())
        return f"{holder.node}.{holder.site}.{expiry}.{self._mac(holder, short_hash, expiry)}"

    def check(self, key: str, short_hash: bytes, now: datetime) -> KeyHolder:
        """Return the holder of a key.

        Raises:
            NotEntitled: the key is malformed, of another swarm, changed, or expired; the message repeats nothing of it.
        """
        parts = key.split(".")
        if len(key) > 256 or len(parts) != 4 or not re.fullmatch(r"[0-9]{1,12}", parts[2]):
            raise NotEntitled("the announce key does not have the form NODE.SITE.EXPIRY.MAC; ask the catalog for a key")
        holder, expiry = KeyHolder(parts[0], parts[1]), int(parts[2])
        if not hmac.compare_digest(self._mac(holder, short_hash, expiry).encode(), parts[3].encode()):
            raise NotEntitled("the announce key is not valid for this swarm; ask the catalog for a key")
        if now.timestamp() >= expiry:
            ended = datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise NotEntitled(f"the announce key expired at {ended}; ask the catalog for a new one")
        return holder

    def _mac(self, holder: KeyHolder, short_hash: bytes, expiry: int) -> str:
        # With lengths, so that different tuples never give the same bytes.
        fields = (holder.node.encode(), holder.site.encode(), short_hash, b"%d" % expiry)
        message = _DOMAIN + b"".join(len(field).to_bytes(2, "big") + field for field in fields)
        digest = hmac.digest(self._secret, message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
