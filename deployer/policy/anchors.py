"""Trust anchors: which key, or which certificate's holder, may vouch for the images of a VO, and in which role.

They stand in a policy with their keys inside, or (only in a file) with the names of files that hold them.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from catalog.image.manifest import Vo
from deployer.errors import PolicyUnusable
from deployer.policy.patterns import Fingerprint
from signer.documents import Document
from signer.errors import KeyUnusable
from signer.statements.endorsement import Role
from signer.verification.trust import Anchor
from signer.x509.certificates import read_certificate

MAX_KEY = 1 << 20
"""Bytes of one armored key: certificates flooded with signatures stay outside."""

KEY_BEGINS: Final = "-----BEGIN PGP PUBLIC KEY BLOCK-----"


class TrustedKey(Document):
    """A trust anchor: this key, or the holder of that certificate, may vouch for images of that VO, in that role.

    A certificate is written as `subject`, `issuer` and `certificate`, and kept as fingerprint, issuer and key.

    Attributes:
        fingerprint: of the key; or the certificate's subject.
        key: the armored public key, or the certificate in PEM, or (only in a file) the path of a file that holds it,
            relative to the policy.
        issuer: the certificate's issuer; None for a key.
    """

    vo: Vo
    role: Role
    fingerprint: Fingerprint
    key: Annotated[str, Field(min_length=1, max_length=MAX_KEY)]
    issuer: Annotated[str, Field(min_length=1, max_length=1024)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_certificate(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not {"subject", "certificate"} & set(value):
            return value
        rest = {name: each for name, each in value.items() if name not in {"subject", "certificate"}}
        if {"fingerprint", "key"} & set(rest) or not {"subject", "certificate", "issuer"} <= set(value):
            raise ValueError("an anchor names either fingerprint and key, or subject, issuer and certificate")
        return rest | {"fingerprint": value["subject"], "key": value["certificate"]}

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if (self.issuer is not None) != self.fingerprint.startswith("/"):
            raise ValueError("an anchor names either fingerprint and key, or subject, issuer and certificate")
        return self

    @property
    def scheme(self) -> Literal["openpgp", "x509"]:
        """How its holder signs."""
        return "openpgp" if self.issuer is None else "x509"

    @property
    def anchor(self) -> Anchor:
        """As the verifier of endorsements takes it."""
        return Anchor(self.vo, self.role, self.fingerprint, self.key.encode("ascii"), self.scheme)


def anchor_block(vo: str, role: str, fingerprint: str, key: str) -> str:
    """An `[[anchor]]` with the key inside, to append to a policy file.

    Raises:
        PolicyUnusable: something in it is not of the form that a policy accepts.
    """
    armored = _armored(key, "the key")
    return _block({"vo": vo, "role": role, "fingerprint": fingerprint, "key": armored.strip() + "\n"})


def certificate_anchor(vo: str, role: str, certificate: bytes) -> tuple[dict[str, str], str]:
    """Subject and issuer of a certificate, and an `[[anchor]]` for its holder, to append to a policy file.

    Raises:
        PolicyUnusable: it is not a certificate, or something in it is not of the form that a policy accepts.
    """
    try:
        found = read_certificate(certificate)
    except KeyUnusable as exc:
        raise PolicyUnusable(f"the certificate cannot be used in a policy: {exc}") from exc
    names = {"subject": found.subject, "issuer": found.issuer}
    pem = found.pem().decode("ascii").strip()
    # Basic strings, in JSON's spelling: what people's names hold is escaped. A PEM holds no quotes.
    return names, _block({"vo": vo, "role": role, **names, "certificate": f"{pem}\n"})


def _block(anchor: Mapping[str, str]) -> str:
    try:
        TrustedKey.model_validate(anchor)
    except ValidationError as exc:
        fault = exc.errors()[0]
        field, value = fault["loc"][0] if fault["loc"] else "form", repr(fault["input"])[:80]
        raise PolicyUnusable(f"the anchor's {field} {value} cannot be used in a policy: {fault['msg']}") from exc
    return "\n" + tomli_w.dumps({"anchor": [anchor]}, multiline_strings=True)


def load_anchor_key(anchor: TrustedKey, place: str, key_file: Callable[[str], bytes] | None) -> str:
    """The key of an anchor itself, in the form that verifiers take, read from the file that the anchor names if it does.

    Args:
        anchor: as it was read.
        place: how to call it in errors.
        key_file: reads a file that an anchor names; None where no policy file stands behind it.

    Raises:
        PolicyUnusable: the key is not valid, or cannot be read.
    """
    if anchor.scheme == "openpgp":
        return _checked_key(anchor.key, f"{place}.key", key_file, _armored)
    place += ".certificate"
    text = _checked_key(anchor.key, place, key_file, lambda text, _: text)
    try:
        found = read_certificate(text.encode("ascii", "replace"))
    except KeyUnusable as exc:
        raise PolicyUnusable(f"{place}: {exc}") from exc
    if (found.subject, found.issuer) != (anchor.fingerprint, anchor.issuer):
        raise PolicyUnusable(
            f"{place}: is that of {found.subject}, issued by {found.issuer}, and not as the anchor says"
        )
    return found.pem().decode("ascii")


def _checked_key(
    text: str, place: str, key_file: Callable[[str], bytes] | None, check: Callable[[str, str], str]
) -> str:
    """A key's text as it stands in the policy or in the file that it names, checked."""
    if text.lstrip().startswith("-----BEGIN"):
        return check(text, place)
    if key_file is None:
        raise PolicyUnusable(
            f"{place}: names a file, and this policy is not read from one; put the armored key itself here"
        )
    try:
        data = key_file(text)
    except (OSError, ValueError) as exc:
        raise PolicyUnusable(
            f"{place}: the key file {text[:200]!r} cannot be read: {getattr(exc, 'strerror', None) or exc}"
        ) from exc
    if len(data) > MAX_KEY:
        raise PolicyUnusable(
            f"{place}: the key file {text!r} has more than the {MAX_KEY} bytes allowed; export a minimal key"
        )
    return check(data.decode("ascii", "replace"), place)


def _armored(text: str, place: str) -> str:
    """One public key block in ASCII and nothing round it, with the line ends of this system."""
    armored = text.replace("\r\n", "\n").strip()
    if not (armored.startswith(KEY_BEGINS) and armored.endswith("-----END PGP PUBLIC KEY BLOCK-----")):
        raise PolicyUnusable(
            f"{place}: is not an armored OpenPGP public key; write it with `gpg --export --armor FINGERPRINT`"
        )
    if not all(c.isprintable() or c == "\n" for c in armored) or not armored.isascii() or "'''" in armored:
        raise PolicyUnusable(f"{place}: holds characters that no armored key has")
    return armored + "\n"
