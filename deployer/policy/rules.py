"""May this image run here, so large, for so long? Values in, a decision out; no IO and no clock of its own.

Every rule is judged, always: a decision lists all of them with the verdict, the reason and what would have to change.
Deny wins over allow, and what the policy does not speak of is refused. policies/README.md lists the rules in the order
in which they stand here.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from catalog.image.manifest import BareDisk, Manifest
from deployer.machine.shape import MEMORY_UNIT
from deployer.policy.decision import Decision, Request, RuleResult
from deployer.policy.model import Policy, Quorum
from deployer.policy.patterns import matches_image, matches_vo
from deployer.units import duration_text, size_text
from signer.openpgp.status_lines import SKEW
from signer.verification.trust import EndorsementCheck

__all__ = ["Decision", "Request", "RuleResult", "counted_endorsements", "decide", "total_blank_size", "total_disk_size"]

MAX_SHOWN = 8
"""Endorsements that do not count whose reasons a rule repeats: a catalog may send many, to bury the one that matters."""


def decide(
    policy: Policy,
    request: Request,
    manifest: Manifest,
    endorsements: Sequence[EndorsementCheck],
    now: datetime,
    running: int = 0,
) -> Decision:
    """Judge a request for machines of an image.

    Args:
        policy: the site's.
        request: what is asked for.
        manifest: the image, whose bytes the caller has checked against the ID that it was asked for by.
        endorsements: what verification said of each endorsement of this very image, with this policy's anchors.
        now: aware, UTC.
        running: machines that the node has already.
    """
    rules = (
        _trusted(policy, manifest),
        _vo_allowed(policy, manifest),
        _vo_denied(policy, manifest),
        _image_allowed(policy, manifest),
        _image_denied(policy, manifest),
        *_endorsed(policy, manifest, endorsements, now),
        *_partitions(policy, manifest, endorsements, now),
        _request(request),
        *_needs(manifest, request),
        *_limits(policy, manifest, request, running),
        _user_data(policy, manifest, request),
        _network(policy, request),
    )
    return Decision(
        image=manifest.image_id, title=manifest.title, at=now.replace(microsecond=0), policy=policy.digest, rules=rules
    )


def counted_endorsements(
    policy: Policy, manifest: Manifest, endorsements: Sequence[EndorsementCheck], now: datetime
) -> list[EndorsementCheck]:
    """The endorsements that count by this policy, in their order; arguments as for `decide`."""
    image, quorum = (manifest.image_id, manifest.title), policy.quorum(manifest.vo)
    return [
        check
        for check in endorsements
        if not check.address and _discounted(check, policy, image, manifest.vo, quorum, now) is None
    ]


def endorsement_results(
    policy: Policy, manifest: Manifest, endorsements: Sequence[EndorsementCheck], now: datetime
) -> tuple[RuleResult, ...]:
    """The rules about endorsements alone, of the image and of its partitions; arguments as for `decide`."""
    return (*_endorsed(policy, manifest, endorsements, now), *_partitions(policy, manifest, endorsements, now))


def _rule(name: str, passed: bool, reason: str, otherwise: str, change: str) -> RuleResult:
    return RuleResult(name=name, passed=passed, reason=reason if passed else otherwise, change="" if passed else change)


def _trusted(policy: Policy, manifest: Manifest) -> RuleResult:
    count = len({anchor.fingerprint for anchor in policy.trusted(manifest.vo)})
    return _rule(
        "anchors",
        count > 0,
        f"{_of(count, 'endorser')} trusted for VO {manifest.vo}",
        f"no endorser is trusted for VO {manifest.vo}",
        f"the site adds an [[anchor]] for {manifest.vo} to its policy",
    )


def _vo_allowed(policy: Policy, manifest: Manifest) -> RuleResult:
    found = matches_vo(policy.vos.allow, manifest.vo)
    return _rule(
        "vo-allowed",
        found is not None,
        f"vos.allow has {found!r}",
        f"VO {manifest.vo} is not in vos.allow",
        f"the site adds {manifest.vo!r} to vos.allow",
    )


def _vo_denied(policy: Policy, manifest: Manifest) -> RuleResult:
    found = matches_vo(policy.vos.deny, manifest.vo)
    return _rule(
        "vo-not-denied",
        found is None,
        f"VO {manifest.vo} is not in vos.deny",
        f"vos.deny has {found!r}",
        f"the site removes {found!r} from vos.deny",
    )


def _image_allowed(policy: Policy, manifest: Manifest) -> RuleResult:
    found = matches_image(policy.images.allow, manifest)
    return _rule(
        "image-allowed",
        found is not None,
        f"images.allow has {found!r}",
        f"{manifest.title} is not in images.allow",
        f"the site adds {manifest.vo + '/' + manifest.name!r} or the image's ID to images.allow",
    )


def _image_denied(policy: Policy, manifest: Manifest) -> RuleResult:
    found = matches_image(policy.images.deny, manifest)
    return _rule(
        "image-not-denied",
        found is None,
        f"{manifest.title} is not in images.deny",
        f"images.deny has {found!r}",
        "choose another version, or the site removes that from images.deny",
    )


def _endorsed(
    policy: Policy, manifest: Manifest, endorsements: Sequence[EndorsementCheck], now: datetime
) -> Iterator[RuleResult]:
    """Distinct keys count, not signatures; a key may hold several roles, and then counts once in each."""
    quorum = policy.quorum(manifest.vo)
    mine = [check for check in endorsements if not check.address]
    yield from _quorum("endorsements", policy, quorum, manifest.vo, mine, (manifest.image_id, manifest.title), now)


def _partitions(
    policy: Policy, manifest: Manifest, endorsements: Sequence[EndorsementCheck], now: datetime
) -> Iterator[RuleResult]:
    """What the policy demands for single partitions. Whoever vouches for the bytes does so in every image."""
    for rule in policy.partition_rules(manifest):
        found = [part for part in manifest.partitions() if part.content and fnmatchcase(part.label, rule.label)]
        if not found:
            yield RuleResult(
                name=f"partition-{rule.label}",
                passed=False,
                reason=f"{manifest.title} has no partition {rule.label!r} with content, and one must be endorsed",
                change="choose an image that has one",
            )
        for part in found:
            mine = [check for check in endorsements if check.address == str(part.content)]
            yield from _quorum(f"partition-{part.label}", policy, rule, rule.vo, mine, None, now)


def _quorum(
    name: str,
    policy: Policy,
    quorum: Quorum,
    vo: str,
    checks: Sequence[EndorsementCheck],
    image: tuple[str, str] | None,
    now: datetime,
) -> Iterator[RuleResult]:
    """A rule for the threshold, and one for each role; `image` (ID, title) None where they are about a partition."""
    roles: dict[str, set[str]] = defaultdict(set)
    not_counted: list[str] = []
    for check in checks:
        if why := _discounted(check, policy, image, vo, quorum, now):
            not_counted.append(why)
        else:
            roles[check.role].add(check.fingerprint)
    vouching = set().union(*roles.values())
    what = "image" if image else "partition"
    yield _quorum_rule(name, quorum.threshold, vouching, policy, vo, not_counted, what, role=None)
    for role, least in sorted(quorum.roles.items()):
        yield _quorum_rule(f"{name}-{role}", least, roles[role], policy, vo, (), what, role=role)


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
        return f"{check.fingerprint} stands in endorsers.deny"
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


def _quorum_rule(
    name: str,
    least: int,
    counted: set[str],
    policy: Policy,
    vo: str,
    not_counted: Sequence[str],
    what: str,
    *,
    role: str | None,
) -> RuleResult:
    could = {anchor.fingerprint for anchor in policy.trusted(vo) if role in {None, anchor.role}}
    could -= counted | set(policy.endorsers.deny)
    missing = least - len(counted)
    as_role = f" as {role}" if role else ""
    shown = [
        *not_counted[:MAX_SHOWN],
        *([f"{len(not_counted) - MAX_SHOWN} more"] if len(not_counted) > MAX_SHOWN else []),
    ]
    because = f" ({'; '.join(shown)})" if shown else ""
    silent = f", not by {_some(sorted(could))}" if could else ""
    if len(could) < missing:
        change = f"the site trusts more endorsers of {vo}{as_role}: {len(counted) + len(could)} can count, {least} must"
    else:
        one_of = ", ".join(sorted(could))
        change = f"{_of(missing, 'more endorsement')} by {'one' if missing == 1 else 'some'} of {one_of}"
    return _rule(
        name,
        len(counted) >= least,
        f"endorsed{as_role} by {', '.join(sorted(counted))}{silent}{because}",
        f"{len(counted)} of {least} endorsers{as_role} vouch for the {what}{because}",
        change,
    )


def _some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more


def _needs(manifest: Manifest, request: Request) -> Iterator[RuleResult]:
    yield _rule(
        "enough-memory",
        request.machine.max_memory >= manifest.needs.memory,
        f"the image needs {size_text(manifest.needs.memory)} of memory",
        f"the image needs {size_text(manifest.needs.memory)} of memory, not {size_text(request.machine.max_memory)}",
        f"ask for at least {size_text(manifest.needs.memory)} of memory",
    )
    yield _rule(
        "enough-cores",
        request.machine.max_cores >= manifest.needs.cores,
        f"the image needs {_of(manifest.needs.cores, 'core')}",
        f"the image needs {_of(manifest.needs.cores, 'core')}, not {request.machine.max_cores}",
        f"ask for at least {_of(manifest.needs.cores, 'core')}",
    )


def total_disk_size(manifest: Manifest) -> int:
    """Bytes of all disks of a machine of the image, as its guest sees them."""
    return sum(disk.partition.size if isinstance(disk, BareDisk) else disk.size for disk in manifest.disks)


def total_blank_size(manifest: Manifest) -> int:
    """Bytes of all blanks of the image."""
    return sum(part.size for part in manifest.partitions() if part.blank is not None)


def _limits(policy: Policy, manifest: Manifest, request: Request, running: int) -> Iterator[RuleResult]:
    limits = policy.limits
    extra = sum(blank.size for blank in request.machine.blanks)
    disk, blank = total_disk_size(manifest) + extra, total_blank_size(manifest) + extra
    yield _limit("memory", request.machine.max_memory, limits.memory, "ask for at most {} of memory", size_text)
    yield _limit("cores", request.machine.max_cores, limits.cores, "ask for at most {} cores", str)
    yield _limit("disk", disk, limits.disk, "choose an image whose disks have at most {} in all", size_text)
    yield _limit("blank", blank, limits.blank, "choose an image whose blanks have at most {} in all", size_text)
    yield _limit("lifetime", request.lifetime, limits.lifetime, "ask for at most {}", duration_text)
    machines = _limit("machines", running + request.count, limits.machines, "ask again when others have ended", str)
    free = limits.machines - running
    if not machines.passed and free > 0:
        machines = machines.model_copy(update={"change": f"ask for at most {_of(free, 'machine')}"})
    yield machines


def _request(request: Request) -> RuleResult:
    """Whether it asks for anything that there is."""
    wrong = [
        (name, f"a {name} of at least 1")
        for name, asked in (
            ("count", request.count),
            ("number of cores", request.machine.max_cores),
            ("lifetime", request.lifetime),
        )
        if asked < 1
    ]
    if request.machine.max_memory % MEMORY_UNIT:
        wrong.append(("memory", f"memory in whole {size_text(MEMORY_UNIT)}"))
    return _rule(
        "request",
        not wrong,
        "what is asked for can be had",
        f"the {' and the '.join(name for name, _ in wrong)} asked for cannot be had",
        f"ask for {' and '.join(instead for _, instead in wrong)}",
    )


def _limit(name: str, asked: int, most: int, change: str, text: Callable[[int], str]) -> RuleResult:
    return _rule(
        f"limit-{name}",
        asked <= most,
        f"{text(asked)} is within the {text(most)} of limits.{name}",
        f"{text(asked)} is more than the {text(most)} of limits.{name}",
        change.format(text(most)) if most else f"the site sets limits.{name}",
    )


def _user_data(policy: Policy, manifest: Manifest, request: Request) -> RuleResult:
    kind = request.user_data
    if kind is not None and manifest.contextualization == "none":
        return RuleResult(
            name="user-data",
            passed=False,
            reason=f"{manifest.title} reads no user-data",
            change="ask without user-data, or choose an image with contextualization",
        )
    allowed = policy.user_data.allow
    instead = f"give {' or '.join(allowed)} instead" if allowed else "ask without user-data"
    return _rule(
        "user-data",
        kind is None or kind in allowed,
        f"user_data.allow has {kind!r}" if kind else "no user-data is given",
        f"user-data of the kind {kind!r} is not in user_data.allow",
        instead,
    )


def _network(policy: Policy, request: Request) -> RuleResult:
    wanted = str(request.machine.network)
    allowed = policy.networks.allow
    return _rule(
        "network",
        wanted == "none" or any(fnmatchcase(wanted, pattern) for pattern in allowed),
        "no network is asked for" if wanted == "none" else f"networks.allow covers {wanted!r}",
        f"the network {wanted!r} is not in networks.allow",
        f"ask for {' or '.join(('none', *allowed))}",
    )


def _of(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
