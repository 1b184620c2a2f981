"""Uploading an image to EC2: staged on the site's host, uploaded as snapshots, registered as an AMI; existing ones are reused.

Contents are staged only if a snapshot is missing. After the upload they are checked once more against their addresses, so
that the registered bytes are the verified ones.
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
"""Seconds between two checks whether another process is done with an image."""

HOLDER: Final = "ec2:"
"""The prefix, before the image's ID, of the holder of its leases during the upload."""


@dataclass
class MachineProgress:
    """The progress of a machine that is being made; read from any thread.

    Attributes:
        fetched, total: bytes of its contents on this host, and in all.
        from_network, from_cache: bytes by their source, as staging reports them.
        sent: blocks that were uploaded for it.
        drivers: whether the image has the drivers for EC2, if it was inspected now.
        note: the present step, in some words.
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
        """Note the next step; Cancelled if the machine is no longer wanted."""
        self.note = note
        if self.cancelled.is_set():
            raise Cancelled("cancelled; rolled back")


class ImageUploader:
    """Uploads images to one account. Safe to use from several threads: of two uploads of one image the second waits.

    Args:
        account: opened.
        stages: stages contents on the site's host, and keeps them.
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
        """The AMI of an image and its snapshots by device: existing ones, or made now.

        Args:
            manifest, found: the image, and how EC2 boots it.
            progress: updated with each step.
            full: compare every byte, not a sample.
            drivers: refuse an image that certainly lacks the drivers for EC2; CannotBoot.
        """
        with self._one_at_a_time(manifest.image_id), self._one_process(manifest.image_id, progress):
            snapshots = self._present(manifest)
            if snapshots is None:
                snapshots = self._upload(manifest, found, progress, full=full, drivers=drivers)
            progress.at("registering the image")
            contents = {device: snapshot.content for device, snapshot in snapshots.items()}
            ids = {device: snapshot.snapshot_id for device, snapshot in snapshots.items()}
            return self._account.registrar.register(manifest, found, contents, ids), snapshots

    def _present(self, manifest: Manifest) -> dict[str, Snapshot] | None:
        """The snapshots of an image that was registered before, if all of them still exist and are right."""
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
        progress.at("staging the contents")
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
                progress.at(f"uploading {volume.device} as a snapshot")
                with ExitStack() as opening:
                    if volume.disk is None:
                        assert found.boot_disk is not None  # noqa: S101 - only the boot disk is not a disk of the manifest
                        disk = opening.enter_context(open_boot_disk(found.boot_disk, head, staged))
                    else:
                        disk = opening.enter_context(open_disk(manifest.disks[volume.disk], staged))
                    # Of one disk of the image: on a parent of another disk, its blocks would have to be overwritten with zeros.
                    family = f"{manifest.vo}/{manifest.name}/{'boot' if volume.disk is None else volume.disk}"
                    made[volume.device] = self._account.snapshots.ensure(
                        disk, family=family, tags=tags, description=manifest.title
                    )
                progress.sent += made[volume.device].sent
                if parent := made[volume.device].parent:  # keeps the parent from being removed
                    self._account.machines.tag(made[volume.device].snapshot_id, {PARENT_TAG: parent})
            for wanted in required_items(manifest):
                self._stages.cache.check(wanted, full=full)
        finally:
            self._stages.cache.release(holder)
        return made

    def _look_for_drivers(
        self, manifest: Manifest, staged: StagedImage, progress: MachineProgress, *, demanded: bool
    ) -> None:
        """Check the drivers before the upload: CannotBoot if the image certainly lacks the drivers for EC2."""
        progress.at("checking the drivers")
        progress.drivers = check_drivers(manifest, staged)
        if progress.drivers.answer == "no" and demanded:
            raise CannotBoot(
                f"{manifest.title} does not run on EC2's machines: {progress.drivers.reason}; build it with them, or, if the "
                "account's types need others, set `drivers = false` in the account"
            )
        if progress.drivers.answer != "yes":
            log.warning("image %s: drivers for EC2: %s", manifest.title, progress.drivers)

    def _one_at_a_time(self, image_id: str) -> threading.Lock:
        """The lock of an image: the second machine finds the upload of the first."""
        with self._locking:
            return self._locks[image_id]

    @contextmanager
    def _one_process(self, image_id: str, progress: MachineProgress) -> Iterator[None]:
        """Hold an image's lock between processes: `partita ec2 upload` runs beside the site's service. It ends with the process."""
        path = self._account.directory / "images" / f"{image_id.removeprefix('sha256:')}.lock"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                try:
                    held = files.lock(path)
                    break
                except files.LockHeld:
                    progress.at("waiting for another process that uploads the image")
                    progress.cancelled.wait(LOOK_EVERY)
        except OSError as exc:
            raise Ec2RecordsUnusable(f"{path}: the lock of the image cannot be taken: {exc.strerror}") from exc
        try:
            yield
        finally:
            os.close(held)
