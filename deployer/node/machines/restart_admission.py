"""Whether a machine that was at rest may run again: decided as if it were new, by what is known now.

While a machine was stopped or suspended its image may have been revoked, the policy changed, or a cached content damaged. So
its contents are staged again (which costs nothing where they are here), endorsements and policy are looked at again, and
every cache entry is compared with what was verified.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

from catalog.image.manifest import Manifest
from deployer.machine.user_data import UserDataKind
from deployer.node.machines.context import DeploymentContext
from deployer.node.machines.exposure import BootFacts
from deployer.node.machines.supervisor import LEASE_MARGIN
from deployer.policy.decision import Request
from deployer.policy.evaluation import EvaluationInput, evaluate
from deployer.records.machine_store import MachineRecord
from deployer.records.receipt import PreviousReceipt
from deployer.records.receipt_builder import BootedMachine
from signer.runtime.progress import ignore_progress
from signer.verification.signature_cache import SignatureCache
from stager.errors import EntryChanged
from stager.staging import required_items

TRIES: Final = 2
"""A content that was found damaged is dropped, and brought again once."""


class RestartAdmission:
    """Admits machines of one node again. Safe to use from several threads."""

    def __init__(self, context: DeploymentContext) -> None:
        self._images, self._stages, self._keeper = context.images, context.stager, context.keeper
        self._rules, self._records, self._withdrawn = context.rules, context.records, context.withdrawn
        self._owner, self._clock = context.owner, context.clock
        self._memory = SignatureCache()

    @contextmanager
    def __call__(self, record: MachineRecord, *, boots: bool) -> Iterator[None]:
        """Admit a machine, which counts as present while the block runs.

        Args:
            record: of the machine, put together already.
            boots: it starts anew from its disks or its saved memory; else it only goes on.

        Raises:
            Refused: by the policy, with the whole decision.
            PolicyUnusable, errors of the catalog: the decision cannot be made.
            StagerError: its contents are not here and cannot be brought.
        """
        manifest = self._images.manifest(record.image_id)
        if boots:
            self._bring(record, manifest)
        left = int((record.expires - self._clock()).total_seconds())
        user_data = cast("UserDataKind | None", record.user_data or None)
        request = Request.of(record, lifetime=max(1, left), user_data=user_data)
        pairs, withdrawn = self._images.endorsements(record.image_id), self._withdrawn()
        with self._keeper.admission:
            others = sum(other.uuid != record.uuid for other in self._keeper.present())
            case = EvaluationInput(manifest, pairs, request, others, node=self._owner, withdrawn=withdrawn)
            judged = evaluate(self._rules(), case, self._clock(), self._memory)
            self._records.decided(case, judged, "boot")
            if not judged.decision.accepted:
                raise judged.decision.refusal()
            entering = self._keeper.entering(record.uuid)
            entering.__enter__()
        try:
            if boots and record.spec is not None:
                BootFacts(manifest, judged.checks).write(self._keeper.store.directory(record.uuid))
                self._records.booting(BootedMachine.of(record.spec), case, judged, origin=_came_from(record))
            yield
        finally:
            entering.__exit__(None, None, None)

    def _bring(self, record: MachineRecord, manifest: Manifest) -> None:
        ttl = max(0.0, (record.expires - self._clock()).total_seconds()) + LEASE_MARGIN
        for left in reversed(range(TRIES)):
            self._stages.stage(manifest, record.holder, ttl, ignore_progress, extra=record.blanks)
            changed: EntryChanged | None = None
            for entry in required_items(manifest, record.blanks):
                try:
                    self._stages.cache.check(entry)
                except EntryChanged as exc:
                    changed = exc
            if changed is None:
                return
            if not left:
                raise changed


def _came_from(record: MachineRecord) -> PreviousReceipt | None:
    """What a receipt says of where a machine was before."""
    origin = record.origin
    return PreviousReceipt(node=origin.node, receipt=origin.receipt) if origin is not None and origin.receipt else None
