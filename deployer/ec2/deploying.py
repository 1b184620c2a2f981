"""The use case: from a machine that a site wants to one that runs at EC2, or to a refusal that leaves nothing behind.

As on a node (`deployer.deploying`): the image is looked up by its ID, endorsements are verified and the policy decides,
contents are staged on the site's host, and right before the machine begins both are looked at again. In between the disks
become snapshots and an AMI; what can be refused without reading a byte is refused before. Every step may be done again:
a snapshot, an AMI and a machine each have a name that is asked for first.
"""

import base64
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol

from catalog.manifest import Blank, Manifest
from deployer.decision import Request
from deployer.deploying import Entries, Images
from deployer.ec2.accounts import Account
from deployer.ec2.backend import Ec2Machines
from deployer.ec2.books import Books, ImageEntry, MachineEntry
from deployer.ec2.bootability import Bootable, Volume, bootable, with_blanks
from deployer.ec2.bootdisk import make_head, opened_boot
from deployer.ec2.guest_data import guest_data
from deployer.ec2.images import Registrar
from deployer.ec2.instance_types import InstanceType, choose
from deployer.ec2.instances import Instance, machine_tags, run_request
from deployer.ec2.preparing import opened
from deployer.ec2.pricing import Spend, check_cap, committed, estimate
from deployer.ec2.snapshots import Snapshot, Snapshots
from deployer.ec2.tags import CATALOG, IMAGE, PARENT, RECEIPT
from deployer.errors import Cancelled
from deployer.judging import Case, Judged, judge
from deployer.machine import Network
from deployer.policy_store import RuleSet
from deployer.receipts import Booted, Cloud, CloudVolume
from deployer.site.desired import DesiredMachine
from deployer.userdata import check_user_data
from deployer.withdrawals import Withdrawn
from signer.memory import Memory
from signer.progress import Advance
from stager.staging import Staged, total, wanted_of

LEASE: Final = 86400.0
"""Seconds that contents are kept in the cache while they are uploaded; renewed with each attempt."""

HOLDER: Final = "ec2:"
"""Who holds the leases of an image while it is uploaded: this, and its ID."""

Stage = Literal["request", "boot"]


class Stages(Protocol):
    """What brings contents to the site's host; `stager.staging.Stager` is one."""

    def stage(
        self, manifest: Manifest, holder: str, ttl: float, advance: Advance, *, extra: Sequence[Blank] = ()
    ) -> Staged:
        """Make all parts of an image present, leased to the holder for `ttl` seconds."""


class Cache(Entries, Protocol):
    """The host's cache; `stager.cache.Cache` is one."""

    def release(self, holder: str) -> object:
        """End all leases of a holder."""


class Records(Protocol):
    """Where decisions and machines are put on record; `deployer.recording.Recorder` is one."""

    def decided(self, case: Case, judged: Judged, stage: Stage) -> None:
        """A request was decided."""

    def booting(self, spec: Booted, case: Case, judged: Judged, cloud: Cloud | None = None) -> str:
        """A machine is about to begin; returns the SHA-256 of its receipt."""


@dataclass
class Progress:
    """How far a machine is that is being made: for whoever looks, from any thread.

    Attributes:
        fetched, total: bytes of its contents that are here, and in all.
        from_network, from_cache: as when it was staged.
        sent: blocks that were uploaded for it.
        note: what is being done, in some words.
    """

    fetched: int = 0
    total: int = 0
    from_network: int = 0
    from_cache: int = 0
    sent: int = 0
    note: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def at(self, note: str) -> None:
        """The next step; Cancelled if nobody wants the machine any more."""
        self.note = note
        if self.cancelled.is_set():
            raise Cancelled("nobody wants this machine any more; what was begun of it is undone")


@dataclass(frozen=True)
class _Disk:
    """A disk of a receipt: EC2 gives every machine volumes of its own, and the guest may write to all of them."""

    target: str
    read_only: bool = False


@dataclass(frozen=True)
class _Spec:
    uuid: str
    name: str
    memory: int
    cores: int
    disks: tuple[_Disk, ...]


@dataclass(frozen=True)
class _Job:
    machine: DesiredMachine
    manifest: Manifest
    pairs: Sequence[tuple[bytes, bytes]]
    found: Bootable
    volumes: tuple[Volume, ...]
    user_data: bytes
    type: InstanceType
    request: Request

    @property
    def gib(self) -> int:
        return sum(volume.size for volume in self.volumes)


class Ec2Deployer:
    """Makes the machines of one account. Safe to use from several threads: machines are made side by side.

    Args:
        account: whose machines.
        images, stages, cache, records: the ports.
        rules: the site's policy in force, as it is at each call; raises PolicyUnusable.
        withdrawn: what has been revoked or blocked until now.
        snapshots, registrar, machines, books: of the account.
        clock: the present, UTC.
    """

    def __init__(
        self,
        account: Account,
        images: Images,
        stages: Stages,
        cache: Cache,
        records: Records,
        rules: Callable[[], RuleSet],
        withdrawn: Callable[[], Withdrawn],
        snapshots: Snapshots,
        registrar: Registrar,
        machines: Ec2Machines,
        books: Books,
        clock: Callable[[], datetime],
    ) -> None:
        self.account = account
        self._images, self._stages, self._cache, self._records = images, stages, cache, records
        self._rules, self._withdrawn = rules, withdrawn
        self._snapshots, self._registrar, self._machines, self._books = snapshots, registrar, machines, books
        self._clock = clock
        self._memory = Memory()
        self._types: tuple[InstanceType, ...] = ()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._locking = threading.Lock()

    def make(self, machine: DesiredMachine, running: int, progress: Progress) -> Instance:
        """Make a machine, or find it made.

        Args:
            machine: as it should be.
            running: machines that the pool has already, for the policy.
            progress: told of what is being done.

        Raises:
            Refused, CannotBoot, OverBudget, UserDataRefused: it will not be, whatever is tried; nothing was uploaded.
            Cancelled: nobody wants it any more.
            Errors of catalog, signer, stager and AWS: it may be tried again.
        """
        before = self._books.machine(machine.uuid)
        if before is not None and before.ami and (begun := self._machines.begun(machine.uuid)) is not None:
            self._note(machine, instance=begun.instance)  # the site ended between asking and writing down
            return begun
        progress.at("the image is looked up")
        job = self._look_up(machine)
        case, judged = self._judge(job, running, "request")
        self._book(job)
        try:
            with self._one_at_a_time(machine.image_id):
                entry, snapshots = self.image(job.manifest, job.found, progress, full=machine.verify == "full")
            progress.at("the policy is asked once more")
            case, judged = self._judge(job, running, "boot")
            tags = machine_tags(
                self._machines.owner,
                machine,
                job.manifest.title,
                self._records.booting(_spec(job), case, judged, self._cloud(job, entry, snapshots)),
            )
            request = run_request(
                self.account,
                machine,
                ami=entry.ami,
                instance_type=job.type.name,
                more=job.volumes[len(job.found.volumes) :],
                user_data=job.user_data,
                tags=tags,
            )
            progress.at("the machine is begun")
            self._note(machine, ami=entry.ami, receipt=tags[RECEIPT], began=self._now())
            instance = self._machines.run(request)
            if instance.tags.get(RECEIPT) not in {None, tags[RECEIPT]}:  # one that was begun before, and not listed yet
                self._machines.tag(instance.instance, {RECEIPT: tags[RECEIPT]})
        except Exception:
            self._unbook(machine)
            raise
        self._note(machine, instance=instance.instance)
        return instance

    def readmit(self, machine: DesiredMachine, running: int) -> None:
        """Whether one that was at rest may run again, decided as if it were new; Refused by the policy."""
        self._judge(self._look_up(machine), running, "boot")

    def type_for(self, machine: DesiredMachine) -> InstanceType:
        """The type that a machine of that size gets now; CannotBoot if there is none."""
        found = bootable(self._images.manifest(machine.image_id))
        return self._choose(machine, found)

    def image(
        self, manifest: Manifest, found: Bootable, progress: Progress, *, full: bool = False
    ) -> tuple[ImageEntry, Mapping[str, Snapshot]]:
        """The AMI of an image and its snapshots by device: those that there are, or made now.

        Contents are staged only if a snapshot is missing. After they were read they are compared once more with what
        was verified when they were staged: what is registered is what was verified.

        Args:
            manifest, found: the image, and how EC2 boots it.
            progress: told of what is being done.
            full: compare every byte, not a sample.
        """
        snapshots = self._present(manifest)
        if snapshots is None:
            snapshots = self._upload(manifest, found, progress, full=full)
        progress.at("the image is registered")
        contents = {device: snapshot.content for device, snapshot in snapshots.items()}
        ids = {device: snapshot.snapshot_id for device, snapshot in snapshots.items()}
        return self._registrar.register(manifest, found, contents, ids), snapshots

    def _present(self, manifest: Manifest) -> dict[str, Snapshot] | None:
        """The snapshots of an image that was registered before, if all of them are still there and right."""
        for entry in self._books.images():
            if entry.image_id == manifest.image_id:
                present = {device: self._snapshots.present(key) for device, key in entry.contents.items()}
                found = {device: snapshot for device, snapshot in present.items() if snapshot is not None}
                if len(found) == len(present):
                    return found
        return None

    def _upload(self, manifest: Manifest, found: Bootable, progress: Progress, *, full: bool) -> dict[str, Snapshot]:
        progress.at("contents are staged")
        head = make_head(found.boot_disk) if found.boot_disk is not None else b""
        holder = HOLDER + manifest.image_id
        progress.total = total(manifest)

        def advance(count: int) -> None:
            progress.fetched += count

        staged = self._stages.stage(manifest, holder, LEASE, advance)
        progress.fetched = progress.total
        progress.from_network, progress.from_cache = staged.from_network, staged.from_cache
        tags = self._machines.owner.tags | {CATALOG: manifest.title[:256], IMAGE: manifest.image_id}
        made: dict[str, Snapshot] = {}
        try:
            for volume in found.snapshots:
                progress.at(f"{volume.device} becomes a snapshot")
                with ExitStack() as opening:
                    if volume.disk is None:
                        assert found.boot_disk is not None  # noqa: S101 - only the boot disk is none of the manifest's
                        disk = opening.enter_context(opened_boot(found.boot_disk, head, staged))
                    else:
                        disk = opening.enter_context(opened(manifest.disks[volume.disk], staged))
                    made[volume.device] = self._snapshots.ensure(
                        disk, family=f"{manifest.vo}/{manifest.name}", tags=tags, description=manifest.title
                    )
                progress.sent += made[volume.device].sent
                if parent := made[volume.device].parent:  # so that nobody removes what this builds on
                    self._machines.tag(made[volume.device].snapshot_id, {PARENT: parent})
            for wanted in wanted_of(manifest):
                self._cache.check(wanted, full=full)
        finally:
            self._cache.release(holder)
        return made

    def _look_up(self, machine: DesiredMachine) -> _Job:
        manifest = self._images.manifest(machine.image_id)
        found = bootable(manifest)
        volumes = with_blanks(found, machine.blanks)
        given = base64.b64decode(machine.user_data) if machine.user_data else b""
        left = int((machine.ends - self._clock()).total_seconds())
        request = Request(
            count=1,
            memory=machine.granted_memory,
            cores=machine.granted_cores,
            lifetime=max(1, left),
            user_data=check_user_data(given) if given else None,
            network=Network.parse(machine.network),
            blanks=machine.blanks,
        )
        data = guest_data(machine, volumes) if manifest.contextualization == "nocloud" else b""
        pairs = self._images.endorsements(machine.image_id)
        return _Job(machine, manifest, pairs, found, volumes, data, self._choose(machine, found), request)

    def _choose(self, machine: DesiredMachine, found: Bootable) -> InstanceType:
        if not self._types:
            self._types = self._machines.types(self.account.instance_types)
        prices = self.account.prices
        return choose(self._types, prices, machine.cores, machine.memory, found.architecture, found.boot_mode)

    def _judge(self, job: _Job, running: int, stage: Stage) -> tuple[Case, Judged]:
        owner = self._machines.owner.pool
        case = Case(job.manifest, job.pairs, job.request, running, node=owner, withdrawn=self._withdrawn())
        judged = judge(self._rules(), case, self._clock(), self._memory)
        self._records.decided(case, judged, stage)
        if not judged.decision.accepted:
            raise judged.decision.refusal()
        return case, judged

    def _book(self, job: _Job) -> None:
        """Look whether there is money left, and take it, in one."""
        machine, now = job.machine, self._now()
        with self._books.booking():
            others = [entry for entry in self._books.machines() if entry.machine != machine.uuid]
            spent = committed(self.account.prices, map(spend_of, others), now)
            left = int((machine.ends - now) / timedelta(seconds=1))
            more = estimate(self.account.prices, job.type.name, job.gib, max(1, left), 1)
            check_cap(self.account.name, self.account.cap, spent, more)
            if self._books.machine(machine.uuid) is None:
                self._books.put_machine(
                    MachineEntry(
                        machine=machine.uuid,
                        deployment=machine.deployment,
                        image_id=machine.image_id,
                        instance_type=job.type.name,
                        gib=job.gib,
                        began=now,
                        until=max(now, machine.ends),
                    )
                )

    def _unbook(self, machine: DesiredMachine) -> None:
        """Give the money back where nothing was begun. Where RunInstances may have arrived, it stays booked."""
        entry = self._books.machine(machine.uuid)
        if entry is not None and not entry.ami:
            self._books.forget("machine", machine.uuid)

    def _note(self, machine: DesiredMachine, **values: object) -> None:
        with self._books.booking():
            entry = self._books.machine(machine.uuid)
            if entry is not None:
                self._books.put_machine(entry.model_copy(update=values))

    def _cloud(self, job: _Job, entry: ImageEntry, snapshots: Mapping[str, Snapshot]) -> Cloud:
        volumes = []
        for volume in job.volumes:
            begins = snapshots.get(volume.device)
            volumes.append(
                CloudVolume(
                    device=volume.device,
                    gib=volume.size,
                    snapshot=begins.snapshot_id if begins else None,
                    content=begins.content if begins else None,
                    checksum=begins.checksum if begins else None,
                )
            )
        return Cloud(
            account=self.account.name,
            region=self.account.region,
            ami=entry.ami,
            instance_type=job.type.name,
            boot_mode=job.found.boot_mode,
            volumes=tuple(volumes),
        )

    def _now(self) -> datetime:
        return self._clock().replace(microsecond=0)

    def _one_at_a_time(self, image_id: str) -> threading.Lock:
        """Of one image: the second machine finds what the first has uploaded."""
        with self._locking:
            return self._locks[image_id]


def spend_of(entry: MachineEntry) -> Spend:
    """What a machine in the books costs."""
    return Spend(entry.instance_type, entry.gib, entry.began, entry.until)


def _spec(job: _Job) -> _Spec:
    """The manifest's disks as a receipt names them: by their devices."""
    devices = [volume.device for volume in job.found.volumes[1 if job.found.boot_disk is not None else 0 :]]
    machine = job.machine
    return _Spec(machine.uuid, machine.hostname, machine.memory, machine.cores, tuple(map(_Disk, devices)))
