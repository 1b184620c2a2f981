"""A site's own expected decisions: made-up requests, each with the expected outcome, kept and reviewed beside the policy.

A case needs no image and no key: it says who vouches, and the policy's other rules decide about an image of that name. (That
signatures are verified is not for a site to test.) policies/README.md explains the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from catalog.image.address import Address
from catalog.image.manifest import MANIFEST_TYPE, Manifest
from deployer.errors import PolicyUnusable
from deployer.machine.network import Network
from deployer.machine.user_data import UserDataKind
from deployer.policy.decision import Decision, Request, Requester
from deployer.policy.model import Policy
from deployer.policy.rules.rule import PolicyCase
from deployer.policy.store import RuleSet
from signer.documents import Document, parse, parse_toml, validate
from signer.errors import DocumentError
from signer.runtime.files import read_file
from signer.runtime.units import Duration, Size
from signer.statements.endorsement import Instant, Role, Title
from signer.verification.endorsements import DEFAULT_ROLE
from signer.verification.trust import EndorsementCheck

MAX_FILE = 4 << 20
"""Bytes of a file of cases."""

NEVER_MADE = "0" * 64
"""Root of the content of images that are only supposed."""


class CaseEndorsement(Document):
    """A supposed endorsement of the image: a fingerprint, in a role, so long ago, for so much longer."""

    by: str
    role: Role = DEFAULT_ROLE
    age: Duration = 86400
    left: Duration = 30 * 86400


class CaseRequest(Document):
    """The request; what is left out is what the image needs, one machine, an hour, no user-data and no network."""

    count: int = 1
    memory: Size | None = None
    cores: int | None = None
    lifetime: Duration = 3600
    user_data: UserDataKind | None = None
    network: str = "none"


class ExpectedCase(Document):
    """One expected decision.

    Attributes:
        name: what it is about, a sentence.
        image: VO/NAME@VERSION.
        expect: what the policy should say.
        because: the rules that should refuse, exactly these; left out, any may.
        disk, blank, needs_memory, needs_cores, architecture, contextualization, labels, links: of the image.
        endorsed: who vouches for it.
        ask, running, requester, at: the request, machines that the node has already, who asks, when.
    """

    name: Annotated[str, Field(min_length=1, max_length=300)]
    image: Title
    expect: Literal["accepted", "refused"]
    because: tuple[str, ...] | None = None
    disk: Annotated[Size, Field(ge=1)] = 1 << 30
    blank: Size = 0
    needs_memory: Size = 512 << 20
    needs_cores: int = 1
    architecture: Literal["x86_64", "aarch64"] = "x86_64"
    contextualization: Literal["nocloud", "none"] = "nocloud"
    label: str = "root"
    links: tuple[str, ...] = ()
    endorsed: tuple[CaseEndorsement, ...] = ()
    ask: CaseRequest = CaseRequest()
    running: Annotated[int, Field(ge=0)] = 0
    requester: Requester = Requester()
    at: Instant | None = None

    def manifest(self) -> Manifest:
        """An image that fits; its contents exist nowhere."""
        vo, _, rest = self.image.partition("/")
        name, _, version = rest.partition("@")
        disks: list[dict[str, Any]] = [_disk(1, self.label, content=str(Address.parse(f"{NEVER_MADE}-{self.disk}")))]
        if self.blank:
            disks.append(_disk(2, "scratch", blank={"size": self.blank, "filesystem": "none", "label": ""}))
        document = {
            "type": MANIFEST_TYPE,
            "vo": vo,
            "name": name,
            "version": version,
            "architecture": self.architecture,
            "os": {"id": "linux", "version": ""},
            "disks": disks,
            "boot": {"mode": "direct", "kernel": f"{NEVER_MADE}-1", "cmdline": ""},
            "needs": {"memory": self.needs_memory, "cores": self.needs_cores},
            "contextualization": self.contextualization,
            "provenance": [{"rel": "source", "href": href} for href in self.links],
        }
        return validate(Manifest, document, f"case {self.name!r}")

    def policy_case(self, policy: Policy, now: datetime) -> PolicyCase:
        """The case as the rules of a policy see it."""
        at, manifest, ask = self.at or now, self.manifest(), self.ask
        checks = [
            EndorsementCheck(
                counts=True,
                reason="supposed",
                fingerprint=one.by,
                vo=manifest.vo,
                role=one.role,
                issued=at - timedelta(seconds=one.age),
                expires=at + timedelta(seconds=one.left),
                title=manifest.title,
                image_id=manifest.image_id,
            )
            for one in self.endorsed
        ]
        asked = ask.model_dump(exclude={"network"})
        request = Request.supposed(manifest.needs, network=Network.parse(ask.network), **asked)
        return PolicyCase(policy, request, manifest, tuple(checks), at, self.running, requester=self.requester)


class CaseFile(Document):
    """A file of cases; no case at all tests nothing and is refused."""

    case: Annotated[tuple[ExpectedCase, ...], Field(min_length=1, max_length=10000)]


@dataclass(frozen=True)
class CaseResult:
    """What a policy says to a case; `fault` is empty where that was expected."""

    case: ExpectedCase
    decision: Decision
    fault: str


def read_cases(path: Path) -> CaseFile:
    """Read a file of cases, TOML or (by its name) JSON; PolicyUnusable with the place."""
    try:
        data = read_file(path, MAX_FILE)
        read = parse if path.suffix == ".json" else parse_toml
        found = read(CaseFile, data, f"cases {path}", limit=MAX_FILE)
        for case in found.case:
            case.manifest()
            Network.parse(case.ask.network)
    except OSError as exc:
        raise PolicyUnusable(f"cases {path}: cannot be read: {exc.strerror}") from exc
    except (DocumentError, ValueError) as exc:
        raise PolicyUnusable(str(exc)) from exc
    return found


def run_cases(rules: RuleSet, cases: Sequence[ExpectedCase], now: datetime) -> list[CaseResult]:
    """Decide every case; `now` is for those that name no time."""
    return [_result(case, rules.decide(case.policy_case(rules.policy, now))) for case in cases]


def _result(case: ExpectedCase, decision: Decision) -> CaseResult:
    outcome = "accepted" if decision.accepted else "refused"
    reasons = "; ".join(f"{rule.name}: {rule.reason}" for rule in decision.failed)
    if outcome != case.expect:
        return CaseResult(case, decision, f"it is {outcome}, not {case.expect}" + (f" ({reasons})" if reasons else ""))
    failed = {rule.name for rule in decision.failed}
    if case.because is not None and failed != set(case.because):
        return CaseResult(
            case,
            decision,
            f"it is refused by {', '.join(sorted(failed)) or 'no rule'}, not by {', '.join(sorted(case.because)) or 'none'}",
        )
    return CaseResult(case, decision, "")


def _disk(number: int, label: str, **what: Any) -> dict[str, Any]:
    partition = {
        "label": label,
        "type": "linux-generic",
        "uuid": f"00000000-0000-4000-8000-{number:012x}",
        "access": "copy-on-write",
    }
    return {"table": "none", "partition": partition | what}
