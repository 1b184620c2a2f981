"""Remembering what examined signatures came to, so that the same bytes are not examined twice under the same anchors.

Examining costs a process per signature; remembering costs two hashes. What is remembered holds from the moment of the
examination until something in it expires (`SignatureCheck.until`); whether an endorsement counts is weighed anew each
time. A clock that went back, other keys, or one byte of difference means a new examination.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime

from signer.openpgp.status_lines import SignatureCheck
from signer.verification.trust import Anchor

MAX_CACHED = 16384
"""Signature files that are remembered, the least recently used forgotten first: some hundred bytes each."""

SignatureKey = tuple[bytes, bytes, bytes]


def anchors_digest(anchors: Sequence[Anchor]) -> bytes:
    """What tells one set of anchors, keys included, from another."""
    parts = sorted(
        (one.scheme, one.vo, one.role, one.fingerprint, hashlib.sha256(one.key).hexdigest()) for one in anchors
    )
    return hashlib.sha256(repr(parts).encode()).digest()


class SignatureCache:
    """What was found out. Safe to use from several threads; it lives as long as its process.

    Attributes:
        examined: how often something was examined because it was not remembered.
    """

    def __init__(self, most: int = MAX_CACHED) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[SignatureKey, tuple[datetime, datetime, tuple[SignatureCheck, ...]]] = OrderedDict()
        self.examined = 0

    def get(
        self, statement: bytes, signature: bytes, anchors: bytes, now: datetime
    ) -> tuple[SignatureCheck, ...] | None:
        """The checks of a signature file, if they are remembered and hold at that time.

        Args:
            statement, signature: the very bytes.
            anchors: their digest.
            now: the time of the decision.
        """
        key = _key(statement, signature, anchors)
        with self._lock:
            if (found := self._known.get(key)) is None:
                return None
            since, until, checks = found
            if not since <= now < until:
                return None
            self._known.move_to_end(key)
            return checks

    def put(
        self, statement: bytes, signature: bytes, anchors: bytes, now: datetime, checks: tuple[SignatureCheck, ...]
    ) -> None:
        """Remember checks that were made just now, if all of them say how long they hold."""
        limits = [check.until for check in checks if check.until is not None]
        with self._lock:
            self.examined += 1
            if not checks or len(limits) < len(checks):
                return
            self._known[_key(statement, signature, anchors)] = (now, min(limits), checks)
            while len(self._known) > self._most:
                self._known.popitem(last=False)


def _key(statement: bytes, signature: bytes, anchors: bytes) -> SignatureKey:
    return hashlib.sha256(statement).digest(), hashlib.sha256(signature).digest(), anchors
