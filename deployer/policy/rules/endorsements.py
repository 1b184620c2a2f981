"""The rules about who vouches: for the image, in roles, and for single partitions. Distinct keys count, not signatures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import Final, Self

from catalog.image.manifest import Partition
from deployer.policy.anchors import TrustedKey
from deployer.policy.decision import RuleResult
from deployer.policy.model import PartitionRule, Policy, Quorum
from deployer.policy.rules.rule import PolicyCase, PolicyChange, PolicyRule, counted, enumerate_texts
from signer.openpgp.status_lines import SKEW
from signer.runtime.units import duration_text
from signer.verification.endorsements import DEFAULT_ROLE
from signer.verification.trust import EndorsementCheck

MAX_SHOWN = 8
"""Endorsements that do not count whose reasons a rule repeats: a catalog may send many, to bury the one that matters."""

Endorser = tuple[str, str]
"""Fingerprint and role."""


@dataclass(frozen=True)
class _Election:
    """Whose endorsements count for an image or a partition, and how many must.

    Attributes:
        policy: the site's.
        quorum: what it demands.
        vo: whose endorsers count.
        image: ID and title of the image; None where a partition is endorsed.
        now: aware, UTC.
    """

    policy: Policy
    quorum: Quorum
    vo: str
    image: tuple[str, str] | None
    now: datetime

    @classmethod
    def of_image(cls, case: PolicyCase) -> Self:
        """That of the image itself."""
        manifest = case.manifest
        title = (manifest.image_id, manifest.title)
        return cls(case.policy, case.policy.quorum(manifest.vo), manifest.vo, title, case.now)

    def eligible(self) -> list[Endorser]:
        """Who could vouch: the anchors of the VO that are not denied."""
        keys, denied = self.policy.trusted(self.vo), self.policy.endorsers.deny
        return [(key.fingerprint, key.role) for key in keys if key.fingerprint not in denied]

    def discounted(self, check: EndorsementCheck) -> str | None:
        """Why an endorsement does not count; None where it does."""
        if not check.counts or check.issued is None or check.expires is None:
            return _clause(check)
        who = check.fingerprint
        if self.image is not None and (check.image_id, check.title) != self.image:
            return f"the endorsement by {who} is of {check.title or 'something else'} ({check.image_id})"
        trusted = {(key.fingerprint, key.role) for key in self.policy.trusted(self.vo)}
        if check.vo != self.vo or (who, check.role) not in trusted:
            return f"{who} is not trusted as {check.role} of {check.vo}"
        if who in self.policy.endorsers.deny:
            return f"{who} is in endorsers.deny"
        if not check.issued - SKEW <= self.now < check.expires:
            return f"the endorsement by {who} holds from {check.issued:%Y-%m-%d} to {check.expires:%Y-%m-%d} only"
        if self.now - check.issued > timedelta(seconds=self.quorum.max_age):
            limit = duration_text(self.quorum.max_age)
            return f"the endorsement by {who} was issued on {check.issued:%Y-%m-%d}, longer ago than {limit}"
        return None

    def general(self, name: str, checks: Sequence[EndorsementCheck]) -> RuleResult:
        """Whether enough vouch in whatever role."""
        return self._result(name, checks, self.quorum.threshold)

    def by_role(self, name: str, checks: Sequence[EndorsementCheck]) -> Iterator[RuleResult]:
        """Whether enough vouch, in each role that the quorum asks for. A key counts once in each of its roles."""
        for role, least in sorted(self.quorum.roles.items()):
            yield self._result(f"{name}-{role}", checks, least, role)

    def _result(self, name: str, checks: Sequence[EndorsementCheck], least: int, role: str = "") -> RuleResult:
        """Whether enough vouch: all together, or in a role. Why others do not count stands with the former alone."""
        voters: set[str] = set()
        not_counted: list[str] = []
        for check in checks:
            if why := self.discounted(check):
                not_counted.append(why)
            elif role in {"", check.role}:
                voters.add(check.fingerprint)
        could = {fingerprint for fingerprint, its_role in self.eligible() if role in {"", its_role}} - voters
        missing, as_role = least - len(voters), f" as {role}" if role else ""
        because = "" if role or not not_counted else f" ({_first(not_counted, '; ', '; ')})"
        silent = f", not by {_first(sorted(could), ', ', ' and ')}" if could else ""
        if len(could) < missing:
            possible = len(voters) + len(could)
            change = f"the site trusts more endorsers of {self.vo}{as_role}: {possible} can count, {least} must"
        else:
            one_of = ", ".join(sorted(could))
            change = f"{counted(missing, 'more endorsement')} by {'one' if missing == 1 else 'some'} of {one_of}"
        what = "image" if self.image else "partition"
        return RuleResult.of(
            name,
            passed=len(voters) >= least,
            reason=f"endorsed{as_role} by {', '.join(sorted(voters))}{silent}{because}",
            otherwise=f"{len(voters)} of {least} endorsers{as_role} vouch for the {what}{because}",
            change=change,
        )


def _image_checks(case: PolicyCase) -> list[EndorsementCheck]:
    return [check for check in case.checks if not check.address]


def _endorser_trusted(case: PolicyCase) -> Iterator[RuleResult]:
    """The policy has an anchor for the image's VO."""
    vo = case.manifest.vo
    count = len({anchor.fingerprint for anchor in case.policy.trusted(vo)})
    yield RuleResult.of(
        "anchors",
        passed=count > 0,
        reason=f"{counted(count, 'endorser')} trusted for VO {vo}",
        otherwise=f"no endorser is trusted for VO {vo}",
        change=f"the site adds an [[anchor]] for {vo} to its policy",
    )


def _endorsed(case: PolicyCase) -> Iterator[RuleResult]:
    yield _Election.of_image(case).general("endorsements", _image_checks(case))


def _endorsed_in_roles(case: PolicyCase) -> Iterator[RuleResult]:
    return _Election.of_image(case).by_role("endorsements", _image_checks(case))


def _partition_elections(case: PolicyCase) -> Iterator[tuple[PartitionRule, _Election, list[Partition]]]:
    """What the policy demands for single partitions, and the image's partitions of that label with content."""
    parts = [part for part in case.manifest.partitions() if part.content]
    for demand in case.policy.partition_rules(case.manifest):
        election = _Election(case.policy, demand, demand.vo, None, case.now)
        yield demand, election, [part for part in parts if fnmatchcase(part.label, demand.label)]


def _partitions_endorsed(case: PolicyCase) -> Iterator[RuleResult]:
    """Enough endorsers vouch for single partitions. An endorsement of the bytes counts in every image."""
    for demand, election, parts in _partition_elections(case):
        if not parts:
            yield RuleResult(
                name=f"partition-{demand.label}",
                passed=False,
                reason=f"{case.manifest.title} has no partition {demand.label!r} with content, and one must be endorsed",
                change="choose an image that has one",
            )
        for part in parts:
            mine = [check for check in case.checks if check.address == str(part.content)]
            yield election.general(f"partition-{part.label}", mine)
            yield from election.by_role(f"partition-{part.label}", mine)


def _more_partition_endorsements(case: PolicyCase) -> Iterator[PolicyChange]:
    """Those who may vouch for single partitions do."""
    for demand, election, parts in _partition_elections(case):
        for part in parts:
            for who in _growing(election.eligible()):
                text = enumerate_texts([f"{fingerprint} as {role} of {demand.vo}" for fingerprint, role in who])
                yield PolicyChange(
                    "endorser",
                    f"its partition {part.label!r} were endorsed by {text}",
                    partial(_with_endorsements, who=who, vo=demand.vo, address=str(part.content)),
                )


def counted_endorsements(case: PolicyCase) -> list[EndorsementCheck]:
    """The endorsements of the image that count, in their order."""
    election = _Election.of_image(case)
    return [check for check in _image_checks(case) if election.discounted(check) is None]


def _clause(check: EndorsementCheck) -> str:
    """A check's sentence, to stand among others; it speaks of "it", so say whose endorsement it is."""
    reason = check.reason.rstrip(".") or "it could not be verified"
    return f"the endorsement by {check.fingerprint}: {reason}" if check.fingerprint else reason


def _first(texts: Sequence[str], between: str, last: str) -> str:
    """The first of many texts, and how many more there are."""
    more = f"{last}{len(texts) - MAX_SHOWN} more" if len(texts) > MAX_SHOWN else ""
    return between.join(texts[:MAX_SHOWN]) + more


def _growing(endorsers: list[Endorser]) -> Iterator[list[Endorser]]:
    """Each endorser alone; then the first two, the first three, up to all."""
    yield from ([one] for one in endorsers)
    yield from (endorsers[:many] for many in range(2, len(endorsers) + 1))


def more_endorsements(case: PolicyCase, *, trusting: bool = True) -> Iterator[PolicyChange]:
    """One more who vouches; then several at once; then, with `trusting`, one whom the site does not trust yet."""
    election = _Election.of_image(case)
    have = {(check.fingerprint, check.role) for check in counted_endorsements(case)}
    eligible = [one for one in election.eligible() if one not in have]
    for who in _growing(eligible):
        text = enumerate_texts([f"{fingerprint} as {role}" for fingerprint, role in who])
        yield PolicyChange("endorser", f"it were endorsed by {text}", partial(_with_endorsements, who=who))
    if not trusting:
        return
    roles = [role for role, least in sorted(election.quorum.roles.items()) for _ in range(least)]
    roles += [DEFAULT_ROLE] * (election.quorum.threshold - len(roles))
    for many in range(1, len(roles) + 1):
        yield _more_trust(election.vo, eligible, roles[:many])
        yield _more_trust(election.vo, eligible, roles[-many:])


def _more_trust(vo: str, eligible: Sequence[Endorser], roles: Sequence[str]) -> PolicyChange:
    fresh = [(f"{number:040X}", role) for number, role in enumerate(roles)]
    keys = tuple(TrustedKey(vo=vo, role=role, fingerprint=fingerprint, key="-") for fingerprint, role in fresh)
    wanted = enumerate_texts([f"{counted(roles.count(role), 'endorser')} as {role}" for role in dict.fromkeys(roles)])
    more = f", and it were endorsed by {enumerate_texts([one for one, _ in eligible])} too" if eligible else ""
    return PolicyChange(
        "site",
        f"the site trusted {wanted} of {vo} who {'vouches' if len(roles) == 1 else 'vouch'} for it{more}",
        lambda case: _with_endorsements(case.with_policy(anchor=(*case.policy.anchor, *keys)), [*fresh, *eligible]),
    )


def _with_endorsements(case: PolicyCase, who: Sequence[Endorser], vo: str = "", address: str = "") -> PolicyCase:
    """The same with hypothetical endorsements, of the image or (by an address) of a partition."""
    manifest = case.manifest
    fresh = [
        EndorsementCheck(
            counts=True,
            reason="supposed",
            fingerprint=fingerprint,
            vo=vo or manifest.vo,
            role=role,
            issued=case.now,
            expires=case.now + timedelta(days=1),
            title="" if address else manifest.title,
            image_id="" if address else manifest.image_id,
            address=address,
        )
        for fingerprint, role in who
    ]
    return replace(case, checks=(*case.checks, *fresh))


TRUSTED: Final = (PolicyRule("anchors", _endorser_trusted, more_endorsements),)
ENDORSED: Final = (
    PolicyRule("endorsements", _endorsed, more_endorsements),
    PolicyRule("endorsements", _endorsed_in_roles, more_endorsements, several=True, urgent=True),
    PolicyRule("partition", _partitions_endorsed, _more_partition_endorsements, several=True),
)
"""The rules about endorsements alone, of the image and of its partitions."""
