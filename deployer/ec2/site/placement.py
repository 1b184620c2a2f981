"""Placing machines at EC2: who may, into which account, as which type, for how much; decided before a machine is admitted.

A request may ask for EC2, or for it where the site's own nodes have no room. Then the pools at EC2 are looked at for the
requester: those of other accounts are left out, and so is their own where the image cannot boot there, no type fits, or
the cap would be passed. Each reason is told by the placement beside those of the site's own nodes (`placement.place`).
What a machine is admitted as is kept with it in the same transaction, and counts against the cap from then on.
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
from deployer.ec2.model.pricing import Charge, check_cap, estimate_cost
from deployer.errors import NoAccount, NoCapacity, OverBudget
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.model.records import CostReservation
from deployer.site.scheduling.placement import EC2, MachineReservation, NodeCapacity, Placement, PlacementRequest
from signer.errors import PartitaError

ACCOUNT: Final = "account"
"""The label by which a pool's node names its account."""

Placer = Callable[[Sequence[NodeCapacity], PlacementRequest], Placement]


@dataclass(frozen=True)
class Ec2Offer:
    """What machines at EC2 would be: the account, the type of each, its volumes in GiB, and seconds."""

    account: Account
    type: InstanceType
    gib: int
    seconds: int

    def usd(self, count: int) -> Decimal:
        """What so many of them are estimated at."""
        return estimate_cost(self.account.prices, self.type.name, self.gib, self.seconds, count)


class CachedAccountInfo:
    """What is known of accounts, for a site: types are asked for once, what is committed is read from the books.

    Args:
        types: asks EC2 for an account's types.
        committed: reads the books, and adds what was promised.
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
    """What somebody would get at EC2.

    Args:
        accounts, known: of the site.
        who: asks.
        manifest: of the image.
        request: as asked.
        cores, memory: of one machine; bytes.
        seconds: that the machines may live.

    Raises:
        NoAccount: nothing, since no rule speaks of them.
        CannotBoot: the image cannot boot there, or no type fits.
        Errors of AWS: it does not say which types there are.
    """
    if (
        who.means == LOCAL_OPERATOR.means
    ):  # the operator has every account: the one that the request names, or the first
        account = accounts.named(request.wishes.labels.get(ACCOUNT, accounts.account[0].name))
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
    """A way to place machines for one request that minds EC2 as well.

    Args:
        place: what chooses among rooms.
        request: as asked.
        known: of the site's accounts.
        offer: see `find_offer`.
    """
    if request.wishes.where == "local":
        return place
    offered: Ec2Offer | PartitaError
    try:  # here, and not where rooms are chosen among: nobody waits for EC2 while the site's memory is held
        offered = offer()
    except PartitaError as exc:
        offered = exc

    def placed(rooms: Sequence[NodeCapacity], ask: PlacementRequest) -> Placement:
        if isinstance(offered, PartitaError):
            return _without(place, rooms, ask, offered)
        mine = [_only(room, offered.account) for room in rooms]
        chosen = place(mine, ask)
        pools = {room.uuid for room in mine if room.kind == EC2}
        count = sum(node in pools for node in chosen.nodes)
        if not count:
            return chosen
        try:
            more = offered.usd(count)
            there = [room for room in rooms if room.kind == EC2 and room.labels.get(ACCOUNT) == offered.account.name]
            promised = promised_charges([one for room in there for one in room.promised])
            check_cap(offered.account.name, offered.account.cap, known.committed(offered.account, promised), more)
        except OverBudget as exc:
            return _without(place, mine, ask, exc)
        machines = "1 machine" if count == 1 else f"{count} machines"
        said = f"{machines} at EC2 as {offered.type.name} with {offered.gib} GiB are estimated at {more} USD until their end."
        promise = CostReservation(instance_type=offered.type.name, gib=offered.gib)
        promises = {node: promise for node in chosen.nodes if node in pools}
        return replace(chosen, sentences=(*chosen.sentences, said), promises=promises)

    return placed


def promised_charges(promised: Sequence[MachineReservation]) -> dict[str, Charge]:
    """What promises cost, by the UUIDs of their machines."""
    return {one.machine: Charge(one.promise.instance_type, one.promise.gib, one.begins, one.until) for one in promised}


def placer_without_accounts(place: Placer, request: DeploymentRequest) -> Placer:
    """A way to place machines of a site without accounts: its own nodes, whatever pools it had before."""
    if request.wishes.where == "local":
        return place
    return lambda rooms, ask: _without(place, rooms, ask, NoAccount("the site has no accounts at EC2 now"))


def _only(room: NodeCapacity, account: Account) -> NodeCapacity:
    """The pools of other accounts are none for this requester."""
    if room.kind != EC2 or room.labels.get(ACCOUNT) == account.name:
        return room
    return replace(room, ready=False, problem="the site's rules lead to another account")


def _without(place: Placer, rooms: Sequence[NodeCapacity], ask: PlacementRequest, why: PartitaError) -> Placement:
    """Place on the site's own nodes alone; where that was not asked for, or is not enough, say why EC2 is left out.

    Raises:
        What kept EC2 out, where the request is for EC2 alone.
    """
    if ask.wishes.where == "ec2":
        raise why
    left = [replace(room, ready=False, problem=str(why)) if room.kind == EC2 else room for room in rooms]
    try:
        return place(left, ask)
    except NoCapacity as exc:
        raise NoCapacity(f"{exc}; and EC2 is left out: {why}") from exc
