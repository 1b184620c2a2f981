"""A site's acceptance policy: what it says, and how it is read. `rules.registry` applies it.

TOML, strict: a name that is not known here refuses the whole file. Default deny: every list is empty and every limit is
zero until the policy says otherwise, and empty means no. policies/README.md explains the vocabulary to those who write it.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from catalog.image.manifest import Manifest, Vo
from deployer.machine.user_data import UserDataKind
from deployer.policy.anchors import TrustedKey, load_anchor_key
from deployer.policy.patterns import (
    FileName,
    Fingerprint,
    ImagePattern,
    NetworkPattern,
    VoPattern,
    matches_image,
    matches_vo,
)
from deployer.policy.policy_files import PolicyFile
from signer.documents import Document, canonical
from signer.runtime.units import Duration, Size
from signer.statements.endorsement import Role
from signer.verification.trust import Anchor
from signer.x509.cms_verifier import X509Rules
from signer.x509.path_validation import CrlPolicy

MAX_POLICY = 4 << 20
"""Bytes of a policy file: room for some hundred anchors with their keys inside."""

MAX_ANCHORS = 1024
MAX_ENTRIES = 4096
"""Anchors, and entries of one list. More belongs into a service, not a file that people review."""

DEFAULT_MAX_AGE: Final = 365 * 86400
"""Seconds after which an endorsement counts no more where a policy sets nothing: long enough for one campaign of data
taking, short enough that images which were not reviewed for years do not boot."""

Count = Annotated[int, Field(ge=1, le=MAX_ANCHORS)]


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


class EndorsementRules(Quorum):
    """The quorum for all VOs, and those of VOs with rules of their own (which then replace the general one whole)."""

    vo: dict[Vo, Quorum] = Field(default_factory=dict)


class PartitionRule(Quorum):
    """Who must vouch for single partitions, beside the endorsers of the image: the base by the site, say.

    Attributes:
        label: of which partitions, by their names in the partition table; `*` stands for anything. An image of those
            below without such a partition is refused.
        vo: whose endorsers count: the VO, or the site, that has anchors under this name.
        images: in which images.
    """

    label: Annotated[str, Field(min_length=1, max_length=72)]
    vo: Vo
    images: Annotated[tuple[ImagePattern, ...], Field(min_length=1, max_length=MAX_ENTRIES)] = ("*/*",)


class CertificateRules(Document):
    """By which CAs certificates are judged.

    Attributes:
        directory: of CAs, signing policies and revocation lists, as grids lay it out.
        crls: "required" refuses where a CA has no current revocation list; what any list says counts in either case.
    """

    directory: Annotated[str, Field(pattern=r"^/[^\x00]*$")] = "/etc/grid-security/certificates"
    crls: CrlPolicy = "required"


class RevocationRules(Document):
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


class MachineLimits(Document):
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
    """Cedar files whose rules are judged beside those of this file: names, relative to the policy (`deployer.policy.cedar`)."""

    files: Annotated[tuple[FileName, ...], Field(min_length=1, max_length=64)]


class ShadowPolicy(Document):
    """A policy that decides beside this one, on the record only: a file, relative to this one."""

    policy: FileName


class Policy(PolicyFile):
    """A whole policy, with its keys inside."""

    file_kind, max_bytes = "policy", MAX_POLICY

    anchor: Annotated[tuple[TrustedKey, ...], Field(max_length=MAX_ANCHORS)] = ()
    endorsements: EndorsementRules = EndorsementRules()
    partition: Annotated[tuple[PartitionRule, ...], Field(max_length=MAX_ENTRIES)] = ()
    x509: CertificateRules | None = None
    revocations: RevocationRules = RevocationRules()
    vos: VoLists = VoLists()
    images: ImageLists = ImageLists()
    endorsers: EndorserLists = EndorserLists()
    limits: MachineLimits = MachineLimits()
    user_data: UserDataRules = UserDataRules()
    networks: NetworkRules = NetworkRules()
    cedar: CedarFiles | None = None
    shadow: ShadowPolicy | None = None

    @model_validator(mode="after")
    def _once(self) -> Self:
        seen = set()
        for anchor in self.anchor:
            if (who := (anchor.vo, anchor.role, anchor.fingerprint)) in seen:
                raise ValueError(f"the anchor {anchor.fingerprint} is listed twice for {anchor.role} of {anchor.vo}")
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
            PolicyUnusable: malformed, with the place; or a key that is not valid.
        """
        read = super().parse(data, what)
        anchors = tuple(
            anchor.model_copy(update={"key": load_anchor_key(anchor, f"{what}: $.anchor[{index}]", key_file)})
            for index, anchor in enumerate(read.anchor)
        )
        return read.model_copy(update={"anchor": anchors})

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
        rules = self.x509 or CertificateRules()
        return X509Rules(Path(rules.directory), rules.crls)

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
        """Warnings about valid settings that are probably not intended."""
        found = [] if self.anchor else ["no [[anchor]] is given: nothing will be accepted"]
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
