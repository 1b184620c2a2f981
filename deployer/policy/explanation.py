"""Why a request is refused, and the nearest change that would make it pass. Pure: it tries changes on the policy's own rules.

Nothing is promised that was not tried: each change is applied to a copy of the request, the endorsements or the policy,
and all rules decide again. Changes that the requester can make come first, then those of endorsers, then the site's.
What turns out not to be needed is taken out again, so that every change named is necessary.
"""

from dataclasses import dataclass

from deployer.policy.decision import Decision, RuleResult
from deployer.policy.rules.registry import fixes_of, is_urgent
from deployer.policy.rules.rule import PolicyCase, PolicyChange, enumerate_texts
from deployer.policy.store import RuleSet
from signer.openpgp.keys import escape_unprintable

MAX_CHANGES = 24
"""Changes after which the search gives up: a request that needs more of them is another request."""


@dataclass(frozen=True)
class DecisionExplanation:
    """A decision and the way out of it.

    Attributes:
        decision: rule by rule.
        changes: the changes that together make it pass; each is needed.
        unresolved: the rules for which no change was found; empty means that the changes were tried and suffice.
    """

    decision: Decision
    changes: tuple[PolicyChange, ...]
    unresolved: tuple[RuleResult, ...]

    def sentence(self) -> str:
        """What a site's administrator would say."""
        title = self.decision.title
        if self.decision.accepted:
            return f"{title} may run here: all {len(self.decision.rules)} rules pass."
        because = "; ".join(rule.reason for rule in self.decision.failed)
        text = f"{title} may not run here: {because}."
        if self.changes:
            text += f" It would {'come nearer' if self.unresolved else 'be accepted'} if {enumerate_texts([change.text for change in self.changes])}."
        if self.unresolved:
            text += " What no change of the request itself helps against: " + "; ".join(
                f"{rule.reason} ({rule.change})" if rule.change else rule.reason for rule in self.unresolved
            )
            text += "."
        return escape_unprintable(text)

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "sentence": self.sentence(),
            "changes": [{"who": change.who, "if": change.text} for change in self.changes],
            "suffices": not self.unresolved,
        }


def explain_decision(rules: RuleSet, case: PolicyCase) -> DecisionExplanation:
    """Find the nearest change that would make a request pass."""
    decision = rules.decide(case)
    changes: list[PolicyChange] = []
    unresolved: dict[str, RuleResult] = {}
    now = case
    for _ in range(MAX_CHANGES):
        failed = {rule.name: rule for rule in rules.decide(now).failed}
        open_rules = [rule for name, rule in failed.items() if name not in unresolved]
        if not open_rules:
            break
        open_rules.sort(key=lambda result: not is_urgent(result))
        change = _first_helpful(rules, now, open_rules[0], set(failed))
        if change is None:
            unresolved[open_rules[0].name] = open_rules[0]
            continue
        changes.append(change)
        now = change.apply(now)
    else:
        unresolved.update({rule.name: rule for rule in rules.decide(now).failed})
    left = _failing(rules, now)
    for change in list(changes):
        without = case
        for other in changes:
            if other is not change:
                without = other.apply(without)
        if _failing(rules, without) <= left:
            changes.remove(change)
    return DecisionExplanation(decision, tuple(changes), tuple(unresolved.values()))


def _first_helpful(rules: RuleSet, case: PolicyCase, rule: RuleResult, failed: set[str]) -> PolicyChange | None:
    """The first change after which this rule passes and none fails that passed."""
    for change in fixes_of(rule, case):
        failing = _failing(rules, change.apply(case))
        if rule.name not in failing and failing <= failed:
            return change
    return None


def _failing(rules: RuleSet, case: PolicyCase) -> set[str]:
    return {rule.name for rule in rules.decide(case).failed}
