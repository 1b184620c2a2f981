"""Deploying a machine that a site wants at EC2: it runs, or is refused and leaves nothing behind.

As on a node (`deployer.node.machines.deployment`): the image is looked up by its ID, endorsements are verified and the policy
decides, contents are staged on the site's host, and both are checked again right before the machine starts. In between the
disks become snapshots and an AMI; whatever can be refused without reading a byte is refused before. Every step may be
repeated: a snapshot, an AMI and a machine each have a name that is looked up first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from catalog.client.trusted import TrustedCatalog
from catalog.image.manifest import Manifest
from catalog.image.reference import Reference
from deployer.ec2.account.bookkeeping import AmiEntry, MachineEntry
from deployer.ec2.account.open_account import OpenAccount
from deployer.ec2.aws.tags import RECEIPT_TAG
from deployer.ec2.images.image_upload import ImageUploader, MachineProgress
from deployer.ec2.model.accounts import Account
from deployer.ec2.model.boot_mapping import BootMapping, Volume, add_blanks, map_boot
from deployer.ec2.model.hibernation import add_memory_space, hibernation_obstacle
from deployer.ec2.model.instance_types import InstanceType, choose_type
from deployer.ec2.model.instances import Instance, machine_tags, run_request
from deployer.ec2.model.pricing import Charge, check_within, committed_cost
from deployer.ec2.pool.user_data import build_user_data
from deployer.ec2.snapshots.snapshots import Snapshot
from deployer.machine.shape import whole_units
from deployer.machine.user_data import check_user_data
from deployer.node.machines.exposure import BootFacts, exposure_reason
from deployer.policy.decision import Request
from deployer.policy.evaluation import Evaluation, EvaluationInput, effective_revocations, evaluate
from deployer.policy.revocations import RevocationState
from deployer.policy.store import RuleSet
from deployer.protocol.desired_state import DesiredMachine
from deployer.records.receipt import CloudPlacement, CloudVolume
from deployer.records.receipt_builder import BootedDisk, BootedMachine
from deployer.records.recorder import Recorder, RunningMachine
from signer.verification.signature_cache import SignatureCache

MOST_MACHINES = 65536
"""The highest limit of machines that a policy may set."""

DecisionStage = Literal["request", "boot"]


@dataclass(frozen=True)
class _Job:
    machine: DesiredMachine
    manifest: Manifest
    pairs: Sequence[tuple[bytes, bytes]]
    found: BootMapping
    volumes: tuple[Volume, ...]
    user_data: bytes
    type: InstanceType
    request: Request
    hibernates: bool = False

    @property
    def gib(self) -> int:
        return sum(volume.size for volume in self.volumes)


class Ec2Deployer:
    """Makes the machines of one account. Safe to use from several threads: machines are made side by side.

    Args:
        account: whose machines, opened.
        images: the catalog, where images are looked up.
        imaging: uploads images to EC2.
        records: the records of decisions and machines; None for decisions that are only tried out (`accepted`).
        rules: the site's policy in force, as it is at each call; raises PolicyUnusable.
        withdrawn: the revocations and blocks until now.
        clock: the present, UTC.
    """

    def __init__(
        self,
        account: OpenAccount,
        images: TrustedCatalog,
        imaging: ImageUploader,
        records: Recorder | None,
        rules: Callable[[], RuleSet],
        withdrawn: Callable[[], RevocationState],
        clock: Callable[[], datetime],
    ) -> None:
        self.account, self._machines, self._books = account.account, account.machines, account.books
        self._directory = account.directory
        self._images, self._imaging, self._records = images, imaging, records
        self._rules, self._withdrawn, self._clock = rules, withdrawn, clock
        self._memory = SignatureCache()
        self._types: tuple[InstanceType, ...] = ()

    def make(self, machine: DesiredMachine, running: int, progress: MachineProgress) -> Instance:
        """Make a machine, or return the one that was made before.

        Args:
            machine: as it should be.
            running: machines that the pool has already, for the policy.
            progress: updated with each step.

        Raises:
            Refused, CannotBoot, OverBudget, UserDataRefused: final; nothing was uploaded.
            Cancelled: the machine is no longer wanted.
            Errors of catalog, signer, stager and AWS: another attempt may succeed.
        """
        before = self._books.machine(machine.uuid)
        if before is not None and before.ami and (begun := self._machines.begun(machine.uuid)) is not None:
            self._books.update_machine(
                machine.uuid, instance=begun.instance
            )  # the site ended between asking and writing down
            return begun
        progress.at("looking up the image")
        job = self._look_up(machine)
        case, judged = self._judge(job, running, "request")
        self._book(job)
        try:
            entry, snapshots = self._imaging.image(
                job.manifest, job.found, progress, full=machine.verify == "full", drivers=self.account.drivers
            )
            progress.at("evaluating the policy again")
            case, judged = self._judge(job, running, "boot")
            tags = machine_tags(
                self._machines.owner,
                machine,
                job.manifest.title,
                self._recorder.booting(_spec(job), case, judged, self._cloud(job, entry, snapshots)),
            )
            request = run_request(
                self.account,
                machine,
                ami=entry.ami,
                instance_type=job.type.name,
                more=job.volumes[len(job.found.volumes) :],
                user_data=job.user_data,
                tags=tags,
                hibernating=job.volumes[0] if job.hibernates else None,
            )
            progress.at("starting the machine")
            BootFacts(job.manifest, judged.checks).write(self._facts(machine.uuid))
            self._books.update_machine(machine.uuid, ami=entry.ami, receipt=tags[RECEIPT_TAG], began=self._now())
            instance = self._machines.run(request)
            if instance.tags.get(RECEIPT_TAG) not in {
                None,
                tags[RECEIPT_TAG],
            }:  # one that was begun before, and not listed yet
                self._machines.tag(instance.instance, {RECEIPT_TAG: tags[RECEIPT_TAG]})
        except Exception:
            self._unbook(machine)
            raise
        self._books.update_machine(machine.uuid, instance=instance.instance)
        return instance

    def follow(self, account: Account) -> None:
        """Use changed settings of the account for machines that start from now on. From any thread."""
        if account.instance_types != self.account.instance_types:
            self._types = ()
        self.account = account

    def readmit(self, machine: DesiredMachine, running: int) -> None:
        """Check that a resting machine may run again, as if it were new; Refused by the policy."""
        self._judge(self._look_up(machine), running, "boot")

    def exposed(self, machines: Sequence[RunningMachine]) -> dict[str, str]:
        """Why running machines should not go on, by UUID: their images were revoked or blocked since they started.

        Errors of the catalog, PolicyUnusable, SignerError: unknown at present.
        """
        rules, withdrawn, now = self._rules(), self._withdrawn(), self._clock()
        held = effective_revocations(rules.policy, withdrawn, now, self._memory)
        found: dict[str, str] = {}
        for machine in machines:
            facts, entry = BootFacts.read(self._facts(machine.uuid)), self._books.machine(machine.uuid)
            if facts is not None and entry is not None:
                found[machine.uuid] = exposure_reason(rules.policy, facts, entry.began, held, withdrawn.blocks)
        return {uuid: reason for uuid, reason in found.items() if reason}

    def act_on(self, machine: RunningMachine, reason: str) -> str:
        """The policy's action for a machine that runs a revoked image; recorded here, before it is carried out."""
        action = self._rules().policy.revocations.running
        self._recorder.exposed(machine, reason, action)
        return action

    def type_for(self, machine: DesiredMachine) -> InstanceType:
        """The instance type that a machine of that size gets now; CannotBoot if no type fits."""
        found = map_boot(self._images.manifest(machine.image_id))
        return self.choose(machine.cores, machine.memory, found)

    def accepted(self, reference: Reference) -> Manifest:
        """The manifest of an image that the policy accepts, for one machine of the least size; Refused otherwise."""
        image_id = self._images.resolve(reference)
        manifest = self._images.manifest(image_id)
        request = Request.supposed(manifest.needs, memory=whole_units(manifest.needs.memory), lifetime=1)
        self._decide(EvaluationInput(manifest, self._images.endorsements(image_id), request), "request")
        return manifest

    def _look_up(self, machine: DesiredMachine) -> _Job:
        manifest = self._images.manifest(machine.image_id)
        found = map_boot(manifest)
        volumes = add_blanks(found, machine.blanks)
        given = machine.user_data_bytes()
        left = int((machine.expires - self._clock()).total_seconds())
        kind_of_data = check_user_data(given) if given else None
        request = Request.of(machine, lifetime=max(1, left), user_data=kind_of_data)
        data = build_user_data(machine, volumes) if manifest.contextualization == "nocloud" else b""
        pairs = self._images.endorsements(machine.image_id)
        kind = self.choose(machine.cores, machine.memory, found)
        largest = self.choose(machine.max_cores, machine.max_memory, found)
        hibernates = not hibernation_obstacle(self.account, kind, found)
        if hibernates:
            volumes = add_memory_space(volumes, max(kind.memory, largest.memory))
        return _Job(machine, manifest, pairs, found, volumes, data, kind, request, hibernates)

    def choose(self, cores: int, memory: int, found: BootMapping) -> InstanceType:
        """The cheapest allowed type for an image with that many cores and bytes of memory; CannotBoot if no type fits."""
        account = self.account
        types = self._types or self._machines.types(account.instance_types)
        self._types = types if account.instance_types == self.account.instance_types else ()
        return choose_type(types, account.prices, cores, memory, found.architecture, found.boot_mode)

    def _judge(self, job: _Job, running: int, stage: DecisionStage) -> tuple[EvaluationInput, Evaluation]:
        return self._decide(EvaluationInput(job.manifest, job.pairs, job.request, running), stage)

    def _decide(self, case: EvaluationInput, stage: DecisionStage) -> tuple[EvaluationInput, Evaluation]:
        rules = self._rules()
        case = replace(case, node=self._machines.owner.pool, withdrawn=self._withdrawn())
        judged = evaluate(_for_a_pool(rules), case, self._clock(), self._memory)
        digest = rules.digest or rules.policy.digest
        judged = replace(judged, decision=judged.decision.model_copy(update={"policy": digest}))
        if self._records is not None:
            self._records.decided(case, judged, stage)
        if not judged.decision.accepted:
            raise judged.decision.refusal()
        return case, judged

    def _book(self, job: _Job) -> None:
        """Check the budget and book the machine, in one transaction. Admission has reserved the money, so this refuses only
        where the cap or the prices in the site's file have changed since."""
        machine, now, account = job.machine, self._now(), self.account
        with self._books.booking():
            others = [charge_of(entry) for entry in self._books.machines() if entry.machine != machine.uuid]
            mine = Charge(job.type.name, job.gib, now, max(now, machine.expires))
            prices = account.prices
            check_within(
                account.name,
                account.cap,
                committed_cost(prices, others, now),
                committed_cost(prices, [*others, mine], now),
            )
            if self._books.machine(machine.uuid) is None:
                self._books.put_machine(
                    MachineEntry(
                        machine=machine.uuid,
                        deployment=machine.deployment,
                        image_id=machine.image_id,
                        instance_type=job.type.name,
                        gib=job.gib,
                        began=now,
                        expires=max(now, machine.expires),
                    )
                )

    def _unbook(self, machine: DesiredMachine) -> None:
        """Remove the entry of a machine that was not started. Where RunInstances may have arrived, it stays booked."""
        entry = self._books.machine(machine.uuid)
        if entry is not None and not entry.ami:
            self._books.forget("machine", machine.uuid)

    def _cloud(self, job: _Job, entry: AmiEntry, snapshots: Mapping[str, Snapshot]) -> CloudPlacement:
        volumes = []
        for volume in job.volumes:
            cloud_volume = CloudVolume(device=volume.device, gib=volume.size)
            if begins := snapshots.get(volume.device):
                known = {"snapshot": begins.snapshot_id, "content": begins.content, "checksum": begins.checksum}
                cloud_volume = cloud_volume.model_copy(update=known)
            volumes.append(cloud_volume)
        return CloudPlacement(
            account=self.account.name,
            region=self.account.region,
            ami=entry.ami,
            instance_type=job.type.name,
            boot_mode=job.found.boot_mode,
            volumes=tuple(volumes),
        )

    def _facts(self, uuid: str) -> Path:
        """The directory that keeps the endorsements by which a machine was accepted."""
        directory = self._directory / "facts" / uuid
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory

    @property
    def _recorder(self) -> Recorder:
        assert self._records is not None  # noqa: S101 - machines are made only where records are kept
        return self._records

    def _now(self) -> datetime:
        return self._clock().replace(microsecond=0)


def charge_of(entry: MachineEntry) -> Charge:
    """The charge of a booked machine."""
    return Charge(entry.instance_type, entry.gib, entry.began, entry.expires)


def _for_a_pool(rules: RuleSet) -> RuleSet:
    """A policy's rules for a pool, which is not one node: its limit of machines counts only if it is 0.
    The account's capacity and its cap bound a pool."""
    limits = rules.policy.limits
    if not limits.machines:
        return rules
    changed = limits.model_copy(update={"machines": MOST_MACHINES})
    return replace(rules, policy=rules.policy.model_copy(update={"limits": changed}))


def _spec(job: _Job) -> BootedMachine:
    """The machine as its receipt describes it; the manifest's disks are named by their devices."""
    devices = [volume.device for volume in job.found.volumes[1 if job.found.boot_disk is not None else 0 :]]
    machine = job.machine
    return BootedMachine(machine.uuid, machine.hostname, machine.memory, machine.cores, tuple(map(BootedDisk, devices)))
