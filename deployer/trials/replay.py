"""Replay a policy on real requests: the last requests of a node, judged by two policies at the times when they came."""

from collections.abc import Iterable
from dataclasses import dataclass

from deployer.policy.decision import Decision
from deployer.policy.evaluation import EvaluationInput, evaluate
from deployer.policy.store import RuleSet
from deployer.trials.request_log import RequestRecord
from signer.verification.signature_cache import SignatureCache


@dataclass(frozen=True)
class DecisionDifference:
    """A request about which two policies do not say the same."""

    record: RequestRecord
    old: Decision
    new: Decision

    @property
    def turned(self) -> bool:
        """Whether one accepts what the other refuses; else they only refuse for other reasons."""
        return self.old.accepted != self.new.accepted

    def sentence(self) -> str:
        """For people."""
        asked, title = self.record.asked, self.old.title
        what = f"request {self.record.number} of {self.record.at:%Y-%m-%d %H:%M}, {asked.count} x {title},"
        before, after = ("accepted" if one.accepted else "refused" for one in (self.old, self.new))
        if not self.turned:
            return f"{what} would be refused for other reasons: {_reasons(self.new)}"
        why = _reasons(self.new if self.old.accepted else self.old)
        return f"{what} would be {after} instead of {before}{' because ' if self.old.accepted else ', no longer because '}{why}"

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "request": self.record.number,
            "at": self.record.model_dump(mode="json")["at"],
            "image": self.record.image,
            "title": self.old.title,
            "old": {"accepted": self.old.accepted, "failed": [rule.name for rule in self.old.failed]},
            "new": {"accepted": self.new.accepted, "failed": [rule.name for rule in self.new.failed]},
        }


def compare_policies(old: RuleSet, new: RuleSet, records: Iterable[RequestRecord]) -> list[DecisionDifference]:
    """The requests about which two policies differ, in their order.

    Args:
        old, new: the policies, each with its own anchors.
        records: requests with their facts; signatures are verified again, at the times of the requests.

    Raises:
        SignatureError, KeyUnusable: see `evaluation.evaluate`.
    """
    memory, found = SignatureCache(), []
    for record in records:
        case = replay_input(record)
        before = evaluate(old, case, record.at, memory).decision
        after = evaluate(new, case, record.at, memory).decision
        if {rule.name for rule in before.failed} != {rule.name for rule in after.failed}:
            found.append(DecisionDifference(record, before, after))
    return found


def replay_input(record: RequestRecord) -> EvaluationInput:
    """A recorded request as a case to be judged."""
    return EvaluationInput(record.parsed(), record.pairs(), record.asked, record.running, withdrawn=record.withdrawn())


def _reasons(decision: Decision) -> str:
    return "; ".join(rule.reason for rule in decision.failed)
