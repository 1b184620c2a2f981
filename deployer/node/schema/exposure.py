"""What a node says about machines that run something: by its image, or by who vouched for it."""

from datetime import datetime

from deployer.machine.spec import MachineState, Uuid
from signer.documents import Document


class ExposedMachine(Document):
    """A machine that runs.

    Attributes:
        since: when it was accepted.
        endorsers: who vouched for its image when it was booted.
        affected: whether it would not be accepted any more, for what has been withdrawn since.
        reason: why, as a sentence; empty if it is not affected.
    """

    uuid: Uuid
    name: str
    state: MachineState
    image_id: str
    title: str
    since: datetime
    endorsers: tuple[str, ...]
    affected: bool
    reason: str


class ExposureList(Document):
    """Machines that run something, the oldest first; `action` is what the policy does to those that are affected."""

    machines: tuple[ExposedMachine, ...]
    action: str
