"""What a requester asks for, and what a site decides about it: frozen values, in a form to keep, to send and to show."""

from typing import Self

from catalog.image.manifest import ImageId, Needs
from deployer.errors import Refused
from deployer.machine.network import NO_NETWORK, Network
from deployer.machine.properties import MachineProperties
from deployer.machine.user_data import UserDataKind
from signer.documents import Document
from signer.openpgp.keys import escape_unprintable
from signer.statements.endorsement import Instant


class Request(MachineProperties):
    """What a requester asks for: the properties of each machine, and how many. What counts is how far each may grow.

    Attributes:
        count: machines.
        lifetime: seconds.
        user_data: its kind, as `check_user_data` found it; None where there is none.
    """

    count: int
    lifetime: int
    user_data: UserDataKind | None = None

    @classmethod
    def of(
        cls, machine: MachineProperties, *, count: int = 1, lifetime: int, user_data: UserDataKind | None = None
    ) -> "Request":
        """A request for machines with these properties: possible or not, since a policy judges that."""
        return cls.model_construct(**machine.properties(), count=count, lifetime=lifetime, user_data=user_data)

    @classmethod
    def supposed(
        cls,
        needs: Needs,
        *,
        memory: int | None = None,
        cores: int | None = None,
        network: Network = NO_NETWORK,
        count: int = 1,
        lifetime: int = 3600,
        user_data: UserDataKind | None = None,
    ) -> "Request":
        """A hypothetical request, for machines that do not grow; possible or not, as in `of`.

        What is left out is what the image needs, no network, and one machine for an hour.
        """
        memory = needs.memory if memory is None else memory
        cores = needs.cores if cores is None else cores
        machine = MachineProperties.model_construct(
            memory=memory, cores=cores, max_memory=memory, max_cores=cores, network=network
        )
        return cls.of(machine, count=count, lifetime=lifetime, user_data=user_data)


class Requester(Document):
    """Who asks: a name, and the VOs and roles that their authentication vouches for."""

    name: str = "local"
    vos: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


LOCAL_REQUESTER = Requester()
"""Every requester on a node without a site."""


class RuleResult(Document):
    """One rule's verdict: its name, whether it passed, why, and (where it did not) what would have to change."""

    name: str
    passed: bool
    reason: str
    change: str = ""

    @classmethod
    def of(cls, name: str, *, passed: bool, reason: str, otherwise: str, change: str) -> Self:
        """A result: `reason` where it passed, else `otherwise` and what would have to change."""
        return cls(name=name, passed=passed, reason=reason if passed else otherwise, change="" if passed else change)


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
