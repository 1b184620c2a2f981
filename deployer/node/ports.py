"""What the use cases of machines need of others: the catalog, what stages, the cache, the records."""

from collections.abc import Sequence
from typing import Literal, Protocol

from catalog.image.address import Address
from catalog.image.manifest import Blank, Manifest
from deployer.hypervisor.disks import ImageContents
from deployer.machine.spec import MachineSpec
from deployer.policy.evaluation import Evaluation, EvaluationInput
from deployer.records.receipt import PreviousReceipt
from signer.runtime.progress import Advance


class StagedContents(ImageContents, Protocol):
    """All parts of an image on this node, and what it took to get them there."""

    @property
    def from_cache(self) -> int:
        """Bytes that were here already."""

    @property
    def from_network(self) -> int:
        """Bytes that were transferred."""


class ContentStager(Protocol):
    """What brings contents to the node; `stager.staging.Stager` is one."""

    def stage(
        self, manifest: Manifest, holder: str, ttl: float, advance: Advance = ..., *, extra: Sequence[Blank] = ()
    ) -> StagedContents:
        """Make all parts of an image and extra blanks present, leased to the holder for `ttl` seconds."""


class ContentCache(Protocol):
    """The node's cache; `stager.cache.cache.Cache` is one."""

    def check(self, thing: Address | Blank, *, full: bool = False) -> object:
        """Raise stager.errors.EntryChanged unless an entry is the one that was verified."""


class DeploymentRecorder(Protocol):
    """Where decisions and deployments are put on record before they take effect; `recording.Recorder` is one."""

    def decided(self, case: EvaluationInput, judged: Evaluation, stage: Literal["request", "boot"]) -> None:
        """A request was decided."""

    def deploying(
        self, spec: MachineSpec, case: EvaluationInput, judged: Evaluation, origin: PreviousReceipt | None = None
    ) -> object:
        """A machine is about to boot."""
