"""The policy in force: a TOML file, the keys and Cedar files that it names, and the policy that decides in its shadow.

`PolicyStore` reads all of them again when any has changed. A set that does not validate never comes into force: the last
good one stays, and `problem` says what is wrong. A set in force is known by its digest, which covers every byte of
meaning: the policy with its keys, and the Cedar files.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from deployer.errors import PolicyUnusable
from deployer.policy.anchors import MAX_KEY
from deployer.policy.cedar_schema import authorization_request, build_entities
from deployer.policy.decision import Decision
from deployer.policy.model import MAX_POLICY, Policy
from deployer.policy.policy_files import read_policy_file
from deployer.policy.rules.endorsements import counted_endorsements
from deployer.policy.rules.registry import decide
from deployer.policy.rules.rule import PolicyCase
from signer.documents import canonical
from signer.runtime.files import read_file
from signer.runtime.reloaded_files import FileReader, ReloadedFiles

if TYPE_CHECKING:
    from deployer.policy.cedar import CedarRules

MAX_CEDAR = 1 << 20
"""Bytes of one Cedar file."""


@dataclass(frozen=True)
class RuleSet:
    """A policy with all that belongs to it, ready to decide.

    Attributes:
        policy: the TOML part, keys inside.
        cedar: the rules of its Cedar files, if it names any.
        shadow: what decides beside it, on the record only.
        shadow_problem: why that could not be read; it never keeps the set itself from coming into force.
        digest: `sha256:` and 64 hex digits over policy, keys and Cedar files (not over the shadow, which decides nothing).
    """

    policy: Policy
    cedar: "CedarRules | None" = None
    shadow: "RuleSet | None" = None
    shadow_problem: str = ""
    digest: str = ""

    @classmethod
    def load(cls, path: Path, read: FileReader = read_file, *, shadowing: bool = True) -> Self:
        """Read a policy file and everything that it names, relative to it; PolicyUnusable with the place.

        Args:
            path: of the policy.
            read: reads a file (path, limit in bytes).
            shadowing: False leaves the policy in the shadow alone.
        """
        data = _required(path, MAX_POLICY, "policy", read)
        what = f"policy {path}"
        policy = Policy.parse(data, what, lambda name: read(path.parent / name, MAX_KEY))
        rules, digest = None, policy.digest
        if policy.cedar is not None:
            files = [
                (name, _required(path.parent / name, MAX_CEDAR, "Cedar file", read)) for name in policy.cedar.files
            ]
            from deployer.policy.cedar import CedarRules  # the engine is large; sites that need none do not load it

            rules = CedarRules.parse([(str(path.parent / name), text) for name, text in files])
            parts = [{"name": name, "sha256": hashlib.sha256(text).hexdigest()} for name, text in files]
            digest = "sha256:" + hashlib.sha256(canonical({"cedar": parts, "policy": policy.digest})).hexdigest()
        shadow, problem = None, ""
        if policy.shadow is not None and shadowing:
            try:
                shadow = cls.load(path.parent / policy.shadow.policy, read, shadowing=False)
            except PolicyUnusable as exc:
                problem = str(exc)
        return cls(policy, rules, shadow, problem, digest)

    def decide(self, case: PolicyCase) -> Decision:
        """The decision by all rules of the set: those of the case's policy, then those in Cedar. Pure."""
        decision = decide(case)
        if self.cedar is None:
            return decision
        facts = build_entities(case, counted_endorsements(case))
        more = self.cedar.judge(authorization_request(case), facts)
        return decision.model_copy(update={"rules": (*decision.rules, *more), "policy": self.digest})


class PolicyStore:
    """The set in force at a site. Safe to use from several threads.

    Args:
        path: the policy's file.
        loaded: called with each set that comes into force, before it decides anything.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        path: Path,
        loaded: Callable[[RuleSet], None] = lambda _: None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.path = path

        def accept(old: RuleSet | None, new: RuleSet | None) -> None:
            if new is not None and (old is None or new.digest != old.digest):
                loaded(new)

        self._files = ReloadedFiles[RuleSet | None](
            f"policy {path}", lambda read: RuleSet.load(path, read), PolicyUnusable, None, accept=accept, sleep=sleep
        )

    @property
    def problem(self) -> str:
        """Why what the files say now is not in force; empty where it is."""
        return self._files.problem

    def current(self) -> RuleSet:
        """The set in force: what the files say now, or the last that was good where they cannot be used.

        Raises:
            PolicyUnusable: there was no good one yet, or the policy's file has been removed: then nothing is accepted.
        """
        if not self.path.exists():
            self._files.forget()
            raise PolicyUnusable(
                f"{self.path}: acceptance policy not found, so nothing is accepted; write one (policies/ has samples), "
                "or name it with the setting deploy.policy"
            )
        good = self._files.current()
        if good is None:
            raise PolicyUnusable(self.problem)
        return good


def _required(path: Path, limit: int, what: str, read: FileReader) -> bytes:
    if (data := read_policy_file(path, limit, what, read)) is None:
        raise PolicyUnusable(f"{what} {path}: cannot be read: no such file")
    return data
