"""Machines under libvirt: the only door to it. Its errors become BackendFailed here.

By default the QEMU driver runs inside this process (`qemu:///embed`): there is no daemon to set up, a machine outlives
the process, and whoever opens the same root again finds it. One process owns a root; libvirt's pid file sees to it. Any
other libvirt URI may be set instead. Domains are transient: a node's own records are what says which machines exist.
"""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from deployer.backend import Tell
from deployer.domain_xml import domain_xml, tag_of
from deployer.errors import BackendFailed
from deployer.machine import MACHINE_TYPE, Happening, MachineSpec, Tag

MAX_ROOT = 50
"""Bytes in the path of an embedded root. libvirt puts a socket at lib/qemu/domain-<id>-<20 bytes of name>/monitor.sock
beneath it, and the path of a Unix socket has at most 107 (unix(7))."""

QEMU_CONF = """\
# Written by partita node at every start.
# Files are made by this node for its own machines: nothing is to change their owners or remember them.
user = "{user}"
group = "{group}"
dynamic_ownership = 0
remember_owner = 0
# There is no virtlogd beside an embedded driver; QEMU writes its own log.
stdio_handler = "file"
"""

T = TypeVar("T")

_loading = threading.Lock()
_loaded: list[Any] = []


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
                if ours:  # it is for this process alone; children would find a log that is none of theirs
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


class LibvirtBackend:
    """Machines of one owner on one libvirt connection.

    Args:
        uri: libvirt's connection URI.
        owner: what the tags of this node's machines say; others are never touched.
        tell: called when something happens to a machine of this connection.
        log: where libvirt writes its warnings.
    """

    def __init__(self, uri: str, owner: str, tell: Tell, *, log: Path | None = None) -> None:
        self._libvirt = _libvirt(log)
        self._gone = {self._libvirt.VIR_ERR_NO_DOMAIN, self._libvirt.VIR_ERR_OPERATION_INVALID}
        self._uri, self._owner, self._tell = uri, owner, tell
        self._lock = threading.Lock()
        self._connection = self._open()

    @classmethod
    def embedded(cls, root: Path, owner: str, tell: Tell) -> "LibvirtBackend":
        """The driver inside this process, with its state under `root`, which is made if absent.

        Raises:
            BackendFailed: the path is too long, another process owns the root, or the driver does not start.
        """
        if len(bytes(root)) > MAX_ROOT:
            raise BackendFailed(
                f"{root}: has {len(bytes(root))} bytes and libvirt's sockets beneath it allow {MAX_ROOT}; "
                "choose a shorter node.directory"
            )
        (root / "etc").mkdir(parents=True, exist_ok=True)
        user = "root" if os.geteuid() == 0 else str(os.geteuid())
        group = "root" if os.geteuid() == 0 else str(os.getegid())
        (root / "etc" / "qemu.conf").write_text(QEMU_CONF.format(user=user, group=group))
        return cls(f"qemu:///embed?root={root}", owner, tell, log=root / "libvirt.log")

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
        """See Backend."""
        self._ask(lambda connection: connection.createXML(domain_xml(spec), 0), f"machine {spec.name} does not start")

    def shutdown(self, uuid: str) -> None:
        """See Backend; the guest sees its power button pressed (ACPI)."""
        self._domain(uuid, lambda domain: domain.shutdown(), f"machine {uuid} cannot be asked to shut down")

    def pause(self, uuid: str) -> None:
        """See Backend."""
        self._domain(uuid, lambda domain: domain.suspend(), f"machine {uuid} cannot be paused")

    def destroy(self, uuid: str) -> None:
        """See Backend."""
        self._domain(uuid, lambda domain: domain.destroy(), f"machine {uuid} cannot be ended")

    def found(self) -> Mapping[str, Tag]:
        """See Backend."""

        def ours(connection: Any) -> dict[str, Tag]:
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
        """See Backend."""
        try:
            self._connection.domainEventDeregisterAny(self._events)
            self._connection.close()
        except self._libvirt.libvirtError as exc:
            raise BackendFailed(f"libvirt ({self._uri}) cannot be closed: {exc}") from exc

    def _open(self) -> Any:
        try:
            connection = self._libvirt.open(self._uri)
            self._events = connection.domainEventRegisterAny(
                None, self._libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._happened, None
            )
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

    def _domain(self, uuid: str, act: Callable[[Any], object], failing: str) -> None:
        def look_up_and_act(connection: Any) -> None:
            try:
                act(connection.lookupByUUIDString(uuid))
            except self._libvirt.libvirtError as exc:
                if exc.get_error_code() not in self._gone:
                    raise

        self._ask(look_up_and_act, failing)

    def _happened(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        """libvirt's lifecycle events as ours; runs in the event loop's thread."""
        libvirt = self._libvirt
        told: tuple[Happening, str] | None = None
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            if detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN:
                told = Happening.POWERED_OFF, "the guest powered off"
            elif detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED:
                told = Happening.DESTROYED, "the machine was ended from outside the guest"
            else:
                told = Happening.CRASHED, "the emulator ended by itself; its log in the node's directory has the reason"
        elif event == libvirt.VIR_DOMAIN_EVENT_CRASHED:
            told = Happening.CRASHED, "the guest crashed"
        elif event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            told = Happening.SUSPENDED, "the machine was paused"
        elif event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            told = Happening.RESUMED, ""
        if told is not None:
            self._tell(domain.UUIDString(), *told)


def _advice(uri: str, reason: str) -> str:
    """A failure to open libvirt, with what to do about those that a person can end."""
    if "driver.pid" in reason:
        root = uri.partition("root=")[2]
        return f"{root}: another partita node owns this directory; end it, or choose another node.directory"
    if "Failed to parse user" in reason or "Failed to parse group" in reason:
        return f"libvirt's own user does not exist here ({reason}); run ./dev setup, or install libvirt-daemon-system"
    return f"libvirt ({uri}) cannot be opened: {reason}"
