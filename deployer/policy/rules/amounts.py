"""The rules about amounts: what can be had at all, what the image needs, and what the policy's limits allow.

What counts of a machine is how far it may grow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from catalog.image.manifest import Manifest
from deployer.machine.shape import MEMORY_UNIT
from deployer.policy.decision import RuleResult
from deployer.policy.rules.rule import (
    Fixes,
    PolicyCase,
    PolicyChange,
    PolicyRule,
    counted,
    requester_change,
    section_change,
)
from signer.runtime.units import duration_text, size_text


def total_disk_size(manifest: Manifest) -> int:
    """Bytes of all disks of a machine of the image, as its guest sees them."""
    return sum(disk.size for disk in manifest.disks)


def total_blank_size(manifest: Manifest) -> int:
    """Bytes of all blanks of the image."""
    return sum(part.size for part in manifest.partitions() if part.blank is not None)


def _possible(case: PolicyCase) -> Iterator[RuleResult]:
    """What is asked for can be had at all."""
    request = case.request
    asked = (
        ("count", request.count),
        ("number of cores", request.max_cores),
        ("lifetime", request.lifetime),
    )
    wrong = [(name, f"a {name} of at least 1") for name, amount in asked if amount < 1]
    if request.max_memory % MEMORY_UNIT:
        wrong.append(("memory", f"memory in whole {size_text(MEMORY_UNIT)}"))
    yield RuleResult.of(
        "request",
        passed=not wrong,
        reason="the request can be satisfied",
        otherwise=f"the {' and the '.join(name for name, _ in wrong)} asked for is not available",
        change=f"ask for {' and '.join(instead for _, instead in wrong)}",
    )


def _other_amounts(case: PolicyCase) -> Iterator[PolicyChange]:
    yield from fitting_amounts(case)
    yield from raised_limits(case)


def _fewer_things(case: PolicyCase) -> Iterator[PolicyChange]:
    yield from fewer_things(case)
    yield from raised_limits(case)


@dataclass(frozen=True)
class _Need:
    """The machine has as much of something as the image needs; `units` says what of, `text` is an amount of it."""

    resource: Literal["memory", "cores"]
    text: Callable[[int], str]
    units: Callable[[int], str]

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        asked: int = getattr(case.request, f"max_{self.resource}")
        needed: int = getattr(case.manifest.needs, self.resource)
        needs = self.units(needed)
        yield RuleResult.of(
            f"enough-{self.resource}",
            passed=asked >= needed,
            reason=f"the image needs {needs}",
            otherwise=f"the image needs {needs}, not {self.text(asked)}",
            change=f"ask for at least {needs}",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        needed: int = getattr(case.manifest.needs, self.resource)
        if needed <= getattr(case.policy.limits, self.resource):
            yield from _other_amounts(case)
            return
        # What the image needs is more than the site gives: both have to change.
        amounts = {self.resource: _whole(needed) if self.resource == "memory" else needed}
        shown = self.text(amounts[self.resource])
        raised = section_change(
            f"raised limits.{self.resource} to {shown} and you asked for as much", "limits", **amounts
        )
        yield replace(raised, apply=lambda case: _with_ceiling(raised.apply(case), **amounts))


@dataclass(frozen=True)
class Limit:
    """Something is within one of the policy's limits.

    Attributes:
        name: the limit's.
        amount: how much of it there would be.
        instead: what the requester would have to do where it is not within the limit, with the limit in it.
        fixes: changes against that.
        text: an amount for people.
        nearest: what the requester could do now instead, or empty.
    """

    name: str
    amount: Callable[[PolicyCase], int]
    instead: str
    fixes: Fixes = _other_amounts
    text: Callable[[int], str] = str
    nearest: Callable[[PolicyCase], str] = lambda _: ""

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        """See PolicyRule."""
        most: int = getattr(case.policy.limits, self.name)
        amount = self.amount(case)
        asked, allowed = self.text(amount), self.text(most)
        yield RuleResult.of(
            f"limit-{self.name}",
            passed=amount <= most,
            reason=f"{asked} is within the {allowed} of limits.{self.name}",
            otherwise=f"{asked} is more than the {allowed} of limits.{self.name}",
            change=(self.nearest(case) or self.instead.format(allowed))
            if most
            else f"the site sets limits.{self.name}",
        )


def fitting_amounts(case: PolicyCase) -> Iterator[PolicyChange]:
    """As much as the image needs and no more than the limits give."""
    asked, needs, limits = case.request, case.manifest.needs, case.policy.limits
    least = _whole(needs.memory)
    for memory in dict.fromkeys((max(least, limits.memory // MEMORY_UNIT * MEMORY_UNIT), least)):
        if memory != (had := asked.max_memory):
            yield _sized(f"asked for {size_text(memory)} of memory instead of {size_text(had)}", memory=memory)
    for cores in dict.fromkeys((max(needs.cores, limits.cores), needs.cores)):
        if cores != asked.max_cores:
            yield _sized(f"asked for {counted(cores, 'core')} instead of {asked.max_cores}", cores=cores)
    for lifetime in dict.fromkeys((limits.lifetime, min(limits.lifetime, 3600))):
        if lifetime and lifetime != asked.lifetime:
            shown = f"{duration_text(lifetime)} instead of {duration_text(asked.lifetime)}"
            yield requester_change(f"asked for {shown}", lifetime=lifetime)
    if asked.count < 1:
        yield requester_change("asked for one machine", count=1)


def fewer_things(case: PolicyCase) -> Iterator[PolicyChange]:
    """No scratch disks; fewer machines, or later."""
    asked, limits = case.request, case.policy.limits
    if asked.blanks:
        yield requester_change("asked for no scratch disks", blanks=())
    free = limits.machines - case.running
    for count in dict.fromkeys((free, 1)):
        if 0 < count < asked.count:
            yield requester_change(f"asked for {counted(count, 'machine')} instead of {asked.count}", count=count)
    if 0 < asked.count <= limits.machines and free < asked.count:
        running = limits.machines - asked.count
        over = case.running - running
        yield PolicyChange(
            "requester",
            f"you asked again when {counted(over, 'machine')} here {'has' if over == 1 else 'have'} ended",
            lambda case: replace(case, running=running),
        )


def raised_limits(case: PolicyCase) -> Iterator[PolicyChange]:
    """Each limit that the request exceeds, as high as it asks for, and no less than the image needs."""
    needs = {"memory": case.manifest.needs.memory, "cores": case.manifest.needs.cores}
    for limit in LIMITS:
        present: int = getattr(case.policy.limits, limit.name)
        needed = max(limit.amount(case), needs.get(limit.name, 0))
        if needed > present:
            text = f"raised limits.{limit.name} from {limit.text(present)} to {limit.text(needed)}"
            yield section_change(text, "limits", **{limit.name: needed})


def _sized(text: str, **amounts: int) -> PolicyChange:
    return PolicyChange("requester", f"you {text}", lambda case: _with_ceiling(case, **amounts))


def _with_ceiling(case: PolicyCase, **amounts: int) -> PolicyCase:
    """The same for machines that may grow to these amounts, and begin with no more."""
    most = {f"max_{name}": amount for name, amount in amounts.items()}
    begins = {name: min(getattr(case.request, name), amount) for name, amount in amounts.items()}
    return case.with_request(**most, **begins)


def _whole(size: int) -> int:
    return -(-size // MEMORY_UNIT) * MEMORY_UNIT


def _extra(case: PolicyCase) -> int:
    """Bytes of the scratch disks that are asked for."""
    return sum(blank.size for blank in case.request.blanks)


def _fewer_machines(case: PolicyCase) -> str:
    free = case.policy.limits.machines - case.running
    return f"ask for at most {counted(free, 'machine')}" if free > 0 else ""


NEEDS: Final = (
    _Need("memory", text=size_text, units=lambda amount: f"{size_text(amount)} of memory"),
    _Need("cores", text=str, units=lambda amount: counted(amount, "core")),
)
LIMITS: Final = (
    Limit("memory", lambda case: case.request.max_memory, "ask for at most {} of memory", text=size_text),
    Limit("cores", lambda case: case.request.max_cores, "ask for at most {} cores"),
    Limit(
        "disk",
        lambda case: total_disk_size(case.manifest) + _extra(case),
        "choose an image whose disks have at most {} in all",
        _fewer_things,
        size_text,
    ),
    Limit(
        "blank",
        lambda case: total_blank_size(case.manifest) + _extra(case),
        "choose an image whose blanks have at most {} in all",
        _fewer_things,
        size_text,
    ),
    Limit("lifetime", lambda case: case.request.lifetime, "ask for at most {}", text=duration_text),
    Limit(
        "machines",
        lambda case: case.running + case.request.count,
        "ask again when others have ended",
        _fewer_things,
        nearest=_fewer_machines,
    ),
)
AMOUNTS: Final = (
    PolicyRule("request", _possible, _other_amounts),
    *(PolicyRule(f"enough-{need.resource}", need.judge, need.fixes) for need in NEEDS),
    *(PolicyRule(f"limit-{limit.name}", limit.judge, limit.fixes) for limit in LIMITS),
)
