"""Placing machines at EC2: permission, account, type and cost are decided before a machine is admitted.

A request may ask for EC2, or for it where the site's own nodes have no capacity. The requester's account is then considered: pools
of other accounts are left out, and so is the requester's own where the image cannot boot there, no type fits, or the cap would
be passed. The placement reports each reason beside those of the site's own nodes (`deployer.site.scheduling.placement`). Type
and volumes of an admitted machine are stored with it in the same transaction, and count against the cap from then on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from catalog.image.manifest import Manifest
from deployer.ec2.model.accounts import Account, Accounts
from deployer.ec2.model.boot_mapping import add_blanks, map_boot
from deployer.ec2.model.hibernation import add_memory_space, hibernation_obstacle
from deployer.ec2.model.instance_types import InstanceType, choose_type
from deployer.ec2.model.pricing import Charge, check_within, estimate_cost
from deployer.errors import NoAccount, NoCapacity, OverBudget
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.model.records import CostReservation
from deployer.site.scheduling.placement import EC2, MachineReservation, NodeCapacity, Placement, PlacementRequest
from signer.errors import PartitaError

ACCOUNT: Final = "account"
"""The label of a pool's node that names its account."""

Placer = Callable[[Sequence[NodeCapacity], PlacementRequest], Placement]


@dataclass(frozen=True)
class Ec2Offer:
    """An offer of machines at EC2: the account, the type of each, its volumes in GiB, and the lifetime in seconds."""

    account: Account
    type: InstanceType
    gib: int
    seconds: int

    def usd(self, count: int) -> Decimal:
        """The estimate for `count` machines."""
        return estimate_cost(self.account.prices, self.type.name, self.gib, self.seconds, count)


class CachedAccountInfo:
    """Facts about the accounts of a site: types are requested once, committed costs are read from the books.

    Args:
        types: requests an account's types from EC2.
        committed: the committed cost of an account with the promised charges, by machine, in USD.
    """

    def __init__(
        self,
        types: Callable[[Account], Sequence[InstanceType]],
        committed: Callable[[Account, Mapping[str, Charge]], Decimal],
    ) -> None:
        self._ask, self.committed = types, committed
        self._types: Mapping[tuple[str, tuple[str, ...]], Sequence[InstanceType]] = {}

    def types(self, account: Account) -> Sequence[InstanceType]:
        """The instance types of an account."""
        key = (account.name, account.instance_types)
        if key not in self._types:
            self._types = {**self._types, key: self._ask(account)}
        return self._types[key]


def find_offer(
    accounts: Accounts,
    known: CachedAccountInfo,
    who: Principal,
    manifest: Manifest,
    request: DeploymentRequest,
    cores: int,
    memory: int,
    seconds: int,
) -> Ec2Offer:
    """The offer of EC2 for a request.

    Args:
        accounts, known: of the site.
        who: the requester.
        manifest: of the image.
        request: as received.
        cores, memory: of one machine; memory in bytes.
        seconds: the lifetime of the machines.

    Raises:
        NoAccount: no rule matches the requester.
        CannotBoot: the image cannot boot there, or no type fits.
        Errors of AWS: the types are unknown.
    """
    # The operator may use every account: the one that the request names, or the first.
    if who.means == LOCAL_OPERATOR.means:
        account = accounts.named(request.placement_options.labels.get(ACCOUNT, accounts.account[0].name))
    else:
        account = accounts.of(who)
    found = map_boot(manifest)
    kind = choose_type(known.types(account), account.prices, cores, memory, found.architecture, found.boot_mode)
    volumes = add_blanks(found, request.blanks)
    if not hibernation_obstacle(account, kind, found):
        volumes = add_memory_space(volumes, kind.memory)
    return Ec2Offer(account, kind, sum(volume.size for volume in volumes), seconds)


def burst_placer(
    place: Placer, request: DeploymentRequest, known: CachedAccountInfo, offer: Callable[[], Ec2Offer]
) -> Placer:
    """A placer for one request that considers EC2 as well.

    Args:
        place: chooses among the nodes.
        request: as received.
        known: of the site's accounts.
        offer: see `find_offer`.
    """
    if request.placement_options.where == "local":
        return place
    offered: Ec2Offer | PartitaError
    try:  # here, and not in `placed`: no request to EC2 while the site's store is locked
        offered = offer()
    except PartitaError as exc:
        offered = exc

    def placed(nodes: Sequence[NodeCapacity], placement_request: PlacementRequest) -> Placement:
        if isinstance(offered, PartitaError):
            return _without(place, nodes, placement_request, offered)
        mine = [_only(node, offered.account) for node in nodes]
        chosen = place(mine, placement_request)
        pools = {node.uuid for node in mine if node.kind == EC2}
        count = sum(node in pools for node in chosen.nodes)
        if not count:
            return chosen
        try:
            more = offered.usd(count)
            there = [node for node in nodes if node.kind == EC2 and node.labels.get(ACCOUNT) == offered.account.name]
            promised = promised_charges([one for node in there for one in node.promised])
            before = known.committed(offered.account, promised)
            check_within(offered.account.name, offered.account.cap, before, before + more)
        except OverBudget as exc:
            return _without(place, mine, placement_request, exc)
        machines = "1 machine" if count == 1 else f"{count} machines"
        sentence = f"{machines} at EC2 as {offered.type.name} with {offered.gib} GiB are estimated at {more} USD until their end."
        promise = CostReservation(instance_type=offered.type.name, gib=offered.gib)
        promises = {node: promise for node in chosen.nodes if node in pools}
        return replace(chosen, sentences=(*chosen.sentences, sentence), promises=promises)

    return placed


def promised_charges(promised: Sequence[MachineReservation]) -> dict[str, Charge]:
    """The charges of promised machines, by their UUIDs."""
    return {
        one.machine: Charge(one.reserved_cost.instance_type, one.reserved_cost.gib, one.begins, one.expires)
        for one in promised
    }


def placer_without_accounts(place: Placer, request: DeploymentRequest) -> Placer:
    """A placer of a site without accounts: on its own nodes, whatever pools it had before."""
    if request.placement_options.where == "local":
        return place
    return lambda nodes, placement_request: _without(
        place, nodes, placement_request, NoAccount("the site has no accounts at EC2 now")
    )


def _only(node: NodeCapacity, account: Account) -> NodeCapacity:
    """A node, not ready if it is the pool of another account than the requester's."""
    if node.kind != EC2 or node.labels.get(ACCOUNT) == account.name:
        return node
    return replace(node, ready=False, problem="the site's rules give the requester another account")


def _without(
    place: Placer, nodes: Sequence[NodeCapacity], placement_request: PlacementRequest, why: PartitaError
) -> Placement:
    """Place on the site's own nodes alone; if they have no capacity, say why EC2 is left out.

    Raises:
        The error `why`, if the request is for EC2 alone.
    """
    if placement_request.options.where == "ec2":
        raise why
    left = [replace(node, ready=False, problem=str(why)) if node.kind == EC2 else node for node in nodes]
    try:
        return place(left, placement_request)
    except NoCapacity as exc:
        raise NoCapacity(f"{exc}; and EC2 is left out: {why}") from exc
