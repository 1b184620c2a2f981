"""Cedar: rules that TOML cannot express, in files beside the policy. The only door to the engine (cedarpy).

A set of files is usable only as a whole: every rule has an `@id`, names nothing that the schema does not know, and at
least one of them permits. Two things of the engine are guarded against here. A rule that fails to evaluate is skipped by
Cedar, so that a `forbid` that fails would permit: any failure refuses. And a permit is not looked at where a forbid
applies, so permits and forbids are asked separately: a decision says about each of them what it came to.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import cedarpy

from deployer.errors import PolicyUnusable
from deployer.policy.cedar_schema import SCHEMA
from deployer.policy.decision import RuleResult

MAX_FILE = 1 << 20
"""Bytes of a Cedar file; one of 200 rules has some 40 KB."""

MAX_RULES = 2000
"""Rules of a policy. Each is looked at for every decision, and stands in it."""

PREFIX: Final = "cedar-"
PERMIT, ERRORS = "permit", "errors"
"""Names of the two rules of a decision that belong to no single Cedar rule; none of those may take them."""

_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_POLICY = re.compile(r"\bpolicy([0-9]+)\b")


@dataclass(frozen=True)
class CedarRule:
    """One rule: its id, what it does, where it stands, and what its `@reason` and `@change` say to people."""

    name: str
    effect: Literal["permit", "forbid"]
    file: str
    text: str
    reason: str = ""
    change: str = ""


class CedarRules:
    """A validated set of rules, ready to be asked. Safe to use from several threads."""

    def __init__(self, rules: Sequence[CedarRule]) -> None:
        self.rules = tuple(rules)
        self._permits = [rule for rule in rules if rule.effect == "permit"]
        self._forbids = [rule for rule in rules if rule.effect == "forbid"]
        self._permit_set = cedarpy.PolicySet.from_str("\n".join(rule.text for rule in self._permits))
        # Nothing but forbids would always be denied, by default: with a permit for all, a denial comes from forbids alone.
        everything = "permit(principal, action, resource);"
        self._forbid_set = cedarpy.PolicySet.from_str("\n".join([*(rule.text for rule in self._forbids), everything]))
        self._schema = cedarpy.Schema.from_str(SCHEMA)

    @classmethod
    def parse(cls, files: Sequence[tuple[str, bytes]]) -> "CedarRules":
        """Read and validate files.

        Args:
            files: (name for errors, bytes).

        Raises:
            PolicyUnusable: syntax, a rule without an id or with one that is listed twice, a name that the schema does not
                know, a template, or nothing that permits.
        """
        rules: list[CedarRule] = []
        for name, data in files:
            rules += _read(name, data)
        if len(rules) > MAX_RULES:
            raise PolicyUnusable(f"{files[0][0]}: {len(rules)} Cedar rules are more than the {MAX_RULES} allowed")
        seen: dict[str, CedarRule] = {}
        for rule in rules:
            if (other := seen.setdefault(rule.name, rule)) is not rule:
                raise PolicyUnusable(
                    f"{rule.file}: the id {rule.name!r} is already used in {other.file}; give each rule its own"
                )
        if not any(rule.effect == "permit" for rule in rules):
            names = ", ".join(name for name, _ in files) or "the policy"
            raise PolicyUnusable(
                f"{names}: no Cedar rule permits, so nothing would be accepted; where the rest of the policy is to "
                'decide, say @id("as-the-policy-says") permit(principal, action, resource);'
            )
        return cls(rules)

    def judge(self, question: dict[str, Any], facts: list[dict[str, Any]]) -> list[RuleResult]:
        """What the rules say, each as a rule of a decision; one more where anything could not be evaluated.

        Args:
            question: see `cedar_schema.authorization_request`.
            facts: see `cedar_schema.build_entities`.
        """
        permitting: set[str] = set()
        forbidding: set[str] = set()
        errors: dict[str, str] = {}
        try:
            known = cedarpy.Entities.from_json_str(json.dumps(facts), self._schema)
        except ValueError as exc:
            errors[""] = _one_line(str(exc))[:500]
        else:
            permitting, errors = self._ask(self._permit_set, self._permits, question, known)
            forbidding, more = self._ask(self._forbid_set, self._forbids, question, known)
            errors |= more
        judged = [self._permit(permitting)]
        for rule in self._forbids:
            if rule.name in errors:
                judged.append(_failed(rule, f"the rule {rule.name!r} of {rule.file} could not be evaluated"))
            elif rule.name in forbidding:
                judged.append(_failed(rule, rule.reason or f"the rule {rule.name!r} of {rule.file} forbids it"))
            else:
                reason = f"{rule.file} does not forbid it by this rule"
                judged.append(RuleResult(name=PREFIX + rule.name, passed=True, reason=reason))
        if errors:
            message = "; ".join(f"{name}: {why}" if name else why for name, why in sorted(errors.items()))
            judged.append(
                RuleResult(
                    name=PREFIX + ERRORS,
                    passed=False,
                    reason=f"rules could not be evaluated, and what cannot be evaluated refuses: {message}",
                    change="the site mends the rule: it asks with `has` before it reads what may be absent",
                )
            )
        return judged

    def _permit(self, permitting: set[str]) -> RuleResult:
        names = ", ".join(repr(rule.name) for rule in self._permits)
        hints = [rule.change for rule in self._permits if rule.change]
        return RuleResult.of(
            PREFIX + PERMIT,
            passed=bool(permitting),
            reason=f"permitted by {', '.join(map(repr, sorted(permitting)))}",
            otherwise=f"no permit rule applies: {names}",
            change="; or ".join(hints) or "ask for what one of them permits",
        )

    def _ask(
        self, policies: Any, rules: Sequence[CedarRule], question: dict[str, Any], facts: Any
    ) -> tuple[set[str], dict[str, str]]:
        """The ids of the rules that apply, and what went wrong, by id (empty: the question itself)."""
        try:
            answer = cedarpy.is_authorized(question, policies, facts, self._schema)
        except ValueError as exc:
            return set(), {"": str(exc)[:500]}
        names = {f"policy{number}": rule.name for number, rule in enumerate(rules)}
        errors = {}
        for error in answer.diagnostics.errors:
            found = _POLICY.search(error)
            name = names.get(found[0], "") if found else ""
            errors[name] = _POLICY.sub(lambda match: names.get(match[0], match[0]), error)[:500]
        if answer.decision is cedarpy.Decision.NoDecision and not errors:
            errors[""] = "the engine came to no decision"
        return {names[reason] for reason in answer.diagnostics.reasons if reason in names}, errors


def _failed(rule: CedarRule, reason: str) -> RuleResult:
    change = (
        rule.change or f"ask within what the rule {rule.name!r} does not forbid, or the site changes it in {rule.file}"
    )
    return RuleResult(name=PREFIX + rule.name, passed=False, reason=reason, change=change)


def _read(name: str, data: bytes) -> list[CedarRule]:
    """The rules of one file, checked against the schema."""
    if len(data) > MAX_FILE:
        raise PolicyUnusable(f"{name}: has more than the {MAX_FILE} bytes allowed")
    try:
        text = data.decode("utf-8")
        found = json.loads(cedarpy.policies_to_json_str(text))
    except UnicodeDecodeError as exc:
        raise PolicyUnusable(f"{name}: is not UTF-8 at byte {exc.start}") from exc
    except ValueError as exc:
        raise PolicyUnusable(f"{name}: is not Cedar: {_one_line(str(exc))}") from exc
    if found.get("templates"):
        raise PolicyUnusable(f"{name}: has a template (?principal or ?resource); write rules without slots")
    numbered = sorted(found["staticPolicies"].items(), key=lambda item: int(item[0].removeprefix("policy")))
    rules = [_rule(name, number, policy) for number, (_, policy) in enumerate(numbered)]
    ids = {key: rule.name for (key, _), rule in zip(numbered, rules, strict=True)}
    checked = cedarpy.validate_policies(text, SCHEMA)
    if not checked.validation_passed:
        errors = [_POLICY.sub(lambda match: ids.get(match[0], match[0]), str(error.error)) for error in checked.errors]
        message = _one_line("; ".join(errors) or "does not fit the schema")
        raise PolicyUnusable(f"{name}: {message}{_hint(message)}")
    return rules


def _rule(file: str, number: int, policy: dict[str, Any]) -> CedarRule:
    notes = policy.get("annotations") or {}
    name = notes.get("id") or ""
    where = f"{file}: rule {number + 1}"
    if not name:
        raise PolicyUnusable(f'{where}: has no name; put @id("...") before it, so that decisions can say which it was')
    if not _ID.fullmatch(name) or name in {PERMIT, ERRORS}:
        raise PolicyUnusable(f"{where}: the id {name[:80]!r} is not lower-case letters, digits and hyphens, or is ours")
    for key, value in notes.items():
        if key not in {"id", "reason", "change"} or not str(value or "").isprintable():
            raise PolicyUnusable(f"{where}: @{key} is not known here, or holds what cannot be printed")
    text = cedarpy.policies_from_json_str(
        json.dumps({"templates": {}, "staticPolicies": {"policy0": policy}, "templateLinks": []})
    )
    return CedarRule(name, policy["effect"], file, text, notes.get("reason") or "", notes.get("change") or "")


def _hint(message: str) -> str:
    """What an attribute is called now that rules of before 2026-12 spoke of."""
    names = (("memory", "maxMemory"), ("cores", "maxCores"))
    now = [new for old, new in names if f"attribute `{old}` on entity type `Resources`" in message]
    return f"; how far a machine may grow is called {' and '.join(now)}" if now else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:1000]
