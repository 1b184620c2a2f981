"""The pool of an account's machines at EC2: for its site a node like any other, run by the site itself.

`look` brings the machines at EC2 nearer to the desired state and reports them. The pool keeps no state that matters: after
kill -9 the next look goes on from the tags of instances and from the books. Machines are made in threads, since uploads take
minutes; all other steps are short requests.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from deployer.ec2.account.bookkeeping import Bookkeeping, MachineEntry
from deployer.ec2.account.instance_operations import Ec2Machines
from deployer.ec2.aws.tags import END_TAG, IMAGE_TAG, SIZE_TAG, end_tag_value, size_tag_value
from deployer.ec2.errors import AwsFailed
from deployer.ec2.images.image_upload import MachineProgress
from deployer.ec2.model.accounts import Account
from deployer.ec2.model.instances import Instance
from deployer.ec2.pool.deployment import Ec2Deployer
from deployer.ec2.pool.reconciler import actions, observe_machine
from deployer.errors import Cancelled
from deployer.machine.state import MachineState
from deployer.protocol.actions import Action, ActionKind
from deployer.protocol.desired_state import (
    Capacity,
    DesiredMachine,
    DesiredState,
    DesiredStatus,
    NodeReport,
    ObservedMachine,
)
from deployer.records.recorder import RunningMachine
from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_USAGE, PartitaError

WORKERS = 8
"""Machines that are made at the same time."""

RETRY: Final = timedelta(seconds=15)
RETRY_MOST: Final = timedelta(minutes=10)
"""The pause before a machine that could not be made is tried again: doubled with each attempt, up to RETRY_MOST."""

ATTEMPTS: Final = 5
"""Attempts after which a machine has failed, unless a service that it needs is only unreachable at present."""

KEPT: Final = timedelta(days=62)
"""How long the books keep machines that have ended: two months, so that the sum of a month is always complete."""

WATCH: Final = timedelta(minutes=1)
"""How often the pool checks whether running machines use revoked images."""

SETTLING: Final = timedelta(minutes=5)
"""How long after its start a machine that EC2 does not list counts as starting: the lists of EC2 are late."""

log = logging.getLogger("partita.ec2")


@dataclass
class _Making:
    progress: MachineProgress
    future: "Future[Instance]"


@dataclass(frozen=True)
class _Failure:
    """Why a step of a machine failed, and the time of the next attempt (`again`; None: never)."""

    reason: str
    again: datetime | None
    attempts: int


class Ec2Pool:
    """The machines of one account. `look` is called by one thread.

    Args:
        account: the account, with the capacity that its machines may take.
        machines, books: of the account.
        makes: makes the machines.
        clock: the present, UTC.
        workers: machines that are made at the same time.
    """

    def __init__(
        self,
        account: Account,
        machines: Ec2Machines,
        books: Bookkeeping,
        makes: Ec2Deployer,
        clock: Callable[[], datetime],
        workers: int = WORKERS,
    ) -> None:
        self._account, self._machines, self._books, self._makes = account, machines, books, makes
        self._clock = clock
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="ec2-make")
        self._making: dict[str, _Making] = {}
        self._failures: dict[str, _Failure] = {}
        self._reported: dict[str, ObservedMachine] = {}
        self._brought: dict[str, dict[str, int]] = {}
        self._changed = threading.Event()
        self._revision = -1
        self._watched: datetime | None = None
        self._dealt: dict[str, str] = {}
        self._problem = ""

    def close(self) -> None:
        """Cancel the machines that are being made and wait for their threads; running machines go on."""
        for making in self._making.values():
            making.progress.cancelled.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def follow(self, account: Account) -> None:
        """Use changed settings of the account (not its region or credentials). From any thread."""
        self._account = account
        self._makes.follow(account)

    def busy(self, seconds: float) -> bool:
        """Whether machines are being made; waits up to `seconds` for one of them to be done."""
        if not self._making:
            return False
        self._changed.wait(seconds)
        self._changed.clear()
        return True

    def look(self, desired: DesiredState) -> NodeReport:
        """Take the next steps towards the desired state, and report the machines.

        Args:
            desired: a state that is older than the last one is ignored.

        Raises:
            AwsFailed, Ec2RecordsUnusable: the state of the machines is unknown now; look again later.
        """
        if desired.revision < self._revision:
            return self._report(desired, self._machines.all(), complete=False)
        self._revision = desired.revision
        instances = self._machines.all()
        self._settle(desired, instances)
        books = {entry.machine: entry for entry in self._books.machines()}
        now = self._clock()
        acted = self._watch(instances, now)
        if acted:
            instances = self._machines.all()
            books = {entry.machine: entry for entry in self._books.machines()}
        for step in actions(desired, instances, books, now):
            acted |= self._do(step, instances)
        return self._report(desired, self._machines.all() if acted else instances)

    def _watch(self, instances: Sequence[Instance], now: datetime) -> bool:
        """Every WATCH: treat running machines of revoked images as the policy says; True if EC2 has changed something."""
        if self._watched is not None and now < self._watched + WATCH:
            return False
        self._watched, acted = now, False
        live = {
            each.machine: RunningMachine(each.machine, each.tags.get("Name", ""), each.tags.get(IMAGE_TAG, ""))
            for each in instances
            if each.state == "running"
        }
        try:
            found = self._makes.exposed(list(live.values()))
            for each in instances:
                reason = found.get(each.machine, "")
                if each.state != "running" or not reason or self._dealt.get(each.instance) == reason:
                    continue
                action = self._makes.act_on(live[each.machine], reason)
                log.warning("machine %s runs a revoked image (%s): %s", each.machine, action, reason)
                if action in {"drain", "destroy"}:
                    acted |= self._do(Action(ActionKind.END, each.machine, reason, each.instance), instances)
                elif action == "pause":  # the pool does not start it again: the policy would have to accept the image
                    self._machines.stop(each.instance, hibernate=each.hibernates)
                    self._failures[each.machine] = _Failure(reason, now + RETRY_MOST, 1)
                    acted = True
                self._dealt[each.instance] = reason
        except PartitaError as exc:
            log.warning("cannot determine which machines run revoked images: %s", exc)
        return acted

    def _settle(self, desired: DesiredState, instances: Sequence[Instance]) -> None:
        """Note the results of machines that were being made, and the ends of booked machines that EC2 no longer has."""
        for uuid, making in list(self._making.items()):
            if making.future.done():
                del self._making[uuid]
                # Kept apart from the last report: a machine may be made between two looks, never reported as staging.
                self._brought[uuid] = _staging(making.progress)
                self._came_to(uuid, making.future)
        now = self._clock().replace(microsecond=0)
        wanted = {machine.uuid for machine in desired.machines if machine.desired is not DesiredStatus.ENDED}
        for uuid, making in self._making.items():
            if uuid not in wanted:
                making.progress.cancelled.set()
        self._failures = {uuid: failure for uuid, failure in self._failures.items() if uuid in wanted}
        self._brought = {uuid: brought for uuid, brought in self._brought.items() if uuid in wanted}
        live = {each.machine for each in instances if each.live}
        here = {each.instance for each in instances}
        for entry in self._books.machines():
            if entry.ended or entry.machine in live or entry.machine in self._making:
                continue
            if entry.instance:
                if entry.instance in here or now >= entry.began + SETTLING:
                    reason = next((each.reason for each in instances if each.instance == entry.instance), "")
                    self._ended(entry, now, reason)
            elif entry.machine not in wanted and now >= entry.began + SETTLING:
                self._ended(entry, now, "it was never started")
        self._books.tidy(now - KEPT)

    def _ended(self, entry: MachineEntry, now: datetime, reason: str) -> None:
        until = min(entry.expires, now)
        reason_of_end = entry.reason or reason
        self._books.put_machine(entry.model_copy(update={"ended": True, "expires": until, "reason": reason_of_end}))

    def _came_to(self, uuid: str, future: "Future[Instance]") -> None:
        if future.cancelled():
            return
        try:
            future.result()
        except Cancelled:
            return
        except PartitaError as exc:
            self._failed(uuid, exc, making=True)
            log.warning("making machine %s failed: %s", uuid, exc)
        except Exception as exc:
            log.exception("making machine %s failed", uuid)
            self._failures[uuid] = _Failure(f"internal error: {type(exc).__name__}", None, 1)
        else:
            self._failures.pop(uuid, None)

    def _do(self, step: Action, instances: Sequence[Instance]) -> bool:
        """Take one step; True if it changed something at EC2. A step that fails does not keep the others from being taken."""
        if step.kind is not ActionKind.END and self._waits(step.machine):
            return False
        try:
            if step.kind is ActionKind.MAKE:
                self._make(step.desired, instances)
                return False
            return self._change(step, instances)
        except PartitaError as exc:
            log.warning("machine %s: %s: %s", step.machine, step.kind.value, exc)
            self._failed(step.machine, exc)
            return False

    def _failed(self, uuid: str, error: PartitaError, *, making: bool = False) -> None:
        before = self._failures.get(uuid)
        attempts = before.attempts + 1 if before else 1
        wait: timedelta = min(RETRY * 2 ** min(attempts - 1, 10), RETRY_MOST)
        again = None if making and _final(error, attempts) else self._clock() + wait
        self._failures[uuid] = _Failure(str(error), again, attempts)

    def _waits(self, uuid: str) -> bool:
        """Whether the last step of a machine failed and the next attempt is not due, or useless."""
        failure = self._failures.get(uuid)
        return failure is not None and (failure.again is None or self._clock() < failure.again)

    def _change(self, step: Action, instances: Sequence[Instance]) -> bool:
        log.info("machine %s at %s: %s %s", step.machine, step.instance, step.kind.value, step.reason)
        if step.kind is ActionKind.END:
            self._machines.terminate(step.instance)
            entry = self._books.machine(step.machine) if step.machine else None
            if entry is not None and entry.instance in {"", step.instance}:
                self._ended(entry, self._clock().replace(microsecond=0), step.reason)
            return True
        machine = step.desired
        match step.kind:
            case ActionKind.STOP | ActionKind.SUSPEND:
                self._machines.stop(step.instance, hibernate=step.kind is ActionKind.SUSPEND)
            case ActionKind.START:
                self._makes.readmit(machine, self._running(instances))
                self._machines.start(step.instance)
            case ActionKind.REBOOT:
                self._machines.reboot(step.instance, machine.reboots)
            case ActionKind.EXTEND:
                self._machines.tag(step.instance, {END_TAG: end_tag_value(machine.expires)})
                self._books.update_machine(machine.uuid, expires=machine.expires)
            case ActionKind.RESIZE:
                kind = self._makes.type_for(machine)
                self._machines.retype(
                    step.instance, kind.name, {SIZE_TAG: size_tag_value(machine.cores, machine.memory)}
                )
                self._books.update_machine(machine.uuid, instance_type=kind.name)
        self._failures.pop(step.machine, None)
        return True

    def _make(self, machine: DesiredMachine, instances: Sequence[Instance]) -> None:
        if machine.uuid in self._making:
            return
        progress, running = MachineProgress(), self._running(instances) + len(self._making)
        future = self._threads.submit(self._makes.make, machine, running, progress)
        self._making[machine.uuid] = _Making(progress, future)
        future.add_done_callback(lambda _: self._changed.set())

    @staticmethod
    def _running(instances: Sequence[Instance]) -> int:
        return sum(each.live and each.state != "stopped" for each in instances)

    def _report(self, desired: DesiredState, instances: Sequence[Instance], *, complete: bool = True) -> NodeReport:
        now = self._clock()
        books = {entry.machine: entry for entry in self._books.machines()}
        found = {machine.uuid: self._observed(machine, instances, books, now) for machine in desired.machines}
        self._reported = {uuid: seen for uuid, seen in found.items() if seen is not None}
        return NodeReport(
            revision=max(desired.revision, self._revision),
            architecture="",
            accelerator="ec2",
            capacity=Capacity(cores=self._account.cores, memory=self._account.memory, disk=self._account.disk),
            labels={"account": self._account.name, "region": self._account.region},
            cached=tuple(sorted({address for entry in self._books.images() for address in entry.addresses})),
            machines=tuple(self._reported.values()),
            complete=complete,
        )

    def _observed(
        self,
        machine: DesiredMachine,
        instances: Sequence[Instance],
        books: Mapping[str, MachineEntry],
        now: datetime,
    ) -> ObservedMachine | None:
        own = [each for each in instances if each.machine == machine.uuid]
        seen = observe_machine(machine, own, books.get(machine.uuid), now)
        making, failure = self._making.get(machine.uuid), self._failures.get(machine.uuid)
        if seen is None and making is not None:
            seen = _blank(machine, MachineState.STAGING, making.progress.note, now)
        elif seen is None and failure is not None:
            seen = _blank(
                machine, MachineState.FAILED if failure.again is None else MachineState.STAGING, failure.reason, now
            )
        elif seen is None and (machine.desired is DesiredStatus.ENDED or now >= machine.expires):
            seen = _blank(machine, MachineState.ENDED, machine.reason or "it was ended before it was started", now)
        elif seen is not None and failure is not None and not seen.state.final:
            seen = seen.model_copy(update={"reason": failure.reason})
        if seen is None:
            return None
        brought = _staging(making.progress) if making is not None else self._brought.get(machine.uuid, {})
        seen = seen.model_copy(update=brought)
        before = self._reported.get(machine.uuid)
        if before is not None and (before.state, before.reason) == (seen.state, seen.reason):
            seen = seen.model_copy(update={"changed": before.changed})
        return seen


def _final(error: PartitaError, attempts: int) -> bool:
    """Whether another attempt would fail in the same way. Refusals of AWS are for the site to solve, not for the requester."""
    if isinstance(error, AwsFailed) or error.exit_code == EXIT_UNAVAILABLE:
        return False
    return error.exit_code in {EXIT_REFUSED, EXIT_USAGE} or attempts >= ATTEMPTS


def _blank(machine: DesiredMachine, state: MachineState, reason: str, now: datetime) -> ObservedMachine:
    return ObservedMachine(
        uuid=machine.uuid, state=state, reason=reason, changed=now.replace(microsecond=0), virt="ec2"
    )


def _staging(progress: MachineProgress) -> dict[str, int]:
    return {
        "fetched": progress.fetched,
        "total": progress.total,
        "from_network": progress.from_network,
        "from_cache": progress.from_cache,
    }
