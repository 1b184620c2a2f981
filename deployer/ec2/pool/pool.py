"""A pool of machines at EC2: for its site a node like any other, worked by the site itself.

`look` brings what is at EC2 nearer to what should be, and says what is. It keeps nothing that matters: after kill -9 the
next look goes on by the tags of instances and by the books. Machines are made in threads, since uploads take minutes; all
other steps are short requests.
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
"""Machines that are made at one time."""

RETRY: Final = timedelta(seconds=15)
RETRY_MOST: Final = timedelta(minutes=10)
"""How long a machine that could not be made waits for the next attempt: twice as long each time, up to the most."""

ATTEMPTS: Final = 5
"""After so many a machine has failed, unless what it needs is only not to be reached just now."""

KEPT: Final = timedelta(days=62)
"""How long the books keep machines that have ended: two months, so that a month's sum is always whole."""

WATCH: Final = timedelta(minutes=1)
"""How often it is looked whether something that runs has been withdrawn."""

SETTLING: Final = timedelta(minutes=5)
"""How long after its beginning a machine that EC2 does not list is taken to be on its way: lists there are late."""

log = logging.getLogger("partita.ec2")


@dataclass
class _Making:
    progress: MachineProgress
    future: "Future[Instance]"


@dataclass(frozen=True)
class _Failure:
    """Why a machine could not be made, and when it is tried again; never, if `again` is None."""

    reason: str
    again: datetime | None
    attempts: int


class Ec2Pool:
    """The machines of one account. `look` is called by one thread.

    Args:
        account: where, and how many at most.
        machines, books: of the account.
        makes: see there.
        clock: the present, UTC.
        workers: machines that are made at one time.
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
        self._told: dict[str, ObservedMachine] = {}
        self._brought: dict[str, dict[str, int]] = {}
        self._changed = threading.Event()
        self._revision = -1
        self._watched: datetime | None = None
        self._dealt: dict[str, str] = {}
        self._problem = ""

    def close(self) -> None:
        """Cancel what is being made and wait until that has stopped; machines go on."""
        for making in self._making.values():
            making.progress.cancelled.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def follow(self, account: Account) -> None:
        """The site's file says something else of the account; how it is reached is as it was. From any thread."""
        self._account = account
        self._makes.follow(account)

    def busy(self, seconds: float) -> bool:
        """Whether machines are being made; waits that long for one of them to be done."""
        if not self._making:
            return False
        self._changed.wait(seconds)
        self._changed.clear()
        return True

    def look(self, desired: DesiredState) -> NodeReport:
        """Do what is to be done next, and say how all is.

        Args:
            desired: one that is older than the last is ignored.

        Raises:
            AwsFailed, LedgerUnusable: nothing is known now; look again later.
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
        """Now and then: deal with machines whose image was withdrawn while they run, as the policy says."""
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
                elif action == "pause":  # it is not started again, since the policy would have to accept it
                    self._machines.stop(each.instance, hibernate=each.hibernates)
                    self._failures[each.machine] = _Failure(reason, now + RETRY_MOST, 1)
                    acted = True
                self._dealt[each.instance] = reason
        except PartitaError as exc:
            log.warning("cannot determine which machines run revoked images: %s", exc)
        return acted

    def _settle(self, desired: DesiredState, instances: Sequence[Instance]) -> None:
        """What has come of machines that were being made, and of those in the books that are no more."""
        for uuid, making in list(self._making.items()):
            if making.future.done():
                del self._making[uuid]
                # Kept apart from what was told: a machine may be made between two looks, and nobody have seen it on its way.
                self._brought[uuid] = _staging(making.progress)
                self._came_to(uuid, making.future)
        now = self._clock().replace(microsecond=0)
        wanted = {machine.uuid for machine in desired.machines if machine.want is not DesiredStatus.ENDED}
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
                self._ended(entry, now, "it was never begun")
        self._books.tidy(now - KEPT)

    def _ended(self, entry: MachineEntry, now: datetime, reason: str) -> None:
        until = min(entry.until, now)
        told = entry.reason or reason
        self._books.put_machine(entry.model_copy(update={"ended": True, "until": until, "reason": told}))

    def _came_to(self, uuid: str, future: "Future[Instance]") -> None:
        if future.cancelled():
            return
        try:
            future.result()
        except Cancelled:
            return
        except PartitaError as exc:
            before = self._failures.get(uuid)
            attempts = before.attempts + 1 if before else 1
            again = None if _final(exc, attempts) else self._later(attempts)
            self._failures[uuid] = _Failure(str(exc), again, attempts)
            log.warning("machine %s cannot be made: %s", uuid, exc)
        except Exception as exc:
            log.exception("machine %s cannot be made", uuid)
            self._failures[uuid] = _Failure(f"an internal error: {type(exc).__name__}", None, 1)
        else:
            self._failures.pop(uuid, None)

    def _do(self, step: Action, instances: Sequence[Instance]) -> bool:
        """Do one step; True if something at EC2 was changed by it. One that fails is no reason to leave out others."""
        if step.kind is not ActionKind.END and self._waits(step.machine):
            return False
        try:
            if step.kind is ActionKind.MAKE:
                self._make(step.desired, instances)
                return False
            return self._change(step, instances)
        except PartitaError as exc:
            log.warning("machine %s: %s: %s", step.machine, step.kind.value, exc)
            before = self._failures.get(step.machine)
            attempts = before.attempts + 1 if before else 1
            self._failures[step.machine] = _Failure(str(exc), self._later(attempts), attempts)
            return False

    def _later(self, attempts: int) -> datetime:
        wait: timedelta = min(RETRY * 2 ** min(attempts - 1, 10), RETRY_MOST)
        return self._clock() + wait

    def _waits(self, uuid: str) -> bool:
        """Whether a machine's last step failed, and it is too early, or useless, to try again."""
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
                self._machines.tag(step.instance, {END_TAG: end_tag_value(machine.ends)})
                self._rebook(machine, until=machine.ends)
            case ActionKind.RESIZE:
                kind = self._makes.type_for(machine)
                self._machines.retype(
                    step.instance, kind.name, {SIZE_TAG: size_tag_value(machine.cores, machine.memory)}
                )
                self._rebook(machine, instance_type=kind.name)
        self._failures.pop(step.machine, None)
        return True

    def _rebook(self, machine: DesiredMachine, **values: object) -> None:
        with self._books.booking():
            entry = self._books.machine(machine.uuid)
            if entry is not None:
                self._books.put_machine(entry.model_copy(update=values))

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
        self._told = {uuid: seen for uuid, seen in found.items() if seen is not None}
        return NodeReport(
            revision=max(desired.revision, self._revision),
            architecture="",
            accelerator="ec2",
            capacity=Capacity(cores=self._account.cores, memory=self._account.memory, disk=self._account.disk),
            labels={"account": self._account.name, "region": self._account.region},
            cached=tuple(sorted({address for entry in self._books.images() for address in entry.addresses})),
            machines=tuple(self._told.values()),
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
        elif seen is None and (machine.want is DesiredStatus.ENDED or now >= machine.ends):
            seen = _blank(machine, MachineState.ENDED, machine.reason or "it was ended before it was begun", now)
        elif seen is not None and failure is not None and not seen.state.final:
            seen = seen.model_copy(update={"reason": failure.reason})
        if seen is None:
            return None
        brought = _staging(making.progress) if making is not None else self._brought.get(machine.uuid, {})
        seen = seen.model_copy(update=brought)
        before = self._told.get(machine.uuid)
        if before is not None and (before.state, before.reason) == (seen.state, seen.reason):
            seen = seen.model_copy(update={"changed": before.changed})
        return seen


def _final(error: PartitaError, attempts: int) -> bool:
    """Whether trying again would only give the same answer. AWS's refusals are the site's to mend, not the requester's."""
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
