"""Why a request is refused, and the nearest change that would make it pass. Pure: it tries changes on the policy's own rules.

Nothing is promised that was not tried: each change is applied to a copy of the request, the endorsements or the policy,
and all rules decide again. Changes that the requester can make come first, then those of endorsers, then the site's.
What turns out not to be needed is taken out again, so that every change named is necessary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

from catalog.image.manifest import Manifest
from deployer.machine.network import Network
from deployer.machine.shape import MEMORY_UNIT
from deployer.policy.anchors import TrustedKey
from deployer.policy.cedar_schema import Requester
from deployer.policy.decision import Decision, Request, RuleResult
from deployer.policy.patterns import matches_image, matches_vo
from deployer.policy.rules import counted_endorsements, total_blank_size, total_disk_size
from deployer.policy.store import RuleSet
from deployer.units import duration_text, size_text
from signer.openpgp.keys import escape_unprintable
from signer.verification.endorsements import DEFAULT_ROLE
from signer.verification.trust import EndorsementCheck

MAX_MOVES = 24
"""Changes after which the search gives up: a request that needs more of them is another request."""

Who = Literal["requester", "endorser", "site"]


@dataclass(frozen=True)
class Situation:
    """All that a decision depends on; the arguments of `RuleSet.decide`."""

    rules: RuleSet
    request: Request
    manifest: Manifest
    checks: tuple[EndorsementCheck, ...]
    now: datetime
    running: int = 0
    requester: Requester | None = None
    before: tuple[RuleResult, ...] = ()
    """Rules that no change here touches: what is revoked or blocked."""

    def decide(self) -> Decision:
        """What all rules say."""
        decision = self.rules.decide(
            self.request, self.manifest, self.checks, self.now, self.running, requester=self.requester
        )
        return decision.model_copy(update={"rules": (*self.before, *decision.rules)}) if self.before else decision

    def with_policy(self, **changes: Any) -> "Situation":
        """The same with another policy."""
        return replace(self, rules=replace(self.rules, policy=self.rules.policy.model_copy(update=changes)))


@dataclass(frozen=True)
class PolicyChange:
    """A change: who can make it, what it is (after "if"), and what it makes of a situation."""

    who: Who
    text: str
    apply: Callable[[Situation], Situation]


@dataclass(frozen=True)
class DecisionExplanation:
    """A decision and the way out of it.

    Attributes:
        decision: rule by rule.
        moves: the changes that together make it pass; each is needed.
        stuck: the rules for which no change was found; empty means that the moves were tried and suffice.
    """

    decision: Decision
    moves: tuple[PolicyChange, ...]
    stuck: tuple[RuleResult, ...]

    def sentence(self) -> str:
        """What a site's administrator would say."""
        title = self.decision.title
        if self.decision.accepted:
            return f"{title} may run here: all {len(self.decision.rules)} rules pass."
        because = "; ".join(rule.reason for rule in self.decision.failed)
        said = f"{title} may not run here: {because}."
        if self.moves:
            said += f" It would {'come nearer' if self.stuck else 'be accepted'} if {_and([move.text for move in self.moves])}."
        if self.stuck:
            said += " What no change of the request itself helps against: " + "; ".join(
                f"{rule.reason} ({rule.change})" if rule.change else rule.reason for rule in self.stuck
            )
            said += "."
        return escape_unprintable(said)

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "sentence": self.sentence(),
            "changes": [{"who": move.who, "if": move.text} for move in self.moves],
            "suffices": not self.stuck,
        }


def explain_decision(situation: Situation) -> DecisionExplanation:
    """Find the nearest change that would make a request pass."""
    decision = situation.decide()
    moves: list[PolicyChange] = []
    stuck: dict[str, RuleResult] = {}
    now = situation
    for _ in range(MAX_MOVES):
        failed = {rule.name: rule for rule in now.decide().failed}
        open_rules = [rule for name, rule in failed.items() if name not in stuck]
        if not open_rules:
            break
        # Whoever is wanted in a role counts in general too: so that nobody is asked for in vain.
        open_rules.sort(key=lambda rule: not rule.name.startswith("endorsements-"))
        move = _helps(now, open_rules[0], set(failed))
        if move is None:
            stuck[open_rules[0].name] = open_rules[0]
            continue
        moves.append(move)
        now = move.apply(now)
    else:
        stuck.update({rule.name: rule for rule in now.decide().failed})
    left = {rule.name for rule in now.decide().failed}
    for move in list(moves):
        without = situation
        for other in moves:
            if other is not move:
                without = other.apply(without)
        if {rule.name for rule in without.decide().failed} <= left:
            moves.remove(move)
    return DecisionExplanation(decision, tuple(moves), tuple(stuck.values()))


def _helps(now: Situation, rule: RuleResult, failed: set[str]) -> PolicyChange | None:
    """The first change after which this rule passes and none fails that passed."""
    for move in _moves(now, rule):
        after = {one.name for one in move.apply(now).decide().failed}
        if rule.name not in after and after <= failed:
            return move
    return None


def _moves(now: Situation, rule: RuleResult) -> Iterator[PolicyChange]:
    """What may help against a rule, the nearest first."""
    policy, manifest = now.rules.policy, now.manifest
    match rule.name:
        case "enough-memory" if manifest.needs.memory > policy.limits.memory:
            yield _both("memory", -(-manifest.needs.memory // MEMORY_UNIT) * MEMORY_UNIT, size_text)
        case "enough-cores" if manifest.needs.cores > policy.limits.cores:
            yield _both("cores", manifest.needs.cores, str)
        case "request" | "enough-memory" | "enough-cores" | "limit-memory" | "limit-cores" | "limit-lifetime":
            yield from _amounts(now)
            yield from _limits(now)
        case "limit-machines" | "limit-disk" | "limit-blank":
            yield from _fewer(now)
            yield from _limits(now)
        case "user-data" | "network":
            yield from _plainer(now)
        case "vo-allowed":
            yield _site(
                f"added {manifest.vo!r} to vos.allow",
                vos=policy.vos.model_copy(update={"allow": (*policy.vos.allow, manifest.vo)}),
            )
        case "vo-not-denied":
            kept = tuple(one for one in policy.vos.deny if not matches_vo((one,), manifest.vo))
            yield _site(f"took {manifest.vo!r} out of vos.deny", vos=policy.vos.model_copy(update={"deny": kept}))
        case "image-allowed":
            name = f"{manifest.vo}/{manifest.name}"
            yield _site(
                f"added {name!r} to images.allow",
                images=policy.images.model_copy(update={"allow": (*policy.images.allow, name)}),
            )
        case "image-not-denied":
            kept = tuple(one for one in policy.images.deny if not matches_image((one,), manifest))
            yield _site(
                f"took {matches_image(policy.images.deny, manifest)!r} out of images.deny",
                images=policy.images.model_copy(update={"deny": kept}),
            )
        case name if name == "anchors" or name.startswith("endorsements"):
            yield from _endorsed(now)
        case name if name.startswith("partition-"):
            yield from _parts_endorsed(now)
        case _:
            # A rule that only the policy's author knows: try what a requester can change, then who else may vouch.
            yield from _plainer(now)
            yield from _amounts(now)
            yield from _fewer(now)
            yield from _endorsed(now, trusting=False)


def _ask(text: str, **changes: Any) -> PolicyChange:
    return PolicyChange("requester", f"you {text}", lambda now: replace(now, request=replace(now.request, **changes)))


def _machine(text: str, **changes: Any) -> PolicyChange:
    return PolicyChange("requester", f"you {text}", lambda now: replace(now, request=now.request.changed(**changes)))


def _with_ceiling(request: Request, **amounts: int) -> Request:
    """The same for machines that may grow to these amounts, and begin with no more."""
    most = {f"max_{name}": amount for name, amount in amounts.items()}
    begins = {name: min(getattr(request.machine, name), amount) for name, amount in amounts.items()}
    return request.changed(**most, **begins)


def _amount(text: str, **amounts: int) -> PolicyChange:
    return PolicyChange(
        "requester", f"you {text}", lambda now: replace(now, request=_with_ceiling(now.request, **amounts))
    )


def _site(text: str, **changes: Any) -> PolicyChange:
    return PolicyChange("site", f"the site {text}", lambda now: now.with_policy(**changes))


def _both(name: str, wanted: int, text: Callable[[int], str]) -> PolicyChange:
    """What the image needs is more than the site gives: both have to move."""

    def apply(now: Situation) -> Situation:
        change: dict[str, Any] = {name: wanted}
        limits = now.rules.policy.limits.model_copy(update=change)
        return replace(now.with_policy(limits=limits), request=_with_ceiling(now.request, **change))

    return PolicyChange("site", f"the site raised limits.{name} to {text(wanted)} and you asked for as much", apply)


def _amounts(now: Situation) -> Iterator[PolicyChange]:
    """As much as the image needs and no more than the limits give."""
    asked, needs, limits = now.request, now.manifest.needs, now.rules.policy.limits
    least = -(-needs.memory // MEMORY_UNIT) * MEMORY_UNIT
    for memory in dict.fromkeys((max(least, limits.memory // MEMORY_UNIT * MEMORY_UNIT), least)):
        if memory != (had := asked.machine.max_memory):
            yield _amount(f"asked for {size_text(memory)} of memory instead of {size_text(had)}", memory=memory)
    for cores in dict.fromkeys((max(needs.cores, limits.cores), needs.cores)):
        if cores != asked.machine.max_cores:
            yield _amount(f"asked for {_of(cores, 'core')} instead of {asked.machine.max_cores}", cores=cores)
    for lifetime in dict.fromkeys((limits.lifetime, min(limits.lifetime, 3600))):
        if lifetime and lifetime != asked.lifetime:
            yield _ask(
                f"asked for {duration_text(lifetime)} instead of {duration_text(asked.lifetime)}", lifetime=lifetime
            )
    if asked.count < 1:
        yield _ask("asked for one machine", count=1)


def _fewer(now: Situation) -> Iterator[PolicyChange]:
    asked, limits = now.request, now.rules.policy.limits
    if asked.machine.blanks:
        yield _machine("asked for no scratch disks", blanks=())
    free = limits.machines - now.running
    for count in dict.fromkeys((free, 1)):
        if 0 < count < asked.count:
            yield _ask(f"asked for {_of(count, 'machine')} instead of {asked.count}", count=count)
    if 0 < asked.count <= limits.machines and free < asked.count:
        running = limits.machines - asked.count
        yield PolicyChange(
            "requester",
            f"you asked again when {_of(now.running - running, 'machine')} here {'has' if now.running - running == 1 else 'have'} ended",
            lambda now: replace(now, running=running),
        )


def _plainer(now: Situation) -> Iterator[PolicyChange]:
    asked = now.request
    if asked.user_data is not None:
        yield _ask(f"gave no user-data instead of {asked.user_data}", user_data=None)
    if (had := str(asked.machine.network)) != "none":
        plain = [one for one in now.rules.policy.networks.allow if "*" not in one and one != had]
        for text in (*plain, "none"):
            yield _machine(
                f"asked for {'no network' if text == 'none' else f'the network {text}'} instead of {had}",
                network=Network.parse(text),
            )


def _limits(now: Situation) -> Iterator[PolicyChange]:
    asked, limits, manifest = now.request, now.rules.policy.limits, now.manifest
    extra = sum(blank.size for blank in asked.machine.blanks)
    for name, wanted, text in (
        ("memory", max(asked.machine.max_memory, manifest.needs.memory), size_text),
        ("cores", max(asked.machine.max_cores, manifest.needs.cores), str),
        ("disk", total_disk_size(manifest) + extra, size_text),
        ("blank", total_blank_size(manifest) + extra, size_text),
        ("lifetime", asked.lifetime, duration_text),
        ("machines", now.running + asked.count, str),
    ):
        if wanted > getattr(limits, name):
            yield _site(
                f"raised limits.{name} from {text(getattr(limits, name))} to {text(wanted)}",
                limits=limits.model_copy(update={name: wanted}),
            )


def _endorsed(now: Situation, *, trusting: bool = True) -> Iterator[PolicyChange]:
    """One more who vouches; then several at once; then somebody whom the site does not trust yet."""
    policy, manifest = now.rules.policy, now.manifest
    have = {(check.fingerprint, check.role) for check in counted_endorsements(policy, manifest, now.checks, now.now)}
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


def _parts_endorsed(now: Situation) -> Iterator[PolicyChange]:
    """Those who may vouch for single partitions do."""
    policy, manifest = now.rules.policy, now.manifest
    for rule in policy.partition_rules(manifest):
        able = [
            (key.fingerprint, key.role)
            for key in policy.trusted(rule.vo)
            if key.fingerprint not in policy.endorsers.deny
        ]
        for part in manifest.partitions():
            if part.content is None or not fnmatchcase(part.label, rule.label):
                continue
            for many in range(1, len(able) + 1):
                for who in [[one] for one in able] if many == 1 else [able[:many]]:
                    text = _and([f"{fingerprint} as {role} of {rule.vo}" for fingerprint, role in who])
                    yield PolicyChange(
                        "endorser",
                        f"its partition {part.label!r} were endorsed by {text}",
                        partial(_add, who=who, vo=rule.vo, address=str(part.content)),
                    )


def _vouched(who: Sequence[tuple[str, str]]) -> PolicyChange:
    text = _and([f"{fingerprint} as {role}" for fingerprint, role in who])
    return PolicyChange("endorser", f"it were endorsed by {text}", lambda now: _add(now, who))


def _trusted(manifest: Manifest, able: Sequence[tuple[str, str]], roles: Sequence[str]) -> PolicyChange:
    fresh = [(f"{number:040X}", role) for number, role in enumerate(roles)]
    keys = tuple(TrustedKey(vo=manifest.vo, role=role, fingerprint=fingerprint, key="-") for fingerprint, role in fresh)
    wanted = _and([f"{_of(roles.count(role), 'endorser')} as {role}" for role in dict.fromkeys(roles)])
    more = f", and it were endorsed by {_and([one for one, _ in able])} too" if able else ""
    return PolicyChange(
        "site",
        f"the site trusted {wanted} of {manifest.vo} who {'vouches' if len(roles) == 1 else 'vouch'} for it{more}",
        lambda now: _add(now.with_policy(anchor=(*now.rules.policy.anchor, *keys)), [*fresh, *able]),
    )


def _add(now: Situation, who: Sequence[tuple[str, str]], vo: str = "", address: str = "") -> Situation:
    """The same with endorsements that nobody has made yet, of the image or (by an address) of a partition."""
    manifest = now.manifest
    fresh = [
        EndorsementCheck(
            counts=True,
            reason="supposed",
            fingerprint=fingerprint,
            vo=vo or manifest.vo,
            role=role,
            issued=now.now,
            expires=now.now + timedelta(days=1),
            title="" if address else manifest.title,
            image_id="" if address else manifest.image_id,
            address=address,
        )
        for fingerprint, role in who
    ]
    return replace(now, checks=(*now.checks, *fresh))


def _and(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _of(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
