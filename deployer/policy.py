"""A site's acceptance policy: what it says, and how it is read. `deciding` applies it.

TOML, strict: a name that is not known here refuses the whole file. Default deny: every list is empty and every limit is
zero until the policy says otherwise, and empty means no. policies/README.md explains the vocabulary to those who write it.
"""

import hashlib
import json
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from catalog.manifest import Manifest, Vo
from deployer.amounts import Duration, Size
from deployer.errors import PolicyUnusable
from deployer.userdata import UserDataKind
from signer.chains import Crls
from signer.cms import X509Rules
from signer.documents import Document, canonical, parse_toml
from signer.errors import DocumentError, KeyUnusable
from signer.statement import Role
from signer.trust import Anchor
from signer.x509 import read_certificate

MAX_POLICY = 4 << 20
"""Bytes of a policy file: room for some hundred anchors with their keys inside."""

MAX_KEY = 1 << 20
"""Bytes of one armored key: certificates flooded with signatures stay outside."""

MAX_ANCHORS = 1024
MAX_ENTRIES = 4096
"""Anchors, and entries of one list. More belongs into a service, not a file that people review."""

DEFAULT_MAX_AGE: Final = 365 * 86400
"""Seconds after which an endorsement counts no more where a policy sets nothing: long enough for one campaign of data
taking, short enough that nobody boots what nobody has looked at for years."""

KEY_BEGINS: Final = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

_VO_PATTERN = re.compile(r"[a-z0-9*][a-z0-9*._-]{0,62}")
_IMAGE_PATTERN = re.compile(
    r"sha256:[0-9a-f]{64}|[a-z0-9*][a-z0-9*._-]{0,62}/[a-z0-9*][a-z0-9*._-]{0,127}(@[A-Za-z0-9*][A-Za-z0-9*.+_~-]{0,63})?"
)
_NETWORK_PATTERN = re.compile(r"user|(network|bridge):[A-Za-z0-9*][A-Za-z0-9*_.-]{0,63}")


def _matching(pattern: re.Pattern[str], wanted: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{text[:80]!r} is not {wanted}")
        return text

    return check


VoPattern = Annotated[str, AfterValidator(_matching(_VO_PATTERN, "the name of a VO, in which * stands for anything"))]
ImagePattern = Annotated[
    str,
    AfterValidator(
        _matching(
            _IMAGE_PATTERN,
            "an image ID (sha256:<64 hex digits>), VO/NAME or VO/NAME@VERSION, in which * stands for anything",
        )
    ),
]
NetworkPattern = Annotated[
    str,
    AfterValidator(_matching(_NETWORK_PATTERN, "user, network:NAME or bridge:NAME, in which * stands for anything")),
]
Fingerprint = Annotated[
    str,
    AfterValidator(
        _matching(
            re.compile(r"[0-9A-F]{40}|/.{1,1023}"),
            "a primary key's fingerprint: 40 hex digits in capitals, without spaces",
        )
    ),
]
"""Of a key, or the subject of a certificate, as `openssl x509 -noout -subject -nameopt compat` writes it."""
Count = Annotated[int, Field(ge=1, le=MAX_ANCHORS)]
FileName = Annotated[
    str, AfterValidator(_matching(re.compile(r"[^\x00/][^\x00]{0,254}"), "the name of a file, relative to the policy"))
]


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


class Quorum(Document):
    """How many must vouch, and how recently.

    Attributes:
        threshold: distinct endorsers.
        max_age: seconds since an endorsement was issued.
        roles: for a role, how many distinct endorsers in it.
    """

    threshold: Count = 1
    max_age: Duration = DEFAULT_MAX_AGE
    roles: dict[Role, Count] = Field(default_factory=dict)


class Endorsements(Quorum):
    """The quorum for all VOs, and those of VOs with rules of their own (which then replace the general one whole)."""

    vo: dict[Vo, Quorum] = Field(default_factory=dict)


class PartitionRule(Quorum):
    """Who must vouch for single partitions, beside whoever vouches for the image: the base by the site, say.

    Attributes:
        label: of which partitions, by their names in the partition table; `*` stands for anything. An image of those
            below without such a partition is refused.
        vo: whose endorsers count: the VO, or the site, that has anchors under this name.
        images: in which images.
    """

    label: Annotated[str, Field(min_length=1, max_length=72)]
    vo: Vo
    images: Annotated[tuple[ImagePattern, ...], Field(min_length=1, max_length=MAX_ENTRIES)] = ("*/*",)


class Certificates(Document):
    """By which CAs certificates are judged.

    Attributes:
        directory: of CAs, signing policies and revocation lists, as grids lay it out.
        crls: "required" refuses where a CA has no current revocation list; what any list says counts in either case.
    """

    directory: Annotated[str, Field(pattern=r"^/[^\x00]*$")] = "/etc/grid-security/certificates"
    crls: Crls = "required"


class Revocations(Document):
    """What happens to machines whose image no longer passes, because of a revocation or the block list.

    Attributes:
        running: "notify" says so on the record, "pause" suspends them, "drain" asks their guests to power off and ends
            those that do not, "destroy" ends them at once.
    """

    running: Literal["notify", "pause", "drain", "destroy"] = "notify"


class VoLists(Document):
    """Which VOs' images may run."""

    allow: Annotated[tuple[VoPattern, ...], Field(max_length=MAX_ENTRIES)] = ()
    deny: Annotated[tuple[VoPattern, ...], Field(max_length=MAX_ENTRIES)] = ()


class ImageLists(Document):
    """Which images may run."""

    allow: Annotated[tuple[ImagePattern, ...], Field(max_length=MAX_ENTRIES)] = ()
    deny: Annotated[tuple[ImagePattern, ...], Field(max_length=MAX_ENTRIES)] = ()


class EndorserLists(Document):
    """Whose endorsements do not count although an anchor names them. (The anchors are the list of those that do.)"""

    deny: Annotated[tuple[Fingerprint, ...], Field(max_length=MAX_ENTRIES)] = ()


class Limits(Document):
    """The most that is given; memory, cores, disk and blank per machine. Sizes are bytes, the lifetime seconds.

    Attributes:
        disk: all disks of a machine together, as the guest sees them.
        blank: all its blanks together: what a machine may fill with bytes of its own.
        machines: on one node, those that run already included.
    """

    memory: Size = 0
    cores: Annotated[int, Field(ge=0, le=1024)] = 0
    disk: Size = 0
    blank: Size = 0
    lifetime: Duration = 0
    machines: Annotated[int, Field(ge=0, le=65536)] = 0


class UserDataRules(Document):
    """Which kinds of user-data requesters may give to a guest's first boot."""

    allow: tuple[UserDataKind, ...] = ()


class NetworkRules(Document):
    """Which networks requesters may choose. None at all is always allowed."""

    allow: Annotated[tuple[NetworkPattern, ...], Field(max_length=MAX_ENTRIES)] = ()


class CedarFiles(Document):
    """Cedar files whose rules are judged beside those of this file: names, relative to the policy (`deployer.cedar`)."""

    files: Annotated[tuple[FileName, ...], Field(min_length=1, max_length=64)]


class Shadow(Document):
    """A policy that decides beside this one, on the record only: a file, relative to this one."""

    policy: FileName


class Policy(Document):
    """A whole policy, with its keys inside."""

    anchor: Annotated[tuple[TrustedKey, ...], Field(max_length=MAX_ANCHORS)] = ()
    endorsements: Endorsements = Endorsements()
    partition: Annotated[tuple[PartitionRule, ...], Field(max_length=MAX_ENTRIES)] = ()
    x509: Certificates | None = None
    revocations: Revocations = Revocations()
    vos: VoLists = VoLists()
    images: ImageLists = ImageLists()
    endorsers: EndorserLists = EndorserLists()
    limits: Limits = Limits()
    user_data: UserDataRules = UserDataRules()
    networks: NetworkRules = NetworkRules()
    cedar: CedarFiles | None = None
    shadow: Shadow | None = None

    @model_validator(mode="after")
    def _once(self) -> Self:
        seen = set()
        for anchor in self.anchor:
            if (who := (anchor.vo, anchor.role, anchor.fingerprint)) in seen:
                raise ValueError(f"the anchor {anchor.fingerprint} stands twice for {anchor.role} of {anchor.vo}")
            seen.add(who)
        return self

    @classmethod
    def parse(cls, data: bytes, what: str, key_file: Callable[[str], bytes] | None = None) -> Self:
        """Read a policy.

        Args:
            data: TOML.
            what: how to call the policy in errors: its file.
            key_file: reads a key file that an anchor names; without it every key stands in the policy itself.

        Raises:
            PolicyUnusable: malformed, with the place; or a key that is none.
        """
        try:
            read = parse_toml(cls, data, what, limit=MAX_POLICY)
        except DocumentError as exc:
            raise PolicyUnusable(str(exc)) from exc
        anchors = tuple(
            anchor.model_copy(update={"key": _key(anchor, f"{what}: $.anchor[{index}]", key_file)})
            for index, anchor in enumerate(read.anchor)
        )
        return read.model_copy(update={"anchor": anchors})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a policy file and the key files that it names, which are looked for beside it; errors as in `parse`."""
        try:
            data = _read(path, MAX_POLICY)
        except OSError as exc:
            raise PolicyUnusable(f"policy {path}: cannot be read: {exc.strerror}") from exc
        return cls.parse(data, f"policy {path}", lambda name: _read(path.parent / name, MAX_KEY))

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits over the canonical form, keys included: what a decision says it was made with."""
        # Each decision names it. Beside whose it is, because copies with changes copy this along.
        known: tuple[int, str] | None = self.__dict__.get("_digest")
        if known is None or known[0] != id(self):
            known = (id(self), "sha256:" + hashlib.sha256(canonical(self)).hexdigest())
            self.__dict__["_digest"] = known
        return known[1]

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """The anchors as the verifier of endorsements takes them."""
        return tuple(anchor.anchor for anchor in self.anchor)

    @property
    def x509_rules(self) -> X509Rules | None:
        """How certificates are judged; None where neither the policy nor an anchor speaks of any."""
        if self.x509 is None and all(anchor.scheme == "openpgp" for anchor in self.anchor):
            return None
        said = self.x509 or Certificates()
        return X509Rules(Path(said.directory), said.crls)

    def partition_rules(self, manifest: Manifest) -> tuple[PartitionRule, ...]:
        """The rules about single partitions that an image falls under."""
        return tuple(rule for rule in self.partition if matches_image(rule.images, manifest))

    def anchors_for(self, manifest: Manifest) -> tuple[Anchor, ...]:
        """The anchors whose endorsements of an image, or of its partitions, can count."""
        vos = {manifest.vo, *(rule.vo for rule in self.partition_rules(manifest))}
        return tuple(anchor.anchor for anchor in self.anchor if anchor.vo in vos)

    def trusted(self, vo: str) -> tuple[TrustedKey, ...]:
        """The anchors of a VO."""
        return tuple(anchor for anchor in self.anchor if anchor.vo == vo)

    def quorum(self, vo: str) -> Quorum:
        """What the policy demands for images of a VO."""
        return self.endorsements.vo.get(vo, self.endorsements)

    def warnings(self) -> list[str]:
        """What is allowed to stand in a policy and probably not meant."""
        found = [] if self.anchor else ["there is no [[anchor]]: nothing will be accepted"]
        for vo in sorted({anchor.vo for anchor in self.anchor}):
            keys = {anchor.fingerprint for anchor in self.trusted(vo)} - set(self.endorsers.deny)
            quorum = self.quorum(vo)
            if len(keys) < quorum.threshold:
                found.append(
                    f"{vo} needs {quorum.threshold} endorsers and only {len(keys)} can count: nothing of it passes"
                )
            for role, least in sorted(quorum.roles.items()):
                able = {anchor.fingerprint for anchor in self.trusted(vo) if anchor.role == role} & keys
                if len(able) < least:
                    found.append(f"{vo} needs {least} endorsers as {role} and only {len(able)} can count")
            if not matches_vo(self.vos.allow, vo):
                found.append(f"{vo} has anchors but vos.allow does not name it")
        for rule in self.partition:
            able = {anchor.fingerprint for anchor in self.trusted(rule.vo)} - set(self.endorsers.deny)
            if len(able) < rule.threshold:
                found.append(
                    f"partitions {rule.label} need {rule.threshold} endorsers of {rule.vo} and only {len(able)} can count"
                )
        found += [f"endorsements.vo.{vo} has no anchor" for vo in sorted(self.endorsements.vo) if not self.trusted(vo)]
        found += [
            f"{name} is empty: nothing will be accepted"
            for name, lists in (("vos.allow", self.vos.allow), ("images.allow", self.images.allow))
            if not lists
        ]
        found += [
            f"limits.{name} is 0: no machine will be accepted"
            for name in ("memory", "cores", "disk", "lifetime", "machines")
            if not getattr(self.limits, name)
        ]
        return found


def matches_vo(patterns: tuple[str, ...], vo: str) -> str | None:
    """The first pattern that names the VO."""
    return next((pattern for pattern in patterns if fnmatchcase(vo, pattern)), None)


def matches_image(patterns: tuple[str, ...], manifest: Manifest) -> str | None:
    """The first pattern that names the image: by its ID, or by what the manifest itself says it is called."""
    image_id = manifest.image_id
    for pattern in patterns:
        if pattern.startswith("sha256:"):
            if pattern == image_id:
                return pattern
            continue
        names, at, version = pattern.partition("@")
        vo, _, name = names.partition("/")
        named = fnmatchcase(manifest.vo, vo) and fnmatchcase(manifest.name, name)
        if named and (not at or fnmatchcase(manifest.version, version)):
            return pattern
    return None


def anchor_block(vo: str, role: str, fingerprint: str, key: str) -> str:
    """An `[[anchor]]` with the key inside, to append to a policy file.

    Raises:
        PolicyUnusable: something in it is not of the form that a policy accepts.
    """
    armored = _armored(key, "the key")
    try:
        TrustedKey(vo=vo, role=role, fingerprint=fingerprint, key=armored)
    except ValidationError as exc:
        fault = exc.errors()[0]
        raise PolicyUnusable(
            f"the anchor's {fault['loc'][0]} {fault['input']!r} cannot stand in a policy: {fault['msg']}"
        ) from exc
    # A literal string: TOML reads nothing into it, and an armored key holds no quotes.
    return (
        f'\n[[anchor]]\nvo = "{vo}"\nrole = "{role}"\nfingerprint = "{fingerprint}"\n'
        f"key = '''\n{armored.strip()}\n'''\n"
    )


def certificate_anchor(vo: str, role: str, certificate: bytes) -> tuple[dict[str, str], str]:
    """Subject and issuer of a certificate, and an `[[anchor]]` for its holder, to append to a policy file.

    Raises:
        PolicyUnusable: it is no certificate, or something in it is not of the form that a policy accepts.
    """
    try:
        found = read_certificate(certificate)
        pem = found.pem().decode("ascii").strip()
        TrustedKey(vo=vo, role=role, fingerprint=found.subject, issuer=found.issuer, key=pem)
    except KeyUnusable as exc:
        raise PolicyUnusable(f"the certificate cannot stand in a policy: {exc}") from exc
    except ValidationError as exc:
        fault = exc.errors()[0]
        raise PolicyUnusable(f"the anchor cannot stand in a policy: {fault['loc'][-1]}: {fault['msg']}") from exc
    names = {"subject": found.subject, "issuer": found.issuer}
    # Basic strings, in JSON's spelling: what people's names hold is escaped. A PEM holds no quotes.
    said = "".join(f"{name} = {json.dumps(text)}\n" for name, text in ({"vo": vo, "role": role} | names).items())
    return names, f"\n[[anchor]]\n{said}certificate = '''\n{pem}\n'''\n"


def _key(anchor: TrustedKey, place: str, key_file: Callable[[str], bytes] | None) -> str:
    if anchor.scheme == "openpgp":
        return _held(anchor.key, f"{place}.key", key_file, _armored)
    place += ".certificate"
    text = _held(anchor.key, place, key_file, lambda text, _: text)
    try:
        found = read_certificate(text.encode("ascii", "replace"))
    except KeyUnusable as exc:
        raise PolicyUnusable(f"{place}: {exc}") from exc
    if (found.subject, found.issuer) != (anchor.fingerprint, anchor.issuer):
        raise PolicyUnusable(
            f"{place}: is that of {found.subject}, issued by {found.issuer}, and not as the anchor says"
        )
    return found.pem().decode("ascii")


def _held(text: str, place: str, key_file: Callable[[str], bytes] | None, check: Callable[[str, str], str]) -> str:
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
        raise PolicyUnusable(f"{place}: the key file {text[:200]!r} cannot be read: {_why(exc)}") from exc
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


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit + 1)


def _why(exc: Exception) -> str:
    return exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
