"""The rules about amounts: what can be had at all, what the image needs, and what the policy's limits allow.

What counts of a machine is how far it may grow.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar, Final

from catalog.image.manifest import BareDisk, Manifest
from deployer.machine.shape import MEMORY_UNIT
from deployer.policy.decision import Request, RuleResult
from deployer.policy.rules.rule import PolicyCase, PolicyChange, PolicyRule, ask, ask_machines, ask_site, counted
from signer.runtime.units import duration_text, size_text


def total_disk_size(manifest: Manifest) -> int:
    """Bytes of all disks of a machine of the image, as its guest sees them."""
    return sum(disk.partition.size if isinstance(disk, BareDisk) else disk.size for disk in manifest.disks)


def total_blank_size(manifest: Manifest) -> int:
    """Bytes of all blanks of the image."""
    return sum(part.size for part in manifest.partitions() if part.blank is not None)


class RequestPossible(PolicyRule):
    """What is asked for can be had at all."""

    name = "request"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        request = case.request
        asked = (
            ("count", request.count),
            ("number of cores", request.machine.max_cores),
            ("lifetime", request.lifetime),
        )
        wrong = [(name, f"a {name} of at least 1") for name, amount in asked if amount < 1]
        if request.machine.max_memory % MEMORY_UNIT:
            wrong.append(("memory", f"memory in whole {size_text(MEMORY_UNIT)}"))
        yield self.result(
            passed=not wrong,
            reason="the request can be satisfied",
            otherwise=f"the {' and the '.join(name for name, _ in wrong)} asked for is not available",
            change=f"ask for {' and '.join(instead for _, instead in wrong)}",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        yield from fitting_amounts(case)
        yield from raised_limits(case)


class EnoughMemory(PolicyRule):
    """The machine has the memory that the image needs."""

    name = "enough-memory"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        had, needs = case.request.machine.max_memory, size_text(case.manifest.needs.memory)
        yield self.result(
            passed=had >= case.manifest.needs.memory,
            reason=f"the image needs {needs} of memory",
            otherwise=f"the image needs {needs} of memory, not {size_text(had)}",
            change=f"ask for at least {needs} of memory",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        if (needs := case.manifest.needs.memory) > case.policy.limits.memory:
            yield _both("memory", _whole(needs), size_text)
            return
        yield from fitting_amounts(case)
        yield from raised_limits(case)


class EnoughCores(PolicyRule):
    """The machine has the cores that the image needs."""

    name = "enough-cores"

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        had, needs = case.request.machine.max_cores, counted(case.manifest.needs.cores, "core")
        yield self.result(
            passed=had >= case.manifest.needs.cores,
            reason=f"the image needs {needs}",
            otherwise=f"the image needs {needs}, not {had}",
            change=f"ask for at least {needs}",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        if (needs := case.manifest.needs.cores) > case.policy.limits.cores:
            yield _both("cores", needs, str)
            return
        yield from fitting_amounts(case)
        yield from raised_limits(case)


class Limit(PolicyRule):
    """Something is within one of the policy's limits.

    Attributes:
        limit: the limit's name.
        instead: what the requester would have to do where it is not, with the limit in it.
    """

    limit: ClassVar[str]
    instead: ClassVar[str]

    @abstractmethod
    def amount(self, case: PolicyCase) -> int:
        """How much of it there would be."""

    def text(self, amount: int) -> str:
        """An amount for people."""
        return str(amount)

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        most: int = getattr(case.policy.limits, self.limit)
        amount = self.amount(case)
        asked, allowed = self.text(amount), self.text(most)
        yield self.result(
            passed=amount <= most,
            reason=f"{asked} is within the {allowed} of limits.{self.limit}",
            otherwise=f"{asked} is more than the {allowed} of limits.{self.limit}",
            change=self.instead.format(allowed) if most else f"the site sets limits.{self.limit}",
        )

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        yield from fitting_amounts(case)
        yield from raised_limits(case)


class MemoryLimit(Limit):
    """Memory of one machine."""

    name, limit, instead = "limit-memory", "memory", "ask for at most {} of memory"

    def amount(self, case: PolicyCase) -> int:
        return case.request.machine.max_memory

    def text(self, amount: int) -> str:
        return size_text(amount)


class CoresLimit(Limit):
    """Cores of one machine."""

    name, limit, instead = "limit-cores", "cores", "ask for at most {} cores"

    def amount(self, case: PolicyCase) -> int:
        return case.request.machine.max_cores


class DiskLimit(Limit):
    """All disks of one machine."""

    name, limit, instead = "limit-disk", "disk", "choose an image whose disks have at most {} in all"

    def amount(self, case: PolicyCase) -> int:
        return total_disk_size(case.manifest) + _extra(case.request)

    def text(self, amount: int) -> str:
        return size_text(amount)

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        yield from fewer_things(case)
        yield from raised_limits(case)


class BlankLimit(DiskLimit):
    """All blanks of one machine."""

    name, limit, instead = "limit-blank", "blank", "choose an image whose blanks have at most {} in all"

    def amount(self, case: PolicyCase) -> int:
        return total_blank_size(case.manifest) + _extra(case.request)


class LifetimeLimit(Limit):
    """How long machines live."""

    name, limit, instead = "limit-lifetime", "lifetime", "ask for at most {}"

    def amount(self, case: PolicyCase) -> int:
        return case.request.lifetime

    def text(self, amount: int) -> str:
        return duration_text(amount)


class MachinesLimit(Limit):
    """Machines on one node."""

    name, limit, instead = "limit-machines", "machines", "ask again when others have ended"

    def amount(self, case: PolicyCase) -> int:
        return case.running + case.request.count

    def judge(self, case: PolicyCase) -> Iterator[RuleResult]:
        free = case.policy.limits.machines - case.running
        for result in super().judge(case):
            if result.passed or free <= 0:
                yield result
            else:
                yield result.model_copy(update={"change": f"ask for at most {counted(free, 'machine')}"})

    def fixes(self, case: PolicyCase) -> Iterator[PolicyChange]:
        yield from fewer_things(case)
        yield from raised_limits(case)


def fitting_amounts(case: PolicyCase) -> Iterator[PolicyChange]:
    """As much as the image needs and no more than the limits give."""
    asked, needs, limits = case.request, case.manifest.needs, case.policy.limits
    machine, least = asked.machine, _whole(needs.memory)
    for memory in dict.fromkeys((max(least, limits.memory // MEMORY_UNIT * MEMORY_UNIT), least)):
        if memory != (had := machine.max_memory):
            yield _sized(f"asked for {size_text(memory)} of memory instead of {size_text(had)}", memory=memory)
    for cores in dict.fromkeys((max(needs.cores, limits.cores), needs.cores)):
        if cores != machine.max_cores:
            yield _sized(f"asked for {counted(cores, 'core')} instead of {machine.max_cores}", cores=cores)
    for lifetime in dict.fromkeys((limits.lifetime, min(limits.lifetime, 3600))):
        if lifetime and lifetime != asked.lifetime:
            shown = f"{duration_text(lifetime)} instead of {duration_text(asked.lifetime)}"
            yield ask(f"asked for {shown}", lifetime=lifetime)
    if asked.count < 1:
        yield ask("asked for one machine", count=1)


def fewer_things(case: PolicyCase) -> Iterator[PolicyChange]:
    """No scratch disks; fewer machines, or later."""
    asked, limits = case.request, case.policy.limits
    if asked.machine.blanks:
        yield ask_machines("asked for no scratch disks", blanks=())
    free = limits.machines - case.running
    for count in dict.fromkeys((free, 1)):
        if 0 < count < asked.count:
            yield ask(f"asked for {counted(count, 'machine')} instead of {asked.count}", count=count)
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
    for rule in LIMITS:
        had: int = getattr(case.policy.limits, rule.limit)
        wanted = max(rule.amount(case), needs.get(rule.limit, 0))
        if wanted > had:
            said = f"raised limits.{rule.limit} from {rule.text(had)} to {rule.text(wanted)}"
            yield ask_site(said, limits=case.policy.limits.model_copy(update={rule.limit: wanted}))


def _sized(text: str, **amounts: int) -> PolicyChange:
    return PolicyChange("requester", f"you {text}", lambda case: _with_ceiling(case, **amounts))


def _both(name: str, wanted: int, text: Callable[[int], str]) -> PolicyChange:
    """What the image needs is more than the site gives: both have to change."""
    said = f"the site raised limits.{name} to {text(wanted)} and you asked for as much"
    return PolicyChange("site", said, lambda case: _with_ceiling(case.with_limits(**{name: wanted}), **{name: wanted}))


def _with_ceiling(case: PolicyCase, **amounts: int) -> PolicyCase:
    """The same for machines that may grow to these amounts, and begin with no more."""
    most = {f"max_{name}": amount for name, amount in amounts.items()}
    begins = {name: min(getattr(case.request.machine, name), amount) for name, amount in amounts.items()}
    return case.with_machines(**most, **begins)


def _whole(size: int) -> int:
    return -(-size // MEMORY_UNIT) * MEMORY_UNIT


def _extra(request: Request) -> int:
    """Bytes of the scratch disks that are asked for."""
    return sum(blank.size for blank in request.machine.blanks)


LIMITS: Final[tuple[Limit, ...]] = (
    MemoryLimit(),
    CoresLimit(),
    DiskLimit(),
    BlankLimit(),
    LifetimeLimit(),
    MachinesLimit(),
)
AMOUNTS: Final[tuple[PolicyRule, ...]] = (RequestPossible(), EnoughMemory(), EnoughCores(), *LIMITS)
