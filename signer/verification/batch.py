"""Examining many signature files at once, by either scheme: each file by itself, nothing twice that is remembered."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from signer.errors import SignatureError
from signer.openpgp.keyring import OpenPgpExaminer
from signer.verification.signature_cache import SignatureCache
from signer.verification.trust import ExaminedStatement
from signer.x509.cms_verifier import CmsExaminer, X509Rules

SCHEMES = ("openpgp", "x509")
"""How statements are signed: the prefixes of their signers' names."""


def examine_all(
    scheme: str,
    pairs: Mapping[int, tuple[bytes, bytes]],
    keys: Sequence[bytes],
    known: bytes,
    now: datetime,
    memory: SignatureCache | None,
    x509: X509Rules | None,
) -> Iterator[tuple[int, ExaminedStatement]]:
    """Steps 5 and 6 of verification: the signatures on each statement, by the places of the pairs.

    Args:
        scheme: one of SCHEMES.
        pairs: (statement, signature).
        keys: those that are allowed, and no others.
        known: what tells the site's anchors from others, for the memory.
        now: the time of the examination.
        memory: of what was examined before.
        x509: by which CAs certificates are judged; without it none counts.
    """
    try:
        if scheme == "x509":
            known += _judging(x509).state()
    except SignatureError as exc:
        yield from ((at, ExaminedStatement(pair[0], problem=str(exc))) for at, pair in pairs.items())
        return
    left = dict(pairs)
    for at, pair in pairs.items() if memory is not None else ():
        if memory is not None and (found := memory.get(*pair, known, now)) is not None:
            yield at, ExaminedStatement(pair[0], found)
            del left[at]
    if not left:
        return
    # 5. A fresh private home, with the keys of the anchors that are named and no other.
    allowed = list(dict.fromkeys(keys))
    with OpenPgpExaminer(allowed) if scheme == "openpgp" else CmsExaminer(allowed, _judging(x509)) as private:
        for at, pair in left.items():
            # 6. Every signature of the file by itself.
            try:
                found = private.examine(*pair, now)
                if memory is not None:
                    memory.put(*pair, known, now, found)
                yield at, ExaminedStatement(pair[0], found)
            except SignatureError as exc:
                yield at, ExaminedStatement(pair[0], problem=str(exc))


def _judging(x509: X509Rules | None) -> X509Rules:
    if x509 is None:
        raise SignatureError("no directory of CAs is set here, by which a certificate could be judged")
    return x509
