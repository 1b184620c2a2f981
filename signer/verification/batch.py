"""Examines many signature files at once, of either scheme: each file by itself, and none again that is in the cache."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime

from signer.errors import SignatureError
from signer.openpgp.verifier import OpenPgpExaminer
from signer.verification.signature_cache import SignatureCache
from signer.verification.trust import ExaminedStatement
from signer.x509.cms_verifier import CmsExaminer, X509Rules

SCHEMES = ("openpgp", "x509")
"""The schemes of signatures: the prefixes of signers' names in statements."""


def examine_all(
    scheme: str,
    pairs: Mapping[int, tuple[bytes, bytes]],
    keys: Sequence[bytes],
    anchors: bytes,
    now: datetime,
    cache: SignatureCache | None,
    x509: X509Rules | None,
) -> Iterator[tuple[int, ExaminedStatement]]:
    """Examine the signatures on each statement (steps 5 and 6 of verification); yields (key in `pairs`, result).

    Args:
        scheme: one of SCHEMES.
        pairs: (statement, signature).
        keys: the only allowed ones.
        anchors: the digest of the site's anchors, for the cache.
        now: the time of the examination.
        cache: of earlier results.
        x509: the rules and CAs for certificates; without them no certificate counts.
    """
    try:
        if scheme == "x509":
            anchors += _required(x509).state()
    except SignatureError as exc:
        yield from ((at, ExaminedStatement(pair[0], problem=str(exc))) for at, pair in pairs.items())
        return
    left = dict(pairs)
    for at, pair in pairs.items() if cache is not None else ():
        if cache is not None and (found := cache.get(*pair, anchors, now)) is not None:
            yield at, ExaminedStatement(pair[0], found)
            del left[at]
    if not left:
        return
    # 5. A fresh private home, with the keys of the anchors that are named and no other.
    allowed = list(dict.fromkeys(keys))
    opened: AbstractContextManager[OpenPgpExaminer | CmsExaminer] = (
        OpenPgpExaminer(allowed) if scheme == "openpgp" else nullcontext(CmsExaminer(allowed, _required(x509)))
    )
    with opened as examiner:
        for at, pair in left.items():
            # 6. Every signature of the file by itself.
            try:
                found = examiner.examine(*pair, now)
                if cache is not None:
                    cache.put(*pair, anchors, now, found)
                yield at, ExaminedStatement(pair[0], found)
            except SignatureError as exc:
                yield at, ExaminedStatement(pair[0], problem=str(exc))


def _required(x509: X509Rules | None) -> X509Rules:
    if x509 is None:
        raise SignatureError("no directory of CAs is configured here, so no certificate can be verified")
    return x509
