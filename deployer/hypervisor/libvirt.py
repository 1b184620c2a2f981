"""Machines under libvirt: the only door to it. Its errors become BackendFailed here.

By default the QEMU driver runs inside this process (`qemu:///embed`): there is no daemon to set up, a machine outlives
the process, and the next process that opens the same root finds it. One process owns a root; libvirt's pid file sees to it. Any
other libvirt URI may be set instead. Domains are transient: a node's own records say which machines exist.
"""

import ipaddress
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from deployer.errors import BackendFailed
from deployer.hypervisor.domain_xml import build_domain_xml, restore_domain_xml, tag_of
from deployer.hypervisor.embedded_driver import prepare_root
from deployer.hypervisor.neighbor_table import read_neighbors
from deployer.hypervisor.qemu_monitor import QemuMonitor
from deployer.machine.spec import MACHINE_TYPE, DomainTag, MachineSpec, mac_of
from deployer.machine.state import MachineEvent, MachineState

T = TypeVar("T")

_loading = threading.Lock()
_loaded: list[Any] = []

EventListener = Callable[[str, MachineEvent, str], None]
"""Called when something happened to a machine, with its UUID, the event, and a reason or an empty text.

It is called from a thread of libvirt's, may come late or twice, and must return at once.
"""


def _libvirt(log: Path | None = None) -> Any:
    """The libvirt module with its event loop running in a thread; one per process, made at the first call.

    It is loaded late because it reads where to log to from the environment while it loads, and because most commands
    never need it.
    """
    with _loading:
        if not _loaded:
            ours = log is not None and "LIBVIRT_LOG_OUTPUTS" not in os.environ
            if ours:
                os.environ["LIBVIRT_LOG_OUTPUTS"] = f"3:file:{log}"
            try:
                import libvirt
            finally:
                if ours:  # it is for this process alone; child processes must not write to this log
                    del os.environ["LIBVIRT_LOG_OUTPUTS"]
            # Errors come as exceptions; the default handler would print each of them as well.
            libvirt.registerErrorHandler(lambda _context, _error: None, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_events, args=(libvirt,), name="libvirt-events", daemon=True).start()
            _loaded.append(libvirt)
        return _loaded[0]


def _run_events(libvirt: Any) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class Hypervisor:
    """The machines of one owner on one libvirt connection. Methods raise BackendFailed with libvirt's own reason.

    Args:
        uri: libvirt's connection URI.
        owner: what the tags of this node's machines say; others are never touched.
        tell: called when something happens to a machine of this connection.
        log: where libvirt writes its warnings.
        agents: a directory for the sockets of guests' agents; libvirt's own place if not given.
    """

    def __init__(
        self, uri: str, owner: str, tell: EventListener, *, log: Path | None = None, agents: Path | None = None
    ) -> None:
        self._libvirt = _libvirt(log)
        self._agents = agents
        self._gone = {self._libvirt.VIR_ERR_NO_DOMAIN, self._libvirt.VIR_ERR_OPERATION_INVALID}
        self._uri, self._owner, self._tell = uri, owner, tell
        self._lock = threading.Lock()
        self._connection = self._open()

    @classmethod
    def embedded(cls, root: Path, owner: str, tell: EventListener) -> "Hypervisor":
        """The driver inside this process, with its state under `root`, which is made if absent.

        Raises:
            BackendFailed: the path is too long, another process owns the root, or the driver does not start.
        """
        prepare_root(root)
        return cls(f"qemu:///embed?root={root}", owner, tell, log=root / "libvirt.log", agents=root / "agents")

    @property
    def version(self) -> str:
        """Of libvirt, for people. (Asked for QEMU's, libvirt would try out every QEMU there is, for seconds.)"""
        number = self._libvirt.getVersion()
        return f"libvirt {number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

    def prepare(self, architecture: str, virt: str) -> None:
        """Let libvirt find out what QEMU can do; it remembers, and the first machine does not wait for it."""
        machine = MACHINE_TYPE[architecture]
        self._ask(
            lambda connection: connection.getDomainCapabilities(None, architecture, machine, virt, 0),
            f"libvirt cannot run {architecture} machines",
        )

    def start(self, spec: MachineSpec) -> None:
        """Run a machine; it is running when this returns."""
        agent = self._agents / spec.uuid if self._agents else None
        self._ask(
            lambda connection: connection.createXML(build_domain_xml(spec, agent), 0),
            f"machine {spec.name} does not start",
        )

    def shutdown(self, uuid: str) -> None:
        """Ask the guest to power off; an event reports later when it has.

        The guest sees its power button pressed (ACPI).
        """
        self._domain(uuid, lambda domain: domain.shutdown(), f"machine {uuid} cannot be asked to shut down")

    def reboot(self, uuid: str) -> None:
        """Ask the guest to boot again; the event REBOOTED reports later that it did.

        The guest sees its power button pressed, and libvirt boots it again when it powers off.
        """
        flag = self._libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN
        self._domain(uuid, lambda domain: domain.reboot(flag), f"machine {uuid} cannot be asked to reboot")

    def reset(self, uuid: str) -> None:
        """Boot the guest again now, as its reset button would."""
        self._domain(uuid, lambda domain: domain.reset(0), f"machine {uuid} cannot be reset")

    def pause(self, uuid: str) -> None:
        """Pause a machine, which stays in memory; an event reports later that it is paused."""
        self._domain(uuid, lambda domain: domain.suspend(), f"machine {uuid} cannot be paused")

    def resume(self, uuid: str) -> None:
        """Resume a paused machine; an event reports it later."""

        def act(domain: Any) -> None:
            QemuMonitor(domain).mend()  # it may have been left half suspended
            domain.resume()

        self._domain(uuid, act, f"machine {uuid} cannot be resumed", strict=True)

    def suspend(self, uuid: str, place: Path) -> None:
        """Save a machine's memory in a file that is not there yet, and end the emulator; done when this returns.

        libvirt marks the file as whole at the very end.
        """
        libvirt = self._libvirt

        def act(domain: Any) -> None:
            ran = domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
            if ran:
                domain.suspend()
            monitor = QemuMonitor(domain)
            try:
                monitor.part()
                domain.saveFlags(str(place), None, libvirt.VIR_DOMAIN_SAVE_RUNNING)
            except (libvirt.libvirtError, BackendFailed):
                monitor.mend()
                if ran:
                    domain.resume()
                raise

        self._domain(uuid, act, f"machine {uuid} cannot be saved", strict=True)

    def restore(self, place: Path) -> None:
        """Let a machine go on from what `suspend` saved; it is running when this returns, and the file may go."""
        flag = self._libvirt.VIR_DOMAIN_SAVE_RUNNING
        self._ask(
            lambda connection: connection.restoreFlags(str(place), None, flag), f"{place}: the machine does not go on"
        )

    def adopt(self, place: Path, spec: MachineSpec) -> None:
        """Adopt memory that another node's `suspend` saved for this machine: the file is changed, nothing runs.

        Raises BackendFailed where the hypervisor finds that it is another machine's.

        The description in the file is not trusted: it is written anew, and libvirt compares the two,
        device by device, before it writes it.
        """
        agent = self._agents / spec.uuid if self._agents else None
        flag = self._libvirt.VIR_DOMAIN_SAVE_RUNNING

        def act(connection: Any) -> None:
            saved = connection.saveImageGetXMLDesc(str(place), 0)
            connection.saveImageDefineXML(str(place), restore_domain_xml(build_domain_xml(spec, agent), saved), flag)

        self._ask(act, f"machine {spec.name} cannot go on with what another node saved of it")

    def saved(self, place: Path) -> bool:
        """Whether a file holds all that `suspend` saves."""
        if not place.exists():
            return False
        try:
            self._ask(lambda connection: connection.saveImageGetXMLDesc(str(place), 0), "it was not saved")
        except BackendFailed:
            return False
        return True

    def resize(self, uuid: str, memory: int, cores: int) -> None:
        """Give a running machine so many bytes of memory and cores, within what its description grants.

        The balloon takes or gives memory, cores are plugged in or, if the guest lets go of them, out.
        """

        def act(domain: Any) -> None:
            if domain.vcpusFlags(self._libvirt.VIR_DOMAIN_AFFECT_LIVE) != cores:
                domain.setVcpusFlags(cores, self._libvirt.VIR_DOMAIN_AFFECT_LIVE)
            domain.setMemoryFlags(memory >> 10, self._libvirt.VIR_DOMAIN_AFFECT_LIVE)

        self._domain(uuid, act, f"machine {uuid} cannot be resized", strict=True)

    def addresses(self, uuid: str) -> tuple[str, ...]:
        """The IP addresses that the hypervisor's network or the guest's agent reports; empty if none are known.

        Leases of libvirt's own network, then the guest's agent, then the host's neighbor table.
        """
        libvirt = self._libvirt
        for source in (
            libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
            libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
        ):
            look = operator.methodcaller("interfaceAddresses", source, 0)
            with suppress(BackendFailed):  # no agent in the guest, or another driver: the next source may know
                if found := tuple(_usable(self._domain(uuid, look, f"machine {uuid} has no addresses"))):
                    return found
        return tuple(_reachable(read_neighbors().get(mac_of(uuid), ())))

    def state(self, uuid: str) -> MachineState | None:
        """RUNNING or PAUSED as the hypervisor has it now; None where there is no such machine."""

        def look(domain: Any) -> MachineState | None:
            if not domain.isActive():
                return None
            paused = domain.state()[0] in {self._libvirt.VIR_DOMAIN_PAUSED, self._libvirt.VIR_DOMAIN_PMSUSPENDED}
            return MachineState.PAUSED if paused else MachineState.RUNNING

        return self._domain(uuid, look, f"unknown state of machine {uuid}")

    def destroy(self, uuid: str) -> None:
        """End a machine now; one that is not there is ended already."""
        self._domain(uuid, lambda domain: domain.destroy(), f"machine {uuid} cannot be ended")
        if self._agents:
            (self._agents / uuid).unlink(missing_ok=True)

    def found(self) -> Mapping[str, DomainTag]:
        """The machines that run now and carry this node's tag, by UUID."""

        def ours(connection: Any) -> dict[str, DomainTag]:
            tags = {}
            for domain in connection.listAllDomains():
                try:
                    tag = tag_of(domain.XMLDesc(0))
                    if tag is not None and tag.owner == self._owner and self._runs(domain):
                        tags[domain.UUIDString()] = tag
                except self._libvirt.libvirtError as exc:
                    if exc.get_error_code() not in self._gone:
                        raise
            return tags

        return self._ask(ours, "the running machines cannot be listed")

    def _runs(self, domain: Any) -> bool:
        """Whether a domain that libvirt lists has an emulator. Just after the driver was opened it lists those of before,
        and finds out beside us which of them still run; a question to the emulator waits for that."""
        try:
            domain.memoryStats()
        except self._libvirt.libvirtError as exc:
            return bool(exc.get_error_code() not in self._gone)  # an emulator that hangs is there all the same
        return True

    def close(self) -> None:
        """Close the connection; machines keep running."""
        try:
            for events in self._events:
                self._connection.domainEventDeregisterAny(events)
            self._connection.close()
        except self._libvirt.libvirtError as exc:
            raise BackendFailed(f"libvirt ({self._uri}) cannot be closed: {exc}") from exc

    def _open(self) -> Any:
        try:
            connection = self._libvirt.open(self._uri)
            self._events = [
                connection.domainEventRegisterAny(None, kind, called, None)
                for kind, called in (
                    (self._libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._happened),
                    (self._libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._rebooted),
                )
            ]
        except self._libvirt.libvirtError as exc:
            raise BackendFailed(_advice(self._uri, str(exc))) from exc
        return connection

    def _ask(self, question: Callable[[Any], T], failing: str) -> T:
        try:
            with self._lock:
                if not self._connection.isAlive():  # the daemon behind another URI was restarted
                    self._connection = self._open()
            return question(self._connection)
        except self._libvirt.libvirtError as exc:
            raise BackendFailed(f"{failing}: {exc}") from exc

    def _domain(self, uuid: str, act: Callable[[Any], T], failing: str, *, strict: bool = False) -> T | None:
        """Act on a domain; one that has ended is left alone, unless the act makes no sense then."""

        def look_up_and_act(connection: Any) -> T | None:
            try:
                return act(connection.lookupByUUIDString(uuid))
            except self._libvirt.libvirtError as exc:
                if strict or exc.get_error_code() not in self._gone:
                    raise
                return None

        return self._ask(look_up_and_act, failing)

    def _happened(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        """Report libvirt's lifecycle events as ours; runs in the event loop's thread."""
        libvirt = self._libvirt
        crashed = "the emulator ended by itself; its log in the node's directory has the reason"
        known: dict[int, tuple[MachineEvent, str]] = {
            libvirt.VIR_DOMAIN_EVENT_STOPPED: {
                libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: (MachineEvent.POWERED_OFF, "the guest powered off"),
                libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: (
                    MachineEvent.DESTROYED,
                    "the machine was ended from outside the guest",
                ),
                libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: (MachineEvent.SUSPENDED, "its memory was saved"),
            }.get(detail, (MachineEvent.CRASHED, crashed)),
            libvirt.VIR_DOMAIN_EVENT_CRASHED: (MachineEvent.CRASHED, "the guest crashed"),
            libvirt.VIR_DOMAIN_EVENT_SUSPENDED: (MachineEvent.PAUSED, "the machine was paused"),
            libvirt.VIR_DOMAIN_EVENT_RESUMED: (MachineEvent.RESUMED, ""),
        }
        if event in known:
            self._tell(domain.UUIDString(), *known[event])

    def _rebooted(self, _connection: Any, domain: Any, _opaque: object) -> None:
        self._tell(domain.UUIDString(), MachineEvent.REBOOTED, "")


def _usable(interfaces: Any) -> Iterator[str]:
    entries = (entry for interface in (interfaces or {}).values() for entry in interface.get("addrs") or ())
    return _reachable(entry["addr"] for entry in entries)


def _reachable(addresses: Iterable[str]) -> Iterator[str]:
    """The addresses by which others reach a guest: no loopback, and none that is valid on one link alone."""
    for text in addresses:
        address = ipaddress.ip_address(text)
        if not (address.is_loopback or address.is_link_local or address.is_unspecified):
            yield str(address)


def _advice(uri: str, reason: str) -> str:
    """A failure to open libvirt, with what to do about those that a person can end."""
    if "driver.pid" in reason:
        root = uri.partition("root=")[2]
        return f"{root}: another partita node owns this directory; end it, or choose another node.directory"
    if "Failed to parse user" in reason or "Failed to parse group" in reason:
        return f"libvirt's own user does not exist here ({reason}); run ./dev setup, or install libvirt-daemon-system"
    return f"libvirt ({uri}) cannot be opened: {reason}"
