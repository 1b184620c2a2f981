"""The use case: machines that a site wants saved become candidates in the catalog, not endorsed yet.

1. The disks of a machine that rests are read into an image directory below SAVES, which appears whole or not at all.
2. What the catalog does not have of it is sent, with the node's credential; ranges that arrived once are not sent again.
3. The machine's record says what came of it, durably. Then the directory goes.
A node that dies finds by the record, and by whether the directory is there, where it was: a save is neither lost nor made
twice. While disks are read the machine does not change; while they are sent it may go on.

SAVES/<uuid>.<number>     the image directory of one save
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from catalog.errors import NotFound
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import Manifest
from deployer.errors import Cancelled, MachineNotFound
from deployer.node.backoff import RETRIES
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.protocol.desired_state import DesiredState
from deployer.protocol.save import DesiredSave, SaveStatus
from deployer.records.machine_store import MachineRecord
from signer.errors import EXIT_UNAVAILABLE, PartitaError
from signer.runtime.progress import Advance

SIDE_BY_SIDE = 1
"""Saves at a time: each reads whole disks, and sends them over the one network that staging needs, too."""

log = logging.getLogger("partita.node")

WriteDraft = Callable[[str, Path, str], None]
"""Makes the image directory of a machine: UUID, directory, version. errors as in `write_image`."""

LocateContents = Callable[[Manifest], Mapping[Address, Path]]
"""Where the contents of an image are on this node."""

UploadCandidate = Callable[[Bundle, Advance], object]
"""Sends an image directory to the catalog; errors of `catalog.client.transfer.offer_candidate`."""


@dataclass(frozen=True)
class CandidateBundle(Bundle):
    """An image directory without the contents that did not change: those are in the node's cache, under a lease."""

    contents: Mapping[Address, Path] = field(default_factory=dict)

    def content(self, address: Address) -> Path:
        """Where that content is; NotFound if it is nowhere."""
        with suppress(NotFound):
            return super().content(address)
        try:
            return self.contents[address]
        except KeyError:
            raise NotFound(f"{self.root}: the content {address} is missing; save the machine again") from None


@dataclass
class _Job:
    """A save that is under way."""

    wish: DesiredSave
    seen: SaveStatus
    cancelled: threading.Event = field(default_factory=threading.Event)


class CandidateUploader:
    """Saves machines as one site desires. Safe to use from several threads; one of them calls `look`.

    Args:
        place: SAVES; it is this one's alone.
        keeper: of the machines.
        read, parents, offer: the functions above; `parents` finds the manifest that a machine was made of, by its UUID.
        contents: finds contents, as above.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        place: Path,
        keeper: MachineSupervisor,
        read: WriteDraft,
        parents: Callable[[str], Manifest | None],
        contents: LocateContents,
        offer: UploadCandidate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place, self._keeper, self._clock = place, keeper, clock
        self._read, self._parents, self._contents, self._offer = read, parents, contents, offer
        self._jobs: dict[str, _Job] = {}
        self._later: dict[str, tuple[int, int, float, str]] = {}
        self._lock = threading.Lock()
        self._hands = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="save")

    def close(self) -> None:
        """Stop sending, wait until disks that are being read have been, and leave the rest to the next start."""
        with self._lock:
            for job in self._jobs.values():
                job.cancelled.set()
        self._hands.shutdown(cancel_futures=True)

    def progress(self) -> Mapping[str, SaveStatus]:
        """How far saves are that are not over, by machine."""
        with self._lock:
            found = {uuid: job.seen for uuid, job in self._jobs.items()}
            for uuid, (number, _, _, reason) in self._later.items():
                found.setdefault(uuid, SaveStatus(number=number, state="reading", reason=reason))
            return found

    def look(self, desired: DesiredState, here: Iterable[MachineRecord]) -> None:
        """Begin saves that are due; cancel those that are no longer wanted, and remove their files."""
        wanted = {one.uuid: one.save for one in desired.machines if one.save is not None and one.desired != "ended"}
        records = {record.uuid: record for record in here if not record.state.final}
        due = {
            uuid: wish
            for uuid, wish in wanted.items()
            if uuid in records and ((done := records[uuid].saved) is None or done.number < wish.number)
        }
        now = self._clock()
        with self._lock:
            self._later = {uuid: at for uuid, at in self._later.items() if uuid in due and at[0] == due[uuid].number}
            for uuid, job in self._jobs.items():
                if uuid not in due or due[uuid].number != job.wish.number:
                    job.cancelled.set()
            for uuid, wish in due.items():
                if uuid in self._jobs or (uuid in self._later and now < self._later[uuid][2]):
                    continue
                self._jobs[uuid] = job = _Job(wish, SaveStatus(number=wish.number, state="reading"))
                self._hands.submit(self._run, uuid, job)
            busy = {f"{uuid}.{job.wish.number}" for uuid, job in self._jobs.items()}
        self._sweep(busy | {f"{uuid}.{wish.number}" for uuid, wish in due.items()})

    def _run(self, uuid: str, job: _Job) -> None:
        reason, last = "", None
        try:
            last = self._save(uuid, job)
        except Cancelled:
            pass
        except PartitaError as exc:
            log.warning("machine %s cannot be saved: %s", uuid, exc)
            reason = str(exc)[:500]
            if exc.exit_code != EXIT_UNAVAILABLE:
                last, reason = SaveStatus(number=job.wish.number, state="failed", reason=reason), ""
        except Exception as exc:
            log.exception("saving machine %s", uuid)
            reason = f"the node failed ({type(exc).__name__}); its log has the reason"
        if last is not None:
            with suppress(MachineNotFound):
                self._keeper.change(uuid, saved=last)
            shutil.rmtree(self._directory(uuid, job.wish), ignore_errors=True)
        with self._lock:
            number, tries, _, _ = self._later.pop(uuid, (0, 0, 0.0, ""))
            if reason:
                tries = tries + 1 if number == job.wish.number else 1
                self._later[uuid] = job.wish.number, tries, self._clock() + RETRIES.pause(tries), reason
            del self._jobs[uuid]
        self._keeper.tell()

    def _save(self, uuid: str, job: _Job) -> SaveStatus:
        place = self._directory(uuid, job.wish)
        parent = self._parents(uuid)
        if not (place / "manifest.json").exists():
            place.parent.mkdir(mode=0o700, exist_ok=True)
            self._read(uuid, place, job.wish.version)
        bundle = Bundle.open(place)
        contents = {} if parent is None else self._contents(parent)
        total = sum(address.size for address in bundle.manifest.contents())
        seen = SaveStatus(
            number=job.wish.number,
            state="sending",
            image_id=bundle.manifest.image_id,
            title=bundle.manifest.title,
            changed=() if parent is None else changed_partitions(parent, bundle.manifest),
            total=total,
        )
        job.seen = seen
        self._keeper.tell()

        def advance(count: int) -> None:
            if job.cancelled.is_set():
                raise Cancelled("the save was cancelled, or the node is stopping")
            job.seen = job.seen.model_copy(update={"done": min(total, job.seen.done + count)})

        self._offer(CandidateBundle(bundle.root, bundle.manifest, contents), advance)
        return seen.model_copy(update={"state": "saved", "done": total})

    def _directory(self, uuid: str, wish: DesiredSave) -> Path:
        return self._place / f"{uuid}.{wish.number}"

    def _sweep(self, wanted: Iterable[str]) -> None:
        """Remove the files of unwanted saves, and their drafts, whose names begin with a point."""
        kept = tuple(wanted)
        try:
            found = list(self._place.iterdir())
        except FileNotFoundError:
            return
        for left in found:
            if not any(left.name == name or left.name.startswith(f".{name}.") for name in kept):
                shutil.rmtree(left, ignore_errors=True)


def changed_partitions(parent: Manifest, fresh: Manifest) -> tuple[str, ...]:
    """The labels of the partitions that hold other content than the parent's, or content where that has a blank."""
    return tuple(
        now.label
        for before, now in zip(parent.partitions(), fresh.partitions(), strict=True)
        if now.content != before.content
    )
