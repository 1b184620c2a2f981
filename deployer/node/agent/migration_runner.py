"""A node's part in migrations, for its site's agent: offers, transfers, their outcome, and when to give up."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from deployer.errors import Cancelled, MigrationFailed, SiteUnavailable
from deployer.node.machines.construction import failed_record
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.node.membership.credentials import CERTIFICATE_FILE, SiteMembership
from deployer.node.migration.client import MigrationClient
from deployer.node.migration.server import create_migration_app, open_migration_socket, serve_migrations, tls_context
from deployer.node.migration.source import MIGRATABLE, MigrationSource
from deployer.node.migration.target import MigrationTarget
from deployer.pki.ca import is_server_certificate
from deployer.protocol.actions import Action, ActionKind
from deployer.protocol.desired_state import DesiredState, IncomingMigration
from deployer.protocol.migration import MigrationProgress, MigrationSupport, Platform
from deployer.records.machine_store import MachineRecord
from signer.errors import EXIT_UNAVAILABLE, PartitaError

PATIENCE = 600.0
"""Seconds without progress after which a migration is no longer retried."""

LOST = "its state that was migrated here from another node is missing"

log = logging.getLogger("partita.node")


@dataclass
class _Try:
    """How far bringing a machine has come.

    Attributes:
        number: of the migration.
        since: when the last byte came, by the clock.
        done, total: bytes.
        failed: why it is given up, or empty.
    """

    number: int
    since: float
    done: int = 0
    total: int = 0
    failed: str = ""


class MigrationRunner:
    """Moves of one node that works for one site. Safe to use from several threads.

    Args:
        membership: what the site gave the node.
        keeper, giver, taker: of the node.
        platform: of its machines.
        where: address and port at which machines are given away; empty for nowhere.
        url: how that is reached; empty for what the address says.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        membership: SiteMembership,
        keeper: MachineSupervisor,
        giver: MigrationSource,
        taker: MigrationTarget,
        platform: Callable[[], Platform],
        where: str,
        url: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._membership, self._keeper, self._giver, self._taker = membership, keeper, giver, taker
        self._platform, self._where, self._url, self._clock = platform, where, url, clock
        self._reached = ""
        self._tries: dict[str, _Try] = {}
        self._lock = threading.Lock()
        self._serving = ExitStack()

    def start(self) -> None:
        """Listen, if it is set so. On failure the log says why, and the site learns that this node gives nothing away."""
        if not self._where:
            return
        try:
            if not is_server_certificate((self._membership.directory / CERTIFICATE_FILE).read_bytes()):
                log.warning(
                    "this node migrates no machines to other nodes until it has a certificate that says that it may listen"
                )
                return
            context, authority = tls_context(self._membership)
            app = create_migration_app(self._giver, authority)
            reached = self._serving.enter_context(serve_migrations(app, open_migration_socket(self._where), context))
            self._reached = self._url or reached
        except (SiteUnavailable, OSError) as exc:
            log.warning("this node migrates no machines to other nodes: %s", exc)

    def close(self) -> None:
        """Stop serving machines to other nodes."""
        self._reached = ""
        self._serving.close()

    @property
    def movable(self) -> MigrationSupport:
        """This node's support of migration, for its site."""
        return MigrationSupport(url=self._reached, platform=self._platform())

    def do(self, action: Action, cancelled: threading.Event, news: Callable[[], None]) -> None:
        """Carry out one step; its errors mean that it should be retried."""
        uuid = action.machine
        match action.kind:
            case ActionKind.GIVE if (giving := action.desired.outgoing) is not None:
                self._giver.give(uuid, giving)
            case ActionKind.RETAIN:
                self._giver.retain(uuid)
            case ActionKind.ADOPT:
                log.info("machine %s is this node's now", uuid)
                self._keeper.change(uuid, incoming=None, reason="")
            case ActionKind.REPORT_LOST:
                self._keeper.failed(failed_record(action.desired, self._membership.identity, LOST, self._keeper.now()))
            case ActionKind.TAKE if action.incoming is not None:
                self._take(action.incoming, cancelled, news)

    def arrivals(self, desired: DesiredState, records: Iterable[MachineRecord]) -> tuple[MigrationProgress, ...] | None:
        """How far this node has come with what is to be brought to it; None if nothing is."""
        here = {record.uuid: record for record in records}
        found = tuple(self._arrival(incoming, here.get(incoming.machine.uuid)) for incoming in desired.incoming or ())
        return found or None

    def undone(self, actions: Sequence[Action]) -> tuple[Action, ...]:
        """The actions without those of migrations that were given up."""
        with self._lock:
            failed = {(uuid, known.number) for uuid, known in self._tries.items() if known.failed}
        return tuple(
            action
            for action in actions
            if action.incoming is None or (action.machine, action.incoming.number) not in failed
        )

    def tidy(self, desired: DesiredState, busy: Collection[str]) -> None:
        """Forget and remove migrations that are no longer wanted."""
        wanted = {(incoming.machine.uuid, incoming.number) for incoming in desired.incoming or ()}
        with self._lock:
            self._tries = {
                uuid: known for uuid, known in self._tries.items() if (uuid, known.number) in wanted or uuid in busy
            }
        self._taker.tidy(wanted, busy)

    def _arrival(self, incoming: IncomingMigration, record: MachineRecord | None) -> MigrationProgress:
        uuid, number = incoming.machine.uuid, incoming.number
        with self._lock:
            known = self._tries.get(uuid)
        known = known if known is not None and known.number == number else _Try(number, 0.0)
        held = record is not None and record.incoming == number and record.state in MIGRATABLE
        failed = "" if held else known.failed
        return MigrationProgress(
            uuid=uuid, number=number, ready=held, failed=failed, done=known.done, total=known.total
        )

    def _take(self, incoming: IncomingMigration, cancelled: threading.Event, news: Callable[[], None]) -> None:
        uuid = incoming.machine.uuid
        with self._lock:
            known = self._tries.get(uuid)
            if known is None or known.number != incoming.number:
                known = self._tries[uuid] = _Try(incoming.number, self._clock())

        def advance(done: int, total: int) -> None:
            known.done, known.total, known.since = done, total, self._clock()
            news()

        try:
            with MigrationClient(self._membership, incoming.url, incoming.source) as client:
                self._taker.take(incoming, client, cancelled, advance)
        except Cancelled:
            raise
        except (PartitaError, OSError) as exc:
            again = exc.again if isinstance(exc, MigrationFailed) else getattr(exc, "exit_code", 0) == EXIT_UNAVAILABLE
            if again and self._clock() - known.since < PATIENCE:
                raise
            log.warning("machine %s cannot be brought here: %s", uuid, exc)
            known.failed = str(exc)[:500] or type(exc).__name__
        else:
            log.info("machine %s received; waiting for hand-over (migration %d)", uuid, incoming.number)
        news()
