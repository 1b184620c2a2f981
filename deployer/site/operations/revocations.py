"""The revocations that a site has seen and its own block list, for its decisions.

Nodes check by themselves, running machines too (`deployer.node.machines.revocation_watcher`); a site checks at each request.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from catalog.client.trusted import TrustedCatalog
from deployer.policy.revocations import BlockList, RevocationState, RevocationStore
from deployer.policy.store import RuleSet
from signer.verification.revocations import verify_revocations
from signer.verification.signature_cache import SignatureCache

log = logging.getLogger("partita.site")


class RevocationService:
    """Collects the revocations of a catalog and the site's blocks. Safe to use from several threads.

    Args:
        source: the catalog.
        directory: of the site; keeps seen revocations, so that a catalog cannot undo one by leaving it out.
        blocked: the site's block list.
        rules: the policy in force; raises PolicyUnusable.
        clock: the present, UTC.
    """

    def __init__(
        self,
        source: TrustedCatalog,
        directory: Path,
        blocked: Path,
        rules: Callable[[], RuleSet],
        clock: Callable[[], datetime],
    ) -> None:
        self._source, self._blocked, self._rules, self._clock = source, blocked, rules, clock
        self._store = RevocationStore(directory)
        self._memory = SignatureCache()

    def current(self) -> RevocationState:
        """The revocations and blocks until now, for a decision.

        Raises:
            Errors of the catalog: the current revocations are unknown, and nothing new is admitted.
            PolicyUnusable: the policy or the block list cannot be read.
        """
        pairs = list(self._source.revocations())
        policy = self._rules().policy
        checks = verify_revocations(pairs, policy.anchors, self._clock(), x509=policy.x509_rules, cache=self._memory)
        # Only valid revocations are kept: a catalog could fill the store with others.
        if fresh := self._store.add(pair for pair, check in zip(pairs, checks, strict=True) if check.counts):
            log.info("the catalog has %d new revocations", fresh)
        return RevocationState(self._store.pairs(), BlockList.load(self._blocked))
