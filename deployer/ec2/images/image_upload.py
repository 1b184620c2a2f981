"""Bringing an image to EC2: staged on the site's host, uploaded as snapshots, registered as an AMI; what is there is used.

Contents are staged only if a snapshot is missing. After they were read they are compared once more with what was verified
when they were staged: what is registered is what was verified.
"""

import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from catalog.image.manifest import Manifest
from deployer.ec2.account.bookkeeping import AmiEntry
from deployer.ec2.account.open_account import OpenAccount
from deployer.ec2.aws.tags import CATALOG_TAG, IMAGE_TAG, PARENT_TAG
from deployer.ec2.errors import Ec2RecordsUnusable
from deployer.ec2.images.boot_disk import build_head, open_boot_disk
from deployer.ec2.images.driver_check import DriverVerdict, check_drivers
from deployer.ec2.images.upload_cache import UploadCache
from deployer.ec2.model.boot_mapping import BootMapping
from deployer.ec2.model.instances import MAX_TAG
from deployer.ec2.snapshots.disk_reader import open_disk
from deployer.ec2.snapshots.snapshots import Snapshot
from deployer.errors import Cancelled, CannotBoot
from signer.runtime import files
from stager.staging import StagedImage, Stager, required_items, total_size

log = logging.getLogger("partita.ec2")

LEASE: Final = 86400.0
"""Seconds that contents are kept in the cache while they are uploaded; renewed with each attempt."""

LOOK_EVERY: Final = 0.5
"""Seconds between two looks whether another process is done with an image."""

HOLDER: Final = "ec2:"
"""Who holds the leases of an image while it is uploaded: this, and its ID."""


@dataclass
class MachineProgress:
    """How far a machine is that is being made: for whoever looks, from any thread.

    Attributes:
        fetched, total: bytes of its contents that are here, and in all.
        from_network, from_cache: as when it was staged.
        sent: blocks that were uploaded for it.
        drivers: whether the image has those that EC2 needs, if it was looked into now.
        note: what is being done, in some words.
    """

    fetched: int = 0
    total: int = 0
    from_network: int = 0
    from_cache: int = 0
    sent: int = 0
    drivers: DriverVerdict | None = None
    note: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def at(self, note: str) -> None:
        """The next step; Cancelled if nobody wants the machine any more."""
        self.note = note
        if self.cancelled.is_set():
            raise Cancelled("cancelled; rolled back")


class ImageUploader:
    """Brings images to one account. Safe to use from several threads: of two that want the same image one waits.

    Args:
        account: opened.
        stages: brings contents to the site's host, and keeps them.
    """

    def __init__(self, account: OpenAccount, stages: Stager | UploadCache) -> None:
        self._account, self._stages = account, stages
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._locking = threading.Lock()

    def image(
        self,
        manifest: Manifest,
        found: BootMapping,
        progress: MachineProgress,
        *,
        full: bool = False,
        drivers: bool = True,
    ) -> tuple[AmiEntry, Mapping[str, Snapshot]]:
        """The AMI of an image and its snapshots by device: those that there are, or made now.

        Args:
            manifest, found: the image, and how EC2 boots it.
            progress: told of what is being done.
            full: compare every byte, not a sample.
            drivers: refuse one that surely has not the drivers that EC2 needs; CannotBoot.
        """
        with self._one_at_a_time(manifest.image_id), self._one_process(manifest.image_id, progress):
            snapshots = self._present(manifest)
            if snapshots is None:
                snapshots = self._upload(manifest, found, progress, full=full, drivers=drivers)
            progress.at("the image is registered")
            contents = {device: snapshot.content for device, snapshot in snapshots.items()}
            ids = {device: snapshot.snapshot_id for device, snapshot in snapshots.items()}
            return self._account.registrar.register(manifest, found, contents, ids), snapshots

    def _present(self, manifest: Manifest) -> dict[str, Snapshot] | None:
        """The snapshots of an image that was registered before, if all of them are still there and right."""
        for entry in self._account.books.images():
            if entry.image_id == manifest.image_id:
                present = {device: self._account.snapshots.present(key) for device, key in entry.contents.items()}
                found = {device: snapshot for device, snapshot in present.items() if snapshot is not None}
                if len(found) == len(present):
                    return found
        return None

    def _upload(
        self, manifest: Manifest, found: BootMapping, progress: MachineProgress, *, full: bool, drivers: bool
    ) -> dict[str, Snapshot]:
        progress.at("contents are staged")
        head = build_head(found.boot_disk) if found.boot_disk is not None else b""
        holder = HOLDER + manifest.image_id
        progress.total = total_size(manifest)

        def advance(count: int) -> None:
            progress.fetched += count

        staged = self._stages.stage(manifest, holder, LEASE, advance)
        progress.fetched = progress.total
        progress.from_network, progress.from_cache = staged.from_network, staged.from_cache
        try:
            self._look_for_drivers(manifest, staged, progress, demanded=drivers)
        except BaseException:
            self._stages.cache.release(holder)
            raise
        tags = self._account.owner.tags | {CATALOG_TAG: manifest.title[:MAX_TAG], IMAGE_TAG: manifest.image_id}
        made: dict[str, Snapshot] = {}
        try:
            for volume in found.snapshots:
                progress.at(f"{volume.device} becomes a snapshot")
                with ExitStack() as opening:
                    if volume.disk is None:
                        assert found.boot_disk is not None  # noqa: S101 - only the boot disk is none of the manifest's
                        disk = opening.enter_context(open_boot_disk(found.boot_disk, head, staged))
                    else:
                        disk = opening.enter_context(open_disk(manifest.disks[volume.disk], staged))
                    # Of one disk of the image: what another disk had would have to be overwritten with zeros.
                    family = f"{manifest.vo}/{manifest.name}/{'boot' if volume.disk is None else volume.disk}"
                    made[volume.device] = self._account.snapshots.ensure(
                        disk, family=family, tags=tags, description=manifest.title
                    )
                progress.sent += made[volume.device].sent
                if parent := made[volume.device].parent:  # so that nobody removes what this builds on
                    self._account.machines.tag(made[volume.device].snapshot_id, {PARENT_TAG: parent})
            for wanted in required_items(manifest):
                self._stages.cache.check(wanted, full=full)
        finally:
            self._stages.cache.release(holder)
        return made

    def _look_for_drivers(
        self, manifest: Manifest, staged: StagedImage, progress: MachineProgress, *, demanded: bool
    ) -> None:
        """Before anything is uploaded: CannotBoot if the image surely has not the drivers that EC2's machines need."""
        progress.at("its drivers are looked for")
        progress.drivers = check_drivers(manifest, staged)
        if progress.drivers.answer == "no" and demanded:
            raise CannotBoot(
                f"{manifest.title} does not run on EC2's machines: {progress.drivers.reason}; build it with them, or, if the "
                "account's types need others, say so with `drivers = false` in the account"
            )
        if progress.drivers.answer != "yes":
            log.warning("%s: whether it has the drivers for EC2: %s", manifest.title, progress.drivers)

    def _one_at_a_time(self, image_id: str) -> threading.Lock:
        """Of one image: the second machine finds what the first has uploaded."""
        with self._locking:
            return self._locks[image_id]

    @contextmanager
    def _one_process(self, image_id: str, progress: MachineProgress) -> Iterator[None]:
        """Of one image, too: `partita ec2 upload` works beside the site's service. The lock ends with its process."""
        path = self._account.directory / "images" / f"{image_id.removeprefix('sha256:')}.lock"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                try:
                    held = files.lock(path)
                    break
                except files.LockHeld:
                    progress.at("another process brings the image")
                    progress.cancelled.wait(LOOK_EVERY)
        except OSError as exc:
            raise Ec2RecordsUnusable(f"{path}: the lock of an image cannot be taken: {exc.strerror}") from exc
        try:
            yield
        finally:
            os.close(held)
