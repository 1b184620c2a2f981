"""A site with requests that it recorded, on which policies are tried."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from click.testing import Result

from catalog.image.bundle import Bundle
from deployer.cli.policy import policy_app
from deployer.machine.network import Network
from deployer.policy.decision import Request
from deployer.policy.evaluation import EvaluationInput, evaluate
from deployer.policy.store import RuleSet
from deployer.trials.request_log import (
    EncodedStatement,
    PolicyOutcome,
    RequestLog,
    RequestRecord,
)
from signer.openpgp.keyring import Keyring
from signer.runtime.settings import Settings
from signer.verification.endorsements import endorse
from signer.verification.signers import KeySigner
from stager.settings import NodeSettings
from tests.support.commands import CliRunner
from tests.support.factories import MIB, bundle

SAMPLES = Path(__file__).parents[3] / "policies"


GIB = 1 << 30


class Site:
    """A signed image, a policy that accepts it, and a node that decided five requests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keyring = Keyring(root / "keys")
        self.alice = self.keyring.generate("Alice <alice@star.example>")
        (root / "alice.asc").write_bytes(self.keyring.export(self.alice))
        self.image: Bundle = bundle(root / "image", partitions=1, size=MIB)
        manifest = self.image.manifest
        now = datetime.now(UTC)
        self.image.add_endorsement(
            *endorse(KeySigner(self.keyring, self.alice), manifest.image_id, manifest.title, now)
        )
        self.policy = root / "policy.toml"
        self.policy.write_text(
            (SAMPLES / "development.toml").read_text() + self.output("anchor", root / "alice.asc", "--vo", "star")
        )
        rules, log = RuleSet.load(self.policy), RequestLog(root / "requests.jsonl")
        for number, memory in enumerate((1, 2, 3, 4, 5)):
            asked = Request.supposed(manifest.needs, memory=memory * GIB, cores=1, network=Network(kind="user"))
            case = EvaluationInput(manifest, self.image.endorsements(), asked, running=0)
            at = (now + timedelta(seconds=number)).replace(microsecond=0)
            log.append(record(case, evaluate(rules, case, at).decision, at))

    def run(self, *arguments: object) -> Result:
        settings = Settings({"node": NodeSettings(directory=self.root)})
        return CliRunner().invoke(policy_app, [str(argument) for argument in arguments], obj=settings)

    def output(self, *arguments: object, code: int = 0) -> str:
        result = self.run(*arguments)
        assert result.exit_code == code, (result.output, result.exception)
        return result.stdout

    def variant(self, place: Path, old: str, new: str) -> Path:
        """The policy with one line changed."""
        text = self.policy.read_text()
        assert old in text
        file = place / "next.toml"
        file.write_text(text.replace(old, new))
        return file


def record(case: EvaluationInput, decision: Any, at: datetime) -> RequestRecord:
    return RequestRecord(
        number=1,
        at=at,
        asked=case.request,
        running=case.running,
        image=case.manifest.image_id,
        manifest=case.manifest.canonical().decode(),
        endorsements=tuple(EncodedStatement.of(pair) for pair in case.pairs),
        outcome=PolicyOutcome.of(decision),
    )
