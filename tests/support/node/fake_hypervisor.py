"""A node without emulators: a hypervisor in memory that behaves, and makes and sites that do as a test says."""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from catalog.errors import Unavailable
from catalog.image.manifest import Needs
from deployer.errors import BackendFailed, Cancelled, MachineConflict, Refused, SiteUnavailable
from deployer.hypervisor.accelerator import Accelerator
from deployer.machine.spec import DomainTag, MachineSpec
from deployer.machine.state import MachineEvent, MachineState
from deployer.node.agent.agent import Agent
from deployer.node.agent.context import AgentContext, NodeFacts
from deployer.node.machines.construction import SiteAssignment, new_record
from deployer.node.machines.operations import MachineOperations
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.node.schema.orders import DeploymentResult, DeploymentStep
from deployer.protocol.desired_state import Capacity, ConsoleResponse, DesiredState, NodeReport
from deployer.protocol.machine_order import MachineOrder
from deployer.records.machine_store import MachineRecord, MachineStore
from tests.support.node.receipts import spec

SITE = "5" * 64


class LightHypervisor:
    """Machines are entries of a dictionary, which outlives whoever opened it. It tells at once, from the caller's thread."""

    def __init__(self) -> None:
        self.machines: dict[str, MachineState] = {}
        self.saved_in: dict[Path, str] = {}
        self.deaf = False
        self.failing: str | None = None
        self.told: Callable[[str, MachineEvent, str], None] = lambda *_: None
        self.done: list[tuple[str, str]] = []

    def _do(self, what: str, uuid: str, state: MachineState | None, happening: MachineEvent | None) -> None:
        self.done.append((what, uuid))
        if self.failing == what:
            raise BackendFailed(f"{what}: the emulator says no")
        if uuid not in self.machines:
            raise BackendFailed(f"{what}: there is no such machine")
        if state is None:
            del self.machines[uuid]
        else:
            self.machines[uuid] = state
        if happening is not None:
            self.told(uuid, happening, "told")

    def start(self, machine: MachineSpec) -> None:
        """See Hypervisor."""
        if machine.uuid in self.machines:
            raise BackendFailed("it runs already")
        self.machines[machine.uuid] = MachineState.RUNNING
        self.done.append(("start", machine.uuid))

    def shutdown(self, uuid: str) -> None:
        """See Hypervisor."""
        if not self.deaf:
            self._do("shutdown", uuid, None, MachineEvent.POWERED_OFF)

    def reboot(self, uuid: str) -> None:
        """See Hypervisor."""
        if not self.deaf:
            self._do("reboot", uuid, MachineState.RUNNING, MachineEvent.REBOOTED)

    def reset(self, uuid: str) -> None:
        """See Hypervisor."""
        self._do("reset", uuid, MachineState.RUNNING, MachineEvent.REBOOTED)

    def pause(self, uuid: str) -> None:
        """See Hypervisor."""
        self._do("pause", uuid, MachineState.PAUSED, MachineEvent.PAUSED)

    def resume(self, uuid: str) -> None:
        """See Hypervisor."""
        self._do("resume", uuid, MachineState.RUNNING, MachineEvent.RESUMED)

    def suspend(self, uuid: str, place: Path) -> None:
        """See Hypervisor."""
        place.write_bytes(b"half")
        self._do("suspend", uuid, None, None)
        place.write_bytes(b"whole")
        self.saved_in[place] = uuid

    def restore(self, place: Path) -> None:
        """See Hypervisor."""
        uuid = self.saved_in.pop(place)
        assert uuid not in self.machines
        self.machines[uuid] = MachineState.RUNNING
        self.done.append(("restore", uuid))

    def saved(self, place: Path) -> bool:
        """See Hypervisor."""
        return place.exists() and place.read_bytes() == b"whole"

    def resize(self, uuid: str, memory: int, cores: int) -> None:
        """See Hypervisor."""
        self._do(f"resize to {memory} and {cores}", uuid, self.machines.get(uuid), None)

    def addresses(self, uuid: str) -> tuple[str, ...]:
        """See Hypervisor."""
        return ("192.0.2.7",) if self.machines.get(uuid) is MachineState.RUNNING else ()

    def state(self, uuid: str) -> MachineState | None:
        """See Hypervisor."""
        return self.machines.get(uuid)

    def destroy(self, uuid: str) -> None:
        """See Hypervisor."""
        self.machines.pop(uuid, None)

    def found(self) -> Mapping[str, DomainTag]:
        """See Hypervisor."""
        return {uuid: spec().tag for uuid in self.machines}

    def close(self) -> None:
        """See Hypervisor."""


class Leases:
    """Who holds what, in memory."""

    def __init__(self) -> None:
        self.held: dict[str, float] = {}

    def release(self, holder: str) -> object:
        """See keeping.Leases."""
        return self.held.pop(holder, None)

    def renew(self, holder: str, ttl: float) -> object:
        """See keeping.Leases."""
        self.held[holder] = ttl
        return ttl

    def holders(self) -> Iterable[str]:
        """See keeping.Leases."""
        return list(self.held)


class LightNode:
    """A keeper, verbs, and something that makes machines, over a hypervisor that outlives them."""

    def __init__(self, place: Path, grace: float = 0.2) -> None:
        self.place, self.grace = place, grace
        self.hypervisor, self.leases = LightHypervisor(), Leases()
        self.refuse: str = ""
        self.unavailable = 0
        self.hold: threading.Event | None = None
        """Set by a test that wants makes to wait until it is set, or they are cancelled."""
        self.made: list[str] = []
        self.open()

    def open(self) -> None:
        """The service starts (again)."""
        self.keeper = MachineSupervisor(
            MachineStore(self.place), self.leases, lambda: datetime.now(UTC), timedelta(seconds=self.grace)
        )
        self.hypervisor.told = self.keeper.told
        self.keeper.recover(self.hypervisor)
        self.verbs = MachineOperations(self.keeper, self._admit)

    @contextmanager
    def _admit(self, record: MachineRecord, *, boots: bool) -> Any:
        if self.refuse:
            raise Refused(f"{record.name} ({'boots' if boots else 'goes on'}): {self.refuse}")
        yield

    def make(
        self,
        order: MachineOrder,
        tell: Callable[[DeploymentStep], None],
        cancelled: threading.Event,
        assigned: SiteAssignment | None = None,
    ) -> DeploymentResult:
        """What `Node.deploy` does, without the contents."""
        assert assigned is not None
        if self.refuse:
            raise Refused(self.refuse)
        if self.unavailable:
            self.unavailable -= 1
            raise Unavailable("the catalog does not answer")
        record = record_of(assigned, order)
        if any(known.uuid == record.uuid for known in self.keeper.store.all()):
            raise MachineConflict("there is one already")
        directory = self.keeper.begin(record)
        self.leases.held[record.holder] = 1.0
        tell(DeploymentStep(step="staging", machine=record.name, done=3, total=7))
        while self.hold is not None and not self.hold.wait(0.02):
            if cancelled.is_set():
                self.keeper.undo(record.uuid)
                raise Cancelled("nobody waits")
        (directory / "disk0.qcow2").write_bytes(b"")
        self.keeper.happened(record.uuid, MachineEvent.STAGED, "")
        machine = spec().model_copy(update={"uuid": record.uuid})
        self.keeper.store.change(record.uuid, self.keeper.now(), spec=machine)
        self.hypervisor.start(machine)
        self.made.append(record.uuid)
        last = self.keeper.started(record.uuid, self.keeper.store.get(record.uuid).expires)
        return DeploymentResult(
            image_id=record.image_id,
            title=record.title,
            machines=(last,),
            accelerator=Accelerator(virt="qemu", reason="it is light"),
        )

    def agent(self, site: "LightSite") -> Agent:
        """An agent for a site, not started."""
        facts = NodeFacts(
            architecture="x86_64", accelerator="qemu", capacity=Capacity(cores=4, memory=1 << 30, disk=1 << 30)
        )
        return Agent(site, AgentContext(SITE, self.keeper, self.verbs, self.make, lambda: facts))


class LightSite:
    """A site in this process: says what is in `state`, keeps what it hears."""

    def __init__(self) -> None:
        self.state = DesiredState(revision=1)
        self.away = False
        self.asked: list[int] = []
        self.reports: list[NodeReport] = []
        self.serials: list[ConsoleResponse] = []
        self.news = threading.Condition()

    def say(self, state: DesiredState) -> None:
        """Say this from now on."""
        with self.news:
            self.state = state
            self.news.notify_all()

    def desired(self, after: int, wait: float) -> DesiredState | None:
        """See agent.Site."""
        with self.news:
            self.asked.append(after)
            if self.away:
                raise SiteUnavailable("it is away")
            self.news.wait_for(lambda: self.state.revision != after, min(wait, 0.5))
            return self.state

    def report(self, report: NodeReport) -> None:
        """See agent.Site."""
        if self.away:
            raise SiteUnavailable("it is away")
        with self.news:
            self.reports.append(report)
            self.news.notify_all()

    def serial(self, answer: ConsoleResponse) -> None:
        """See agent.Site."""
        if self.away:
            raise SiteUnavailable("it is away")
        with self.news:
            self.serials.append(answer)
            self.news.notify_all()


def record_of(assigned: SiteAssignment, order: MachineOrder) -> MachineRecord:
    """The record that a deployer would begin."""
    now = datetime.now(UTC).replace(microsecond=0)
    return new_record(
        order.settle(Needs(memory=32 << 20, cores=1), "none"),
        assigned,
        now,
        name=assigned.uuid[:8],
        hostname=order.hostname or "m",
        image_id=order.image,
        title="star/hello@1.0",
        state=MachineState.STAGING,
        virt="qemu",
        policy="",
        desired="running",
    )
