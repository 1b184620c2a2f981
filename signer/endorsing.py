"""Vouching for an image, and finding out who does: statements, signatures and anchors brought together."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Protocol

from signer.errors import SignatureError
from signer.keys import normal_fingerprint
from signer.memory import Memory, anchors_digest
from signer.openpgp import Examiner, Keyring, read_keys
from signer.statement import MAX_STATEMENT, endorse_statement
from signer.status import SKEW, SignatureCheck
from signer.trust import Anchor, Claim, EndorsementCheck, Examined, Verdict, read_claim, tally, weigh

MAX_ENDORSEMENTS = 64
"""Endorsements of one image that are looked at; a catalog that sends more is broken or hostile."""

DEFAULT_LIFETIME = timedelta(days=365)
DEFAULT_ROLE = "image-administrator"


class _Examines(Protocol):
    def examine(self, data: bytes, signature: bytes, now: datetime) -> tuple[SignatureCheck, ...]: ...


class _Scheme(Protocol):
    def __call__(self, allowed_keys: Sequence[bytes]) -> AbstractContextManager[_Examines]: ...


SCHEMES: dict[str, _Scheme] = {"openpgp": Examiner}
"""How signatures are examined, by the prefix of the endorser: given the keys that are allowed, and nothing else."""


def endorse(
    keyring: Keyring,
    image_id: str,
    title: str,
    fingerprint: str,
    now: datetime,
    *,
    role: str = DEFAULT_ROLE,
    lifetime: timedelta = DEFAULT_LIFETIME,
    comment: str = "",
    passphrase: str = "",
) -> tuple[bytes, bytes]:
    """Vouch for an image: the statement's bytes and the detached signature over them.

    Args:
        keyring: where the key lies.
        image_id: `sha256:` and 64 hex digits.
        title: VO/name@version.
        fingerprint: of the primary key to sign with.
        now: when it is issued.
        role: in what function; a site trusts a key for named roles.
        lifetime: how long the endorsement holds.
        comment: free text for people.
        passphrase: of the key; empty if it has none.

    Raises:
        DocumentError: an argument is not of its form.
        KeyUnusable: the key is not here or cannot sign.
        SignatureError: what was made does not verify, such as by a key that gpg takes but sites would not.
    """
    signer = normal_fingerprint(fingerprint)
    statement = endorse_statement(image_id, title, f"openpgp:{signer}", role, now, now + lifetime, comment)
    anchor = Anchor(title.partition("/")[0], role, signer, keyring.export(signer))
    # A key made a moment after `now` was read must not be asked to sign before it existed.
    born = [part.created for key in read_keys(anchor.key) for part in (key.primary, *key.subkeys)]
    dated = max([now, *(moment for moment in born if moment <= now + SKEW)])
    signature = keyring.sign(statement, signer, passphrase=passphrase, now=dated)
    # Whatever would be refused everywhere is refused here first, while its maker is looking.
    (check,) = verify_endorsements(image_id, [(statement, signature)], [anchor], now, title=title)
    if not check.counts:
        raise SignatureError(f"the endorsement just made would not count: {check.reason}")
    return statement, signature


def verify_endorsements(
    image_id: str,
    pairs: Sequence[tuple[bytes, bytes]],
    anchors: Sequence[Anchor],
    now: datetime,
    *,
    title: str | None = None,
    max_age: timedelta | None = None,
    memory: Memory | None = None,
) -> list[EndorsementCheck]:
    """What each endorsement is worth, in the order given. One that does not count says why; it is no error.

    Args:
        image_id: the image in question, `sha256:` and 64 hex digits.
        pairs: (statement, detached signature).
        anchors: whom the site trusts, for which VO and role.
        now: the time of the decision.
        title: the image's VO/name@version from its manifest; an endorsement of another title does not count. Without it,
            compare the `vo` of each check with the manifest's.
        max_age: since the endorsement was issued; None for any.
        memory: of signatures that were examined before; without one all are examined.

    Raises:
        SignatureError: more endorsements than anybody would make.
        KeyUnusable: what an anchor gives as its key is none.
    """
    # 1. Sizes come first: nothing oversized is parsed, hashed or handed on.
    if len(pairs) > MAX_ENDORSEMENTS:
        raise SignatureError(
            f"{image_id} comes with {len(pairs)} endorsements, more than the {MAX_ENDORSEMENTS} allowed"
        )
    # 2 to 4. What is claimed; statements are capped by their parser.
    claims = [read_claim(image_id, statement[: MAX_STATEMENT + 1], anchors, title=title) for statement, _ in pairs]
    checks: list[EndorsementCheck | None] = [None if isinstance(claim, Claim) else claim for claim in claims]
    known = b"" if memory is None else anchors_digest(anchors)
    for scheme, examiner in SCHEMES.items():
        wanted = {
            at: claim
            for at, claim in enumerate(claims)
            if isinstance(claim, Claim) and claim.statement.scheme == scheme
        }
        for at, claim in list(wanted.items()):
            if memory is not None and (found := memory.get(*pairs[at], known, now)) is not None:
                checks[at] = weigh(claim, Examined(pairs[at][0], found), now, max_age=max_age)
                del wanted[at]
        if not wanted:
            continue
        # 5. A fresh private home, with the keys of the anchors that are named and no other.
        with examiner(list(dict.fromkeys(claim.anchor.key for claim in wanted.values()))) as private:
            for at, claim in wanted.items():
                # 6. Every signature of the file by itself.
                try:
                    examined = Examined(pairs[at][0], private.examine(*pairs[at], now))
                    if memory is not None:
                        memory.put(*pairs[at], known, now, examined.signatures)
                except SignatureError as exc:
                    examined = Examined(pairs[at][0], problem=str(exc))
                # 7 to 9.
                checks[at] = weigh(claim, examined, now, max_age=max_age)
    return [check for check in checks if check is not None]


def verify(
    image_id: str,
    pairs: Sequence[tuple[bytes, bytes]],
    anchors: Sequence[Anchor],
    now: datetime,
    *,
    threshold: int = 1,
    max_age: timedelta | None = None,
    title: str | None = None,
) -> Verdict:
    """Whether enough distinct endorsers vouch (step 10); arguments and errors as in :func:`verify_endorsements`."""
    checks = verify_endorsements(image_id, pairs, anchors, now, title=title, max_age=max_age)
    return tally(checks, anchors, threshold)
