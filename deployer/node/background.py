"""The background threads of a node's service: they supervise machines, watch revocations and refresh metadata."""

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from catalog.client.trusted import TrustedCatalog, keep_fresh
from deployer.errors import PolicyUnusable
from deployer.machine.state import MachineEvent
from deployer.node.machines.revocation_watcher import RevocationWatcher
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.policy.store import PolicyStore
from signer.errors import SignerError

TICK = 1.0
"""Seconds between two looks at all machines."""

log = logging.getLogger("partita.node")


class NodeThreads:
    """The background threads.

    Args:
        keeper: of the node's machines.
        policies: of the node.
        catalog: as the node believes it.
        watcher: lets revocations and the block list reach what runs.
        watching: how often.
        warm_up: done once at the start, beside everything else.
    """

    def __init__(
        self,
        keeper: MachineSupervisor,
        policies: PolicyStore,
        catalog: TrustedCatalog,
        watcher: RevocationWatcher,
        watching: timedelta,
        warm_up: Callable[[], None],
    ) -> None:
        self._keeper, self._policies, self._catalog, self._watcher = keeper, policies, catalog, watcher
        self._watching, self._warm_up = watching, warm_up
        self._happenings: queue.SimpleQueue[tuple[str, MachineEvent, str] | None] = queue.SimpleQueue()
        self._policy_problem = ""
        self._ended = threading.Event()
        self._keeping = threading.Thread(target=self._keep, name="keeper")

    def tell(self, uuid: str, happening: MachineEvent, reason: str) -> None:
        """Take an event of the hypervisor; `EventListener`."""
        self._happenings.put((uuid, happening, reason))

    def start(self) -> None:
        """Start the threads."""
        self._keeping.start()
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()
        threading.Thread(
            target=keep_fresh, args=(self._catalog, self._ended, log), name="freshness", daemon=True
        ).start()
        threading.Thread(target=self._watch, name="watcher", daemon=True).start()

    def end(self) -> None:
        """Begin to end: no new check is started."""
        self._ended.set()

    def close(self) -> None:
        """End, once all events of machines are written down."""
        self._ended.set()
        self._happenings.put(None)
        self._keeping.join()

    def _keep(self) -> None:
        """What the hypervisor tells, in its order, and a look at everything now and then."""
        while True:
            told = None
            with suppress(queue.Empty):
                told = self._happenings.get(timeout=TICK)
                if told is None:
                    return
            try:
                if told is None:
                    self._look_at_policy()
                    self._keeper.tick()
                else:
                    self._keeper.told(*told)
            except Exception:
                log.exception("keeping machines failed; it goes on")

    def _look_at_policy(self) -> None:
        """Bring a changed policy into force, or log why not, before a machine is ordered."""
        problem = ""
        try:
            self._policies.current()
        except (PolicyUnusable, SignerError) as exc:  # the latter: what comes into force cannot be put on record
            problem = str(exc)
        problem = problem or self._policies.problem
        if problem and problem != self._policy_problem:
            log.warning("the policy is not in force as its files are: %s", problem)
        self._policy_problem = problem

    def _watch(self) -> None:
        while not self._ended.wait(self._watching.total_seconds()):
            try:
                self._watcher.look()
            except Exception:
                log.exception("looking for revocations failed; it goes on")
