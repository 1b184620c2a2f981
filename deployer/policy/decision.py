"""What a requester asks for, and what a site decides about it: frozen values, in a form to keep, to send and to show."""

from dataclasses import dataclass, field

from catalog.image.manifest import Blank, ImageId
from deployer.errors import Refused
from deployer.machine.spec import Network
from deployer.machine.user_data import UserDataKind
from signer.documents import Document
from signer.openpgp.keys import escape_unprintable
from signer.statements.endorsement import Instant


@dataclass(frozen=True)
class Request:
    """What a requester asks for.

    Attributes:
        count: machines.
        memory: bytes per machine.
        cores: per machine.
        lifetime: seconds.
        user_data: its kind, as `userdata.check_user_data` found it; None where there is none.
        network: which network.
        blanks: scratch disks beyond those of the image, per machine.
    """

    count: int
    memory: int
    cores: int
    lifetime: int
    user_data: UserDataKind | None = None
    network: Network = field(default_factory=lambda: Network(kind="none"))
    blanks: tuple[Blank, ...] = ()


class RuleResult(Document):
    """One rule's verdict: its name, whether it passed, why, and (where it did not) what would have to change."""

    name: str
    passed: bool
    reason: str
    change: str = ""


class Decision(Document):
    """Accepted or refused, rule by rule.

    Attributes:
        image: the image ID.
        title: what the manifest calls itself.
        at: when it was decided.
        policy: the digest of the policy.
        rules: all of them, in order.
    """

    image: ImageId
    title: str
    at: Instant
    policy: str
    rules: tuple[RuleResult, ...]

    @property
    def accepted(self) -> bool:
        """Whether there are rules and all of them passed."""
        return bool(self.rules) and all(rule.passed for rule in self.rules)

    @property
    def failed(self) -> tuple[RuleResult, ...]:
        """The rules that refuse."""
        return tuple(rule for rule in self.rules if not rule.passed)

    def as_json(self) -> dict[str, object]:
        """For programs: the fields and `accepted`."""
        return {"accepted": self.accepted} | self.model_dump(mode="json")

    def text(self) -> str:
        """For people: the verdict, then one line a rule, and below a rule that failed what would have to change."""
        width = max((len(rule.name) for rule in self.rules), default=0)
        lines = [f"{self.title} is {'accepted' if self.accepted else 'refused'} by the policy {self.policy}"]
        for rule in self.rules:
            lines.append(
                f"  {'passed' if rule.passed else 'FAILED'}  {rule.name:{width}}  {escape_unprintable(rule.reason)}"
            )
            if rule.change:
                lines.append(f"  {'':6}  {'':{width}}  -> {escape_unprintable(rule.change)}")
        return "\n".join(lines)

    def refusal(self) -> Refused:
        """The error that a refused deployment ends with."""
        reasons = "; ".join(f"{rule.reason} - {rule.change}" for rule in self.failed)
        return Refused(f"the policy refuses {self.title}: {reasons}", self.as_json())
