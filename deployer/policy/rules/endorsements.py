"""The rules about who vouches: for the image, in roles, and for single partitions. Distinct keys count, not signatures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from catalog.image.manifest import Manifest
from deployer.policy.anchors import TrustedKey
from deployer.policy.decision import RuleResult
from deployer.policy.model import Policy, Quorum
from deployer.policy.rules.rule import PolicyCase, PolicyChange, PolicyRule, counted, enumerate_texts
from signer.openpgp.status_lines import SKEW
from signer.runtime.units import duration_text
from signer.verification.endorsements import DEFAULT_ROLE
from signer.verification.trust import EndorsementCheck

MAX_SHOWN = 8
"""Endorsements that do not count whose reasons a rule repeats: a catalog may send many, to bury the one that matters."""


class EndorsementRule(PolicyRule):
    """A rule that more endorsements of the image help against."""

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        """See PolicyRule."""
        return more_endorsements(case)


class EndorserTrusted(EndorsementRule):
    """The policy has an anchor for the image's VO."""

    name = "anchors"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        vo = case.manifest.vo
        count = len({anchor.fingerprint for anchor in case.policy.trusted(vo)})
        yield self.result(
            passed=count > 0,
            reason=f"{counted(count, 'endorser')} trusted for VO {vo}",
            otherwise=f"no endorser is trusted for VO {vo}",
            change=f"the site adds an [[anchor]] for {vo} to its policy",
        )


class ImageEndorsed(EndorsementRule):
    """Enough endorsers vouch for the image."""

    name = "endorsements"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        votes = _image_votes(case)
        yield _verdict(self.name, votes, votes.quorum.threshold, case.policy)


class ImageEndorsedInRoles(EndorsementRule):
    """Enough endorsers vouch for the image in each role that the policy asks for. A key counts once in each of its roles."""

    name, several, urgent = "endorsements", True, True

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        votes = _image_votes(case)
        for role, least in sorted(votes.quorum.roles.items()):
            yield _verdict(f"{self.name}-{role}", votes, least, case.policy, role)


class PartitionEndorsed(PolicyRule):
    """What the policy demands for single partitions. An endorsement of the bytes counts in every image."""

    name, several = "partition", True

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        for demand in case.policy.partition_rules(case.manifest):
            found = [
                part for part in case.manifest.partitions() if part.content and fnmatchcase(part.label, demand.label)
            ]
            if not found:
                yield RuleResult(
                    name=f"{self.name}-{demand.label}",
                    passed=False,
                    reason=f"{case.manifest.title} has no partition {demand.label!r} with content, and one must be endorsed",
                    change="choose an image that has one",
                )
            for part in found:
                mine = [check for check in case.checks if check.address == str(part.content)]
                votes = _votes(mine, case.policy, demand, demand.vo, None, case.now)
                name = f"{self.name}-{part.label}"
                yield _verdict(name, votes, demand.threshold, case.policy)
                for role, least in sorted(demand.roles.items()):
                    yield _verdict(f"{name}-{role}", votes, least, case.policy, role)

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        """Those who may vouch for single partitions do."""
        policy, manifest = case.policy, case.manifest
        for demand in policy.partition_rules(manifest):
            able = [
                (key.fingerprint, key.role)
                for key in policy.trusted(demand.vo)
                if key.fingerprint not in policy.endorsers.deny
            ]
            for part in manifest.partitions():
                if part.content is None or not fnmatchcase(part.label, demand.label):
                    continue
                for many in range(1, len(able) + 1):
                    for who in [[one] for one in able] if many == 1 else [able[:many]]:
                        text = enumerate_texts([f"{fingerprint} as {role} of {demand.vo}" for fingerprint, role in who])
                        yield PolicyChange(
                            "endorser",
                            f"its partition {part.label!r} were endorsed by {text}",
                            partial(_with_endorsements, who=who, vo=demand.vo, address=str(part.content)),
                        )


TRUSTED: Final[tuple[PolicyRule, ...]] = (EndorserTrusted(),)
ENDORSED: Final[tuple[PolicyRule, ...]] = (ImageEndorsed(), ImageEndorsedInRoles(), PartitionEndorsed())
"""The rules about endorsements alone, of the image and of its partitions."""


def counted_endorsements(
    policy: Policy, manifest: Manifest, endorsements: Sequence[EndorsementCheck], now: datetime
) -> list[EndorsementCheck]:
    """The endorsements of an image that count by a policy, in their order; `now` is aware, UTC."""
    image, quorum = (manifest.image_id, manifest.title), policy.quorum(manifest.vo)
    return [
        check
        for check in endorsements
        if not check.address and _discounted(check, policy, image, manifest.vo, quorum, now) is None
    ]


@dataclass(frozen=True)
class _Votes:
    """Who vouches for an image or a partition: fingerprints by role, and why other endorsements do not count."""

    what: str
    vo: str
    quorum: Quorum
    by_role: dict[str, set[str]]
    not_counted: tuple[str, ...]


def _image_votes(case: PolicyCase) -> _Votes:
    manifest = case.manifest
    mine = [check for check in case.checks if not check.address]
    quorum = case.policy.quorum(manifest.vo)
    return _votes(mine, case.policy, quorum, manifest.vo, (manifest.image_id, manifest.title), case.now)


def _votes(
    checks: Sequence[EndorsementCheck],
    policy: Policy,
    quorum: Quorum,
    vo: str,
    image: tuple[str, str] | None,
    now: datetime,
) -> _Votes:
    """Count; `image` (ID, title) is None where the checks are about a partition."""
    by_role: dict[str, set[str]] = {}
    not_counted: list[str] = []
    for check in checks:
        if why := _discounted(check, policy, image, vo, quorum, now):
            not_counted.append(why)
        else:
            by_role.setdefault(check.role, set()).add(check.fingerprint)
    return _Votes("image" if image else "partition", vo, quorum, by_role, tuple(not_counted))


def _discounted(
    check: EndorsementCheck,
    policy: Policy,
    image: tuple[str, str] | None,
    vo: str,
    quorum: Quorum,
    now: datetime,
) -> str | None:
    """Why an endorsement does not count; None where it does."""
    if not check.counts or check.issued is None or check.expires is None:
        return _clause(check)
    if image is not None and (check.image_id, check.title) != image:
        return f"the endorsement by {check.fingerprint} is of {check.title or 'something else'} ({check.image_id})"
    if not any(
        (check.vo, check.fingerprint, check.role) == (vo, key.fingerprint, key.role) for key in policy.trusted(vo)
    ):
        return f"{check.fingerprint} is not trusted as {check.role} of {check.vo}"
    if check.fingerprint in policy.endorsers.deny:
        return f"{check.fingerprint} is in endorsers.deny"
    if not check.issued - SKEW <= now < check.expires:
        return f"the endorsement by {check.fingerprint} holds from {check.issued:%Y-%m-%d} to {check.expires:%Y-%m-%d} only"
    if now - check.issued > timedelta(seconds=quorum.max_age):
        return (
            f"the endorsement by {check.fingerprint} was issued on {check.issued:%Y-%m-%d}, "
            f"longer ago than {duration_text(quorum.max_age)}"
        )
    return None


def _clause(check: EndorsementCheck) -> str:
    """A check's sentence, to stand among others; it speaks of "it", so say whose endorsement it is."""
    reason = check.reason.rstrip(".") or "it could not be verified"
    return f"the endorsement by {check.fingerprint}: {reason}" if check.fingerprint else reason


def _verdict(name: str, votes: _Votes, least: int, policy: Policy, role: str = "") -> RuleResult:
    """Whether enough vouch: all together, or in a role. Why others do not count stands with the former alone."""
    voters = votes.by_role.get(role, set()) if role else set[str]().union(*votes.by_role.values())
    could = {anchor.fingerprint for anchor in policy.trusted(votes.vo) if role in {"", anchor.role}}
    could -= voters | set(policy.endorsers.deny)
    missing, as_role = least - len(voters), f" as {role}" if role else ""
    shown = [] if role else _some(votes.not_counted)
    because = f" ({'; '.join(shown)})" if shown else ""
    silent = f", not by {_enough(sorted(could))}" if could else ""
    if len(could) < missing:
        change = (
            f"the site trusts more endorsers of {votes.vo}{as_role}: {len(voters) + len(could)} can count, {least} must"
        )
    else:
        one_of = ", ".join(sorted(could))
        change = f"{counted(missing, 'more endorsement')} by {'one' if missing == 1 else 'some'} of {one_of}"
    passed = len(voters) >= least
    reason = f"endorsed{as_role} by {', '.join(sorted(voters))}{silent}{because}"
    otherwise = f"{len(voters)} of {least} endorsers{as_role} vouch for the {votes.what}{because}"
    return RuleResult(name=name, passed=passed, reason=reason if passed else otherwise, change="" if passed else change)


def _some(texts: Sequence[str]) -> list[str]:
    """The first of many texts, and how many more there are."""
    return [*texts[:MAX_SHOWN], *([f"{len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else [])]


def _enough(names: Sequence[str]) -> str:
    """The same, as they stand in a sentence."""
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more


def more_endorsements(case: PolicyCase, *, trusting: bool = True) -> Iterator[PolicyChange]:
    """One more who vouches; then several at once; then, with `trusting`, one whom the site does not trust yet."""
    policy, manifest = case.policy, case.manifest
    have = {(check.fingerprint, check.role) for check in counted_endorsements(policy, manifest, case.checks, case.now)}
    able = [
        (key.fingerprint, key.role)
        for key in policy.trusted(manifest.vo)
        if (key.fingerprint, key.role) not in have and key.fingerprint not in policy.endorsers.deny
    ]
    for many in range(1, len(able) + 1):
        if many == 1:
            for one in able:
                yield _vouched([one])
        else:
            yield _vouched(able[:many])
    if not trusting:
        return
    quorum = policy.quorum(manifest.vo)
    roles = [role for role, least in sorted(quorum.roles.items()) for _ in range(least)]
    roles += [DEFAULT_ROLE] * (quorum.threshold - len(roles))
    for many in range(1, len(roles) + 1):
        yield _trusted(manifest, able, roles[:many])
        yield _trusted(manifest, able, roles[-many:])


def _vouched(who: Sequence[tuple[str, str]]) -> PolicyChange:
    text = enumerate_texts([f"{fingerprint} as {role}" for fingerprint, role in who])
    return PolicyChange("endorser", f"it were endorsed by {text}", lambda case: _with_endorsements(case, who))


def _trusted(manifest: Manifest, able: Sequence[tuple[str, str]], roles: Sequence[str]) -> PolicyChange:
    fresh = [(f"{number:040X}", role) for number, role in enumerate(roles)]
    keys = tuple(TrustedKey(vo=manifest.vo, role=role, fingerprint=fingerprint, key="-") for fingerprint, role in fresh)
    wanted = enumerate_texts([f"{counted(roles.count(role), 'endorser')} as {role}" for role in dict.fromkeys(roles)])
    more = f", and it were endorsed by {enumerate_texts([one for one, _ in able])} too" if able else ""
    return PolicyChange(
        "site",
        f"the site trusted {wanted} of {manifest.vo} who {'vouches' if len(roles) == 1 else 'vouch'} for it{more}",
        lambda case: _with_endorsements(case.with_policy(anchor=(*case.policy.anchor, *keys)), [*fresh, *able]),
    )


def _with_endorsements(case: PolicyCase, who: Sequence[tuple[str, str]], vo: str = "", address: str = "") -> PolicyCase:
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
