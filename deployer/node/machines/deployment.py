"""The use case: from an order to running machines, or to a refusal that leaves nothing behind.

1. The reference is resolved, and the manifest's bytes are checked against the image ID.
2. Endorsements are verified with the policy's own anchors, and the policy decides; every rule is reported.
3. Contents are staged under a lease that each machine holds.
4. Right before a machine boots: the decision is made again if the first is not fresh, with signatures verified again, and
   every cache entry is compared with what was verified when it was staged.
5. Disks and seed are put together in the machine's directory, and the hypervisor starts it.
Whatever fails or is cancelled on the way, all machines of the order are undone: directory, lease and domain.
"""

import threading
import time
import uuid as uuids
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from catalog.image.manifest import Manifest
from deployer.errors import Cancelled
from deployer.guest.context_agent import seed_extras
from deployer.guest.nocloud_seed import build_seed, instance_id, write_seed
from deployer.hypervisor.accelerator import Accelerator
from deployer.hypervisor.disks import assemble_disks
from deployer.machine.spec import hostname_base
from deployer.machine.state import MachineEvent, MachineState
from deployer.node.machines.construction import SEED, SiteAssignment, machine_spec, new_record
from deployer.node.machines.context import DeploymentContext
from deployer.node.machines.exposure import BootFacts
from deployer.node.machines.supervisor import LEASE_MARGIN
from deployer.node.schema.orders import DeploymentResult, DeploymentStep, StepName
from deployer.policy.decision import Decision, Request
from deployer.policy.evaluation import Evaluation, EvaluationInput, evaluate
from deployer.policy.resolution import resolve_order
from deployer.protocol.machine_order import MachineOrder, RequestDefaults, numbered
from deployer.records.machine_store import MachineRecord, holder_of
from deployer.records.receipt_builder import BootedMachine
from signer.errors import PartitaError
from signer.runtime.progress import Advance
from signer.verification.signature_cache import SignatureCache
from stager.staging import required_items
from stager.staging import total_size as total_of

FRESH = timedelta(seconds=5)
"""A decision younger than this is "right before boot"; an older one is made again."""

TELL_EVERY = 0.1
"""Seconds between two reports of staging: what an eye can follow."""


@dataclass(frozen=True)
class _Job:
    """An order that has been looked at: what is to run, for whom to judge it, and what each machine gets."""

    order: MachineOrder
    assigned: SiteAssignment | None
    manifest: Manifest
    image_id: str
    pairs: Sequence[tuple[bytes, bytes]]
    request: Request


class Deployer:
    """Deploys on one node. Safe to use from several threads: orders run side by side.

    Args:
        context: of the node.
        accelerator: what machines run on, for an architecture.
        defaults: for what an order leaves open.
        new_uuid: a fresh UUID's text.
    """

    def __init__(
        self,
        context: DeploymentContext,
        accelerator: Callable[[str], Accelerator],
        defaults: RequestDefaults,
        new_uuid: Callable[[], str] = lambda: str(uuids.uuid4()),
    ) -> None:
        self._images, self._stages, self._keeper = context.images, context.stager, context.keeper
        self._rules, self._records, self._withdrawn = context.rules, context.records, context.withdrawn
        self._owner, self._clock = context.owner, context.clock
        self._accelerator, self._defaults, self._new_uuid = accelerator, defaults, new_uuid
        self._memory = SignatureCache()

    def dry_run(self, order: MachineOrder) -> Decision:
        """What the policy would say to an order now. Nothing is staged, nothing is kept."""
        job = self._look_up(order, None)
        return self._judge(job, len(self._keeper.present()))[1].decision

    def deploy(
        self,
        order: MachineOrder,
        tell: Callable[[DeploymentStep], None],
        cancelled: threading.Event,
        assigned: SiteAssignment | None = None,
    ) -> DeploymentResult:
        """Carry out an order.

        Args:
            order: what is asked for.
            tell: gets each step as it is done.
            cancelled: set when the requester has gone away.
            assigned: what a site has settled about the one machine of the order.

        Raises:
            Refused: by the policy, with the whole decision.
            Cancelled: see above.
            Errors of catalog, signer, stager and deployer: what failed, after everything was undone.
        """
        began = time.monotonic()

        def report(step: StepName, **values: Any) -> None:
            tell(DeploymentStep(step=step, milliseconds=round((time.monotonic() - began) * 1000), **values))
            if cancelled.is_set():
                raise Cancelled("client disconnected; deployment rolled back")

        job = self._look_up(order, assigned)
        report("resolved", text=f"{job.manifest.title} is {job.image_id}")
        accelerator = self._accelerator(job.manifest.architecture)
        case, judged, records = self._admit(job, accelerator)
        made = list(records)
        try:
            report("decided", text=_verdict(judged.decision), decision=judged.decision.as_json())
            for index, record in enumerate(records):
                case, judged = self._make(job, record, (case, judged), report)
                made[index] = self._keeper.store.get(record.uuid)
        except BaseException:
            for record in records:
                with suppress(PartitaError):
                    self._keeper.undo(record.uuid)
            raise
        return DeploymentResult(
            image_id=job.image_id, title=job.manifest.title, machines=tuple(made), accelerator=accelerator
        )

    def _look_up(self, order: MachineOrder, assigned: SiteAssignment | None) -> _Job:
        """Steps 1: everything about the image, and the order in the policy's terms."""
        found = resolve_order(order, self._images, self._defaults)
        request = found.request
        if assigned is not None:
            left = int((assigned.expires - self._clock()).total_seconds())
            request = request.model_copy(update={"lifetime": left})
        return _Job(order, assigned, found.manifest, found.manifest.image_id, found.pairs, request)

    def _judge(self, job: _Job, running: int) -> tuple[EvaluationInput, Evaluation]:
        case = EvaluationInput(
            job.manifest, job.pairs, job.request, running, node=self._owner, withdrawn=self._withdrawn()
        )
        return case, evaluate(self._rules(), case, self._clock(), self._memory)

    def _admit(self, job: _Job, accelerator: Accelerator) -> tuple[EvaluationInput, Evaluation, list[MachineRecord]]:
        """Step 2. Decision and records in one: two orders at once never both take the last place."""
        with self._keeper.admission:
            case, judged = self._judge(job, len(self._keeper.present()))
            self._records.decided(case, judged, "request")
            decision = judged.decision
            if not decision.accepted:
                raise decision.refusal()
            now, assigned, hostname = self._keeper.now(), job.assigned, job.order.hostname
            records: list[MachineRecord] = []
            try:
                for number in range(1, job.request.count + 1):
                    uuid = assigned.uuid if assigned else self._new_uuid()
                    name = f"{hostname_base(job.manifest.name)}-{uuid[:8]}"
                    record = new_record(
                        job.request,
                        assigned,
                        now,
                        uuid=uuid,
                        name=name,
                        hostname=name if hostname is None else numbered(hostname, number, job.order.count),
                        image_id=job.image_id,
                        title=job.manifest.title,
                        state=MachineState.STAGING,
                        expires=assigned.expires if assigned else now + timedelta(seconds=job.request.lifetime),
                        user_data=job.request.user_data or "",
                        desired="running" if assigned else "",
                        virt=accelerator.virt,
                        policy=decision.policy,
                    )
                    self._keeper.begin(record)
                    records.append(record)
            except BaseException:
                for record in records:
                    self._keeper.undo(record.uuid)
                raise
        return case, judged, records

    def _make(
        self,
        job: _Job,
        record: MachineRecord,
        admitted: tuple[EvaluationInput, Evaluation],
        report: Callable[..., None],
    ) -> tuple[EvaluationInput, Evaluation]:
        """Steps 3 to 5 for one machine; returns the case and the decision that it was booted by."""
        keeper, manifest, name, blanks = self._keeper, job.manifest, record.name, record.blanks
        total = total_of(manifest, blanks)
        ttl = float(job.request.lifetime + LEASE_MARGIN)
        advance = _staging(report, name, total)
        staged = self._stages.stage(manifest, holder_of(record.uuid), ttl, advance, extra=blanks)
        moved, here = staged.from_network, staged.from_cache
        report("staged", machine=name, done=moved, total=total, text=f"{moved} bytes moved, {here} were here")
        keeper.happened(record.uuid, MachineEvent.STAGED, "", from_network=moved, from_cache=here)
        case, judged = self._again(job, *admitted)
        for entry in required_items(manifest, blanks):
            self._stages.cache.check(entry, full=job.order.verify == "full")
        report("verified", machine=name, text="endorsements, policy and contents verified right before boot")
        directory = keeper.store.directory(record.uuid)
        assembled = assemble_disks(manifest, staged, directory, blanks)
        self._write_seed(job, record, directory)
        spec = machine_spec(record, manifest, assembled, directory, self._owner)
        keeper.store.change(
            record.uuid, keeper.now(), spec=spec, written=assembled.written, policy=judged.decision.policy
        )
        report("assembled", machine=name, text=f"{assembled.written} bytes written; no image content was copied")
        BootFacts(manifest, judged.checks).write(directory)
        self._records.booting(BootedMachine.of(spec), case, judged)
        keeper.hypervisor.start(spec)
        # A site's machine ends when the site says, which may have been changed since the record was begun.
        expires = keeper.now() + timedelta(seconds=job.request.lifetime)
        keeper.started(record.uuid, keeper.store.get(record.uuid).expires if job.assigned else expires)
        report("running", machine=name, text=f"host name {record.hostname}")
        return case, judged

    def _again(self, job: _Job, case: EvaluationInput, judged: Evaluation) -> tuple[EvaluationInput, Evaluation]:
        """Step 4, first half: the present decision. This order's own machines are among those present already."""
        if timedelta(0) <= self._clock() - judged.decision.at < FRESH:
            return case, judged
        again, fresh = self._judge(job, max(0, len(self._keeper.present()) - job.request.count))
        self._records.decided(again, fresh, "boot")
        if not fresh.decision.accepted:
            raise fresh.decision.refusal()
        return again, fresh

    def _write_seed(self, job: _Job, record: MachineRecord, directory: Path) -> None:
        if job.manifest.contextualization == "none":
            return
        assigned = job.assigned
        extras, more = seed_extras(assigned.context, record.uuid, assigned.vendor_data) if assigned else ({}, None)
        seed = build_seed(
            instance_id(record.uuid),
            record.hostname,
            job.order.user_data_bytes(),
            public_keys=job.order.public_keys,
            vendor_data=more,
            extras=extras,
        )
        write_seed(directory / SEED, seed)


def _staging(report: Callable[..., None], machine: str, total: int) -> Advance:
    """Reports staging, not too often; safe to call from several threads."""
    lock = threading.Lock()
    done, told = 0, 0.0

    def advance(count: int) -> None:
        nonlocal done, told
        with lock:
            done += count
            now = time.monotonic()
            if now - told < TELL_EVERY:
                return
            told = now
            so_far = done
        report("staging", machine=machine, done=so_far, total=total)

    return advance


def _verdict(decision: Decision) -> str:
    passed = sum(rule.passed for rule in decision.rules)
    return f"the policy accepts {decision.title}: {passed} of {len(decision.rules)} rules passed"
