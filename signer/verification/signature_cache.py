"""A cache of examined signatures, so that the same bytes are not examined twice under the same anchors.

Examining takes a process per signature; a cached result takes two hashes. A result is valid from the moment of the
examination until something in it expires (`SignatureCheck.until`); whether an endorsement counts is evaluated each time.
A clock that was set back, other keys, or one byte of difference means a new examination.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime

from signer.openpgp.status_lines import SignatureCheck
from signer.verification.trust import Anchor

MAX_CACHED = 16384
"""Signature files whose results are cached, some hundred bytes each; the least recently used are dropped first."""

SignatureKey = tuple[bytes, bytes, bytes]


def anchors_digest(anchors: Sequence[Anchor]) -> bytes:
    """Return a digest that identifies a set of anchors, keys included."""
    parts = sorted(
        (one.scheme, one.vo, one.role, one.fingerprint, hashlib.sha256(one.key).hexdigest()) for one in anchors
    )
    return hashlib.sha256(repr(parts).encode()).digest()


class SignatureCache:
    """Results of examinations. Safe to use from several threads; it lives as long as its process.

    Attributes:
        examined: how often a signature file was examined because its result was not cached.
    """

    def __init__(self, most: int = MAX_CACHED) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[SignatureKey, tuple[datetime, datetime, tuple[SignatureCheck, ...]]] = OrderedDict()
        self.examined = 0

    def get(
        self, statement: bytes, signature: bytes, anchors: bytes, now: datetime
    ) -> tuple[SignatureCheck, ...] | None:
        """Return the checks of a signature file, or None if they are not cached or not valid at that time.

        Args:
            statement, signature: the exact bytes.
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
        """Store checks that were made just now, if all of them say how long they are valid."""
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
