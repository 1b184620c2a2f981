"""Watching over what runs: revocations are fetched, and machines that they affect are dealt with as the policy says."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from catalog.client.trusted import TrustedCatalog
from deployer.machine.state import MachineState
from deployer.node.machines.exposure import BootFacts, exposed_machine, exposure_reason
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.node.schema.orders import ExposedMachine, ExposureList
from deployer.policy.evaluation import effective_revocations
from deployer.policy.revocations import BlockList, RevocationState, RevocationStore
from deployer.policy.store import RuleSet
from deployer.records.machine_store import MachineRecord
from signer.errors import PartitaError
from signer.verification.revocations import verify_revocations
from signer.verification.signature_cache import SignatureCache

LIVE = frozenset({MachineState.BOOTING, MachineState.RUNNING, MachineState.PAUSED})

log = logging.getLogger("partita.node")


class RevocationWatcher:
    """Knows what has been withdrawn, and sees that it takes effect. Safe to use from several threads.

    Args:
        source: the catalog.
        directory: the node's; what was seen is kept there.
        blocked: the site's block list.
        rules: the policy in force; raises PolicyUnusable.
        keeper: of the machines.
        acted: told of each machine that is affected, with the reason and what is done, before it is done.
        clock: the present, UTC.
    """

    def __init__(
        self,
        source: TrustedCatalog,
        directory: Path,
        blocked: Path,
        rules: Callable[[], RuleSet],
        keeper: MachineSupervisor,
        acted: Callable[[MachineRecord, str, str], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._source, self._blocked, self._rules = source, blocked, rules
        self._store = RevocationStore(directory)
        self._keeper, self._acted, self._clock = keeper, acted, clock
        self._memory = SignatureCache()
        self._done: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def known(self) -> RevocationState:
        """The revocations that are known, without a request to the catalog; PolicyUnusable if the block list cannot be read."""
        return RevocationState(self._store.pairs(), BlockList.load(self._blocked))

    def current(self) -> RevocationState:
        """What has been withdrawn until now, for a decision.

        Raises:
            Errors of the catalog: it does not say what is current, and then nothing new starts.
            PolicyUnusable: the block list cannot be read.
        """
        self._fetch()
        return self.known()

    def _fetch(self) -> None:
        """Keep what the catalog has and an anchor signed. Nothing else is kept: a catalog could fill the store with it."""
        pairs = list(self._source.revocations())
        policy = self._rules().policy
        checks = verify_revocations(pairs, policy.anchors, self._clock(), x509=policy.x509_rules, cache=self._memory)
        if fresh := self._store.add(pair for pair, check in zip(pairs, checks, strict=True) if check.counts):
            log.info("%d new revocations", fresh)

    def look(self) -> None:
        """Fetch what is new, and deal with all machines that are affected. Without a network, by what is known."""
        try:
            self._fetch()
        except PartitaError as exc:
            log.info("revocations cannot be fetched: %s", exc)
        try:
            found = self.exposure("")
        except PartitaError as exc:
            log.warning("cannot determine which machines run revoked images: %s", exc)
            return
        with self._lock:
            for machine in found.machines:
                if not machine.affected:  # perhaps it was, and a policy has changed since
                    self._done.pop(machine.uuid, None)
                elif self._done.get(machine.uuid) != (machine.reason, found.action):
                    self._deal_with(machine, found.action)

    def exposure(self, target: str) -> ExposureList:
        """The machines that run an image, or one that a key vouched for; all that run for an empty target."""
        rules, withdrawn, now = self._rules(), self.known(), self._clock()
        held = effective_revocations(rules.policy, withdrawn, now, self._memory)
        machines: list[ExposedMachine] = []
        for record in self._keeper.store.all():
            if record.state not in LIVE:
                continue
            facts = BootFacts.read(self._keeper.store.directory(record.uuid))
            if facts is None or (target and not facts.names(target)):
                continue
            reason = exposure_reason(rules.policy, facts, record.created, held, withdrawn.blocks)
            machines.append(exposed_machine(record, facts, reason))
        return ExposureList(machines=tuple(machines), action=rules.policy.revocations.running)

    def _deal_with(self, machine: ExposedMachine, action: str) -> None:
        try:
            record = self._keeper.store.get(machine.uuid)
            if record.state is MachineState.BOOTING:
                return  # soon
            log.warning("machine %s runs a revoked image (%s): %s", machine.name, action, machine.reason)
            self._acted(record, machine.reason, action)
            if action == "pause" and record.state is MachineState.RUNNING:
                self._keeper.hold(machine.uuid, machine.reason)
            elif action == "drain":
                self._keeper.drain(machine.uuid)
            elif action == "destroy":
                self._keeper.end(machine.uuid, machine.reason)
        except PartitaError as exc:
            log.warning("machine %s: %s; retrying", machine.uuid, exc)  # it is not marked as done
        else:
            self._done[machine.uuid] = (machine.reason, action)
