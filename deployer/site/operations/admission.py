"""Admitting a request: it becomes machines on chosen nodes, or is refused and leaves nothing behind.

1. A repeated idempotency key gets the same answer again, whatever has changed since.
2. The reference is resolved, and values that cannot be written into a seed are refused.
3. Endorsements are verified and the site's policy decides. Its limit of machines is for one node: here all nodes together
   must stay within, and no node is given more. Every node verifies and decides again before a machine boots.
4. Quotas and the capacity of nodes are checked, and all is written, in one transaction of the store.
A dry run does 2 and 3, and reports the result that 4 would have now.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from catalog.client.trusted import TrustedCatalog
from catalog.image.manifest import Manifest
from deployer.errors import NoCapacity
from deployer.machine.spec import hostname_base
from deployer.policy.decision import Requester
from deployer.policy.evaluation import Evaluation, EvaluationInput, evaluate
from deployer.policy.resolution import resolve_order
from deployer.policy.revocations import RevocationState
from deployer.policy.store import RuleSet
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.machine_order import RequestDefaults
from deployer.site.db.machines import recent_boots
from deployer.site.db.nodes import list_nodes
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.model.quota import Quota
from deployer.site.model.records import NodeState
from deployer.site.scheduling.boot_estimate import estimate_boot
from deployer.site.scheduling.placement import Placement, PlacementRequest, Placer, place_machines
from deployer.site.scheduling.proposal import NO_CLUSTER, ClusterMembership, Proposal
from deployer.site.schema.messages import DryRunResult
from deployer.site.store.admission import AdmittedDeployment, admit_request, find_ordered, place_now, quota_fault
from deployer.site.store.store import SiteStore
from signer.verification.signature_cache import SignatureCache

BurstPlacement = Callable[[Placer, Principal, Manifest, Proposal], Placer]
"""Makes a placer that considers EC2 from another, for a requester, an image and a proposal."""


@dataclass(frozen=True)
class AdmissionService:
    """Admits requests to one site. Safe to use from several threads.

    Attributes:
        store: of the site.
        images: the catalog, where images are looked up.
        rules: the policy in force at each call; raises PolicyUnusable.
        quota: the quotas of a requester for an image.
        defaults: for what a request leaves open.
        clock: the present, UTC.
        withdrawn: the revocations and blocks until now.
        burst: extends placement to accounts at EC2; None without such accounts.
        signatures: a cache of verified signatures.
    """

    store: SiteStore
    images: TrustedCatalog
    rules: Callable[[], RuleSet]
    quota: Callable[[Principal, Manifest], Quota]
    defaults: RequestDefaults
    clock: Callable[[], datetime]
    withdrawn: Callable[[], RevocationState] = RevocationState
    burst: BurstPlacement | None = None
    signatures: SignatureCache = field(default_factory=SignatureCache)

    def admit(
        self, request: DeploymentRequest, who: Principal, key: str | None = None, part: ClusterMembership = NO_CLUSTER
    ) -> AdmittedDeployment:
        """Admit a request.

        Args:
            request: as received.
            who: the authorized requester, who will own the deployment.
            key: idempotency key; the same key, owner and request give the same answer again.
            part: the cluster of its machines.

        Raises:
            Misused: the request is contradictory.
            Refused: by the policy, with the whole decision.
            OverQuota: the requester's machines would be too many or too large.
            NoCapacity: no nodes have capacity for it now.
            Conflict: the key has been used for another request.
            Errors of catalog and signer: the image does not exist, or cannot be verified now.
        """
        if key is not None:
            done = self.store.read(find_ordered, who, key, request, part)
            if done is not None:
                return AdmittedDeployment(*done, new=False)
        proposal = self.propose(request, who, part)
        if not proposal.decision.accepted:
            raise proposal.decision.refusal()
        return self.store.write(admit_request, who, key, proposal, proposal.place or place_machines)

    def try_out(self, request: DeploymentRequest, who: Principal) -> DryRunResult:
        """The result that a request would have now; nothing is stored or reserved. Errors as in `admit`, except refusals."""
        proposal = self.propose(request, who)
        count = request.count if request.placement_options.whole else 1
        fault = self.store.read(quota_fault, who, proposal, count)
        try:
            chosen = self.store.read(
                place_now,
                self.store.overcommit,
                proposal.placement_request,
                proposal.place or place_machines,
                proposal.most,
            )
        except NoCapacity as exc:
            chosen = Placement((), (str(exc),), {})
        return DryRunResult(
            accepted=proposal.decision.accepted,
            image_id=proposal.image_id,
            title=proposal.title,
            decision=proposal.decision.as_json(),
            placement=(fault, *chosen.sentences) if fault else chosen.sentences,
            placed=bool(chosen.nodes) and not fault,
            fetch=dict(chosen.fetch),
            seconds=estimate_boot(self.store.read(recent_boots), chosen.fetch) if chosen.nodes else None,
        )

    def examine(self, request: DeploymentRequest, who: Principal) -> tuple[Manifest, Evaluation]:
        """The image of a request and the policy's evaluation of it; nothing is stored. Errors as in `try_out`."""
        found = resolve_order(request, self.images, self.defaults)
        return found.manifest, self._judge(self.rules(), found, who)

    def _judge(self, rules: RuleSet, found: EvaluationInput, who: Principal) -> Evaluation:
        nodes = sum(node.state is not NodeState.LEFT for node in self.store.read(list_nodes, contents=False))
        case = replace(found, requester=requester_of(who), node="site", withdrawn=self.withdrawn())
        return evaluate(site_wide_rules(rules, nodes), case, self.clock(), self.signatures)

    def propose(self, request: DeploymentRequest, who: Principal, part: ClusterMembership = NO_CLUSTER) -> Proposal:
        """The proposal of a request, with the policy's decision; nothing is stored. Errors as in `try_out`."""
        found = resolve_order(request, self.images, self.defaults)
        manifest, machine = found.manifest, found.request
        rules = self.rules()
        decision = self._judge(rules, found, who).decision
        decision = decision.model_copy(update={"policy": rules.digest or rules.policy.digest})
        proposal = Proposal(
            request=request,
            image_id=manifest.image_id,
            title=manifest.title,
            name=hostname_base(manifest.name),
            placement_request=PlacementRequest(
                count=request.count,
                shape=machine.shape,
                disk=writable_bytes(manifest) + sum(blank.size for blank in machine.blanks),
                architecture=manifest.architecture,
                addresses={str(address): address.size for address in manifest.contents()},
                options=request.placement_options,
            ),
            machine=machine,
            lifetime=found.request.lifetime,
            decision=decision,
            limit=self.quota(who, manifest).check,
            most=rules.policy.limits.machines,
            part=part,
        )
        if self.burst is not None and decision.accepted:
            proposal = replace(proposal, place=self.burst(place_machines, who, manifest, proposal))
        return proposal


def requester_of(who: Principal) -> Requester:
    """A requester in the terms of Cedar rules: groups and roles stay joined, so that a role counts in its own group only."""
    if who.means == LOCAL_OPERATOR.means:
        return Requester()
    return Requester(name=who.identity, vos=(who.vo,) if who.vo else (), roles=tuple(who.groups))


def site_wide_rules(rules: RuleSet, nodes: int) -> RuleSet:
    """A policy's rules for a whole site: the limit of machines on one node, multiplied by the number of nodes."""
    limits = rules.policy.limits
    most = min(limits.machines * max(nodes, 1), 65536)
    changed = rules.policy.model_copy(update={"limits": limits.model_copy(update={"machines": most})})
    return replace(rules, policy=changed)


def writable_bytes(manifest: Manifest) -> int:
    """Bytes that a machine of an image may write on its node: its copy-on-write partitions."""
    return sum(part.size for part in manifest.partitions() if part.access == "copy-on-write")
