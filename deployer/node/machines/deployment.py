"""The use case: from an order to running machines, or to a refusal that leaves nothing behind.

1. The reference is resolved, and the manifest's bytes are checked against the image ID.
2. Endorsements are verified with the policy's own anchors, and the policy decides; every rule is reported.
3. Contents are staged under a lease that each machine holds.
4. Right before a machine boots: the decision is made again if the first is not fresh, with signatures verified again, and
   every cache entry is compared with what was verified when it was staged.
5. Disks and seed are put together in the machine's directory, and the hypervisor starts it.
Whatever fails or is cancelled on the way, all machines of the order are undone: directory, lease and domain.
"""

import re
import threading
import time
import uuid as uuids
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from catalog.errors import Misused
from catalog.image.manifest import Manifest
from catalog.image.reference import Reference
from deployer.errors import Cancelled
from deployer.guest.context_agent import seed_extras
from deployer.guest.nocloud_seed import build_seed, instance_id, write_seed
from deployer.hypervisor.accelerator import Accelerator
from deployer.hypervisor.disks import assemble_disks
from deployer.machine.spec import (
    MACHINE_TYPE,
    DomainTag,
    MachineEvent,
    MachineSpec,
    MachineState,
    Network,
    check_hostname,
)
from deployer.machine.user_data import UserDataKind, check_user_data
from deployer.node.machines.context import DeploymentContext
from deployer.node.machines.exposure import BootFacts
from deployer.node.machines.supervisor import LEASE_MARGIN
from deployer.node.schema.orders import DeploymentResult, DeploymentStep, MachineOrder
from deployer.policy.decision import Decision, Request
from deployer.policy.evaluation import Evaluation, EvaluationInput, evaluate
from deployer.protocol.defaults import RequestDefaults
from deployer.protocol.desired_state import BrokerAccess
from deployer.records.machine_store import CONSOLE_FILE, MachineRecord, holder_of
from deployer.units import parse_duration
from signer.errors import PartitaError
from signer.runtime.progress import Advance
from signer.verification.signature_cache import SignatureCache
from stager.staging import required_items
from stager.staging import total_size as total_of

FRESH = timedelta(seconds=5)
"""A decision younger than this is "right before boot"; an older one is made again."""

TELL_EVERY = 0.1
"""Seconds between two reports of staging: what an eye can follow."""

SEED_FILE = "seed.iso"


@dataclass(frozen=True)
class SiteAssignment:
    """What a site has settled about a machine that it wants made.

    Attributes:
        uuid: the machine's.
        site, deployment, role: whose it is and what it belongs to there.
        ends: when its time is over, whenever it begins.
        reboots: that were asked for before it was made.
        vendor_data: cloud-config or script that the site adds to the seed.
        context: how the guest reaches the site's context broker.
    """

    uuid: str
    site: str
    deployment: str
    ends: datetime
    role: str = ""
    reboots: int = 0
    vendor_data: bytes | None = None
    context: BrokerAccess | None = None


@dataclass(frozen=True)
class _Job:
    """An order that has been looked at: what is to run, for whom to judge it, and what each machine gets."""

    order: MachineOrder
    assigned: SiteAssignment | None
    manifest: Manifest
    image_id: str
    pairs: Sequence[tuple[bytes, bytes]]
    request: Request
    user_data: bytes | None
    memory: int
    cores: int


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
            cancelled: set when nobody waits for the machines any more.
            assigned: what a site has settled about the one machine of the order.

        Raises:
            Refused: by the policy, with the whole decision.
            Cancelled: see above.
            Errors of catalog, signer, stager and deployer: what failed, after everything was undone.
        """
        began = time.monotonic()

        def report(step: DeploymentStep) -> None:
            tell(step.model_copy(update={"milliseconds": round((time.monotonic() - began) * 1000)}))
            if cancelled.is_set():
                raise Cancelled("nobody waits for this deployment any more; it has been undone")

        job = self._look_up(order, assigned)
        report(DeploymentStep(step="resolved", text=f"{job.manifest.title} is {job.image_id}"))
        accelerator = self._accelerator(job.manifest.architecture)
        case, judged, records = self._admit(job, accelerator)
        made = list(records)
        try:
            report(DeploymentStep(step="decided", text=_verdict(judged.decision), decision=judged.decision.as_json()))
            for index, record in enumerate(records):
                case, judged = self._make(job, record, (case, judged), accelerator, report)
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
        user_data = order.user_data_bytes()
        kind: UserDataKind | None = check_user_data(user_data) if user_data else None
        try:
            network = Network.parse(order.network or self._defaults.network)
            if order.hostname is not None:
                check_hostname(order.hostname if order.count == 1 else f"{order.hostname}-{order.count}")
        except ValidationError as exc:
            raise Misused(f"{order.network!r} is no network; write none, user, network:NAME or bridge:NAME") from exc
        except ValueError as exc:
            raise Misused(str(exc)) from exc
        # What could not stand in a seed fails now, and not when everything is staged.
        build_seed(instance_id("order"), order.hostname or "order", user_data, public_keys=order.public_keys)
        image_id = self._images.resolve(Reference.parse(order.image))
        manifest = self._images.manifest(image_id)
        memory = order.memory or -(-manifest.needs.memory // (1 << 20)) * (1 << 20)
        cores = order.cores or manifest.needs.cores
        if (order.granted_memory or memory) < memory or (order.granted_cores or cores) < cores:
            raise Misused("a machine cannot begin with more memory or cores than it may grow to")
        lifetime = order.lifetime or parse_duration(self._defaults.lifetime)
        request = Request(
            count=order.count,
            memory=order.granted_memory or memory,
            cores=order.granted_cores or cores,
            lifetime=int((assigned.ends - self._clock()).total_seconds()) if assigned else lifetime,
            user_data=kind,
            network=network,
            blanks=order.blanks,
        )
        pairs = self._images.endorsements(image_id)
        return _Job(order, assigned, manifest, image_id, pairs, request, user_data, memory, cores)

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
            now, assigned = self._keeper.now(), job.assigned
            records: list[MachineRecord] = []
            try:
                for number in range(1, job.request.count + 1):
                    uuid = assigned.uuid if assigned else self._new_uuid()
                    name = f"{_plain(job.manifest.name)}-{uuid[:8]}"
                    record = MachineRecord(
                        uuid=uuid,
                        name=name,
                        hostname=_hostname(job.order, name, number),
                        image_id=job.image_id,
                        title=job.manifest.title,
                        state=MachineState.STAGING,
                        created=now,
                        changed=now,
                        ends=assigned.ends if assigned else now + timedelta(seconds=job.request.lifetime),
                        memory=job.memory,
                        cores=job.cores,
                        granted_memory=job.request.memory,
                        granted_cores=job.request.cores,
                        blanks=job.order.blanks,
                        user_data=job.request.user_data or "",
                        site=assigned.site if assigned else "",
                        deployment=assigned.deployment if assigned else "",
                        role=assigned.role if assigned else "",
                        reboots=assigned.reboots if assigned else 0,
                        wanted="running" if assigned else "",
                        network=str(job.request.network),
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
        accelerator: Accelerator,
        report: Callable[[DeploymentStep], None],
    ) -> tuple[EvaluationInput, Evaluation]:
        """Steps 3 to 5 for one machine; returns the case and the decision that it was booted by."""
        keeper, manifest, name, blanks = self._keeper, job.manifest, record.name, job.order.blanks
        total = total_of(manifest, blanks)
        ttl = float(job.request.lifetime + LEASE_MARGIN)
        advance = _staging(report, name, total)
        staged = self._stages.stage(manifest, holder_of(record.uuid), ttl, advance, extra=blanks)
        moved, here = staged.from_network, staged.from_cache
        report(
            DeploymentStep(
                step="staged", machine=name, done=moved, total=total, text=f"{moved} bytes moved, {here} were here"
            )
        )
        keeper.happened(record.uuid, MachineEvent.STAGED, "", from_network=moved, from_cache=here)
        case, judged = self._again(job, *admitted)
        for entry in required_items(manifest, blanks):
            self._stages.cache.check(entry, full=job.order.verify == "full")
        report(
            DeploymentStep(
                step="verified", machine=name, text="endorsements, policy and contents verified right before boot"
            )
        )
        directory = keeper.store.directory(record.uuid)
        assembled = assemble_disks(manifest, staged, directory, blanks)
        seed = self._write_seed(job, record, directory)
        spec = MachineSpec(
            uuid=record.uuid,
            name=name,
            memory=record.memory,
            cores=record.cores,
            granted_memory=record.most_memory,
            granted_cores=record.most_cores,
            virt=accelerator.virt,
            architecture=manifest.architecture,
            machine=MACHINE_TYPE[manifest.architecture],
            boot=assembled.boot,
            disks=assembled.disks,
            seed=seed,
            network=job.request.network,
            console=directory / CONSOLE_FILE,
            tag=DomainTag(owner=self._owner, image=job.image_id),
        )
        keeper.store.change(
            record.uuid, keeper.now(), spec=spec, written=assembled.written, policy=judged.decision.policy
        )
        report(
            DeploymentStep(
                step="assembled", machine=name, text=f"{assembled.written} bytes written, none of them content"
            )
        )
        BootFacts(manifest, judged.checks).write(directory)
        self._records.deploying(spec, case, judged)
        keeper.hypervisor.start(spec)
        # A site's machine ends when the site says, which may have been changed since the record was begun.
        ends = keeper.now() + timedelta(seconds=job.request.lifetime)
        keeper.started(record.uuid, keeper.store.get(record.uuid).ends if job.assigned else ends)
        report(DeploymentStep(step="running", machine=name, text=f"host name {record.hostname}"))
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

    def _write_seed(self, job: _Job, record: MachineRecord, directory: Path) -> Path | None:
        if job.manifest.contextualization == "none":
            return None
        assigned = job.assigned
        extras, more = seed_extras(assigned.context, record.uuid, assigned.vendor_data) if assigned else ({}, None)
        seed = build_seed(
            instance_id(record.uuid),
            record.hostname,
            job.user_data,
            public_keys=job.order.public_keys,
            vendor_data=more,
            extras=extras,
        )
        write_seed(directory / SEED_FILE, seed)
        return directory / SEED_FILE


def _staging(report: Callable[[DeploymentStep], None], machine: str, total: int) -> Advance:
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
        report(DeploymentStep(step="staging", machine=machine, done=so_far, total=total))

    return advance


def _plain(name: str) -> str:
    """An image's name as the beginning of a host name: at most 40 letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name)[:40].strip("-") or "machine"


def _hostname(order: MachineOrder, name: str, number: int) -> str:
    if order.hostname is None:
        return name
    return order.hostname if order.count == 1 else f"{order.hostname}-{number}"


def _verdict(decision: Decision) -> str:
    passed = sum(rule.passed for rule in decision.rules)
    return f"the policy accepts {decision.title}: {passed} of {len(decision.rules)} rules passed"
