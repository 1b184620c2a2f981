"""What the use cases of machines need of others: the catalog, what stages, the cache, the records."""

from collections.abc import Sequence
from typing import Literal, Protocol

from catalog.image.address import Address
from catalog.image.manifest import Blank, Manifest
from deployer.hypervisor.disks import Contents
from deployer.machine.spec import MachineSpec
from deployer.policy.evaluation import Case, Judged
from deployer.records.receipt import CameFrom
from signer.runtime.progress import Advance


class StagedContents(Contents, Protocol):
    """All parts of an image on this node, and what it took to get them there."""

    @property
    def from_cache(self) -> int:
        """Bytes that were here already."""

    @property
    def from_network(self) -> int:
        """Bytes that were transferred."""


class Stages(Protocol):
    """What brings contents to the node; `stager.staging.Stager` is one."""

    def stage(
        self, manifest: Manifest, holder: str, ttl: float, advance: Advance = ..., *, extra: Sequence[Blank] = ()
    ) -> StagedContents:
        """Make all parts of an image and extra blanks present, leased to the holder for `ttl` seconds."""


class Entries(Protocol):
    """The node's cache; `stager.cache.cache.Cache` is one."""

    def check(self, thing: Address | Blank, *, full: bool = False) -> object:
        """Raise stager.errors.EntryChanged unless an entry is the one that was verified."""


class Records(Protocol):
    """Where decisions and deployments are put on record before they take effect; `recording.Recorder` is one."""

    def decided(self, case: Case, judged: Judged, stage: Literal["request", "boot"]) -> None:
        """A request was decided."""

    def deploying(self, spec: MachineSpec, case: Case, judged: Judged, origin: CameFrom | None = None) -> object:
        """A machine is about to boot."""
