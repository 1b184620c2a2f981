"""Where machines run: a pool of nodes with capacity, and a request, to a node for each machine and the reasons.

Pure, so that the same question has the same answer every time and can be explained later. Preference, in this order:

1. a request that is spread takes the nodes that got the fewest of its own machines first (that is what it asked for);
2. the nodes that hold most bytes of the image's contents, since nothing has to reach them;
3. the nodes whose neighbours (label `site`) hold most, since what they lack comes from near by;
4. packed: the fullest node that still fits. Spread: the emptiest. How full a node is counts in machines of this very
   request, by whichever of cores, memory and disk runs out first;
5. the name.

A request that is packed fills a node before it goes on to the next. What has no capacity on the site's own nodes goes to EC2
where the request says so. Contents take nothing of a node's capacity for disks: the node's cache has a budget of its own.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from deployer.errors import NoCapacity
from deployer.machine.shape import MachineShape
from deployer.protocol.deployment_request import PlacementOptions
from deployer.site.model.records import CostReservation
from signer.runtime.terminal import format_size

SITE = "site"
"""The label whose equal values mean that nodes are near each other."""

EC2 = "ec2"
"""The kind of a pool at EC2; every other kind is one of the site's own nodes."""

MAX_NODES_EXPLAINED = 40
"""Nodes that are explained one by one, chosen and left out; more are summed up, since an explanation of 1000 lines is not read."""

MAX_NAMED = 3
"""Nodes that are named in such a sum."""


@dataclass(frozen=True, slots=True)
class MachineReservation:
    """What was promised to a machine at EC2 that has not ended: its UUID, as what, and from when until when."""

    machine: str
    reserved_cost: CostReservation
    begins: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """A node as placement sees it.

    Attributes:
        uuid, name: its identity, and what people call it.
        cores, memory, disk: free now, with overcommit applied and reservations taken off; memory and disk in bytes.
        labels: as its operator set them.
        cached: addresses of contents that are whole there.
        machines: that it has now.
        kind: "libvirt", or "ec2" for a pool at EC2, whose capacity is what its cap leaves.
        architecture: of its machines; empty at EC2: any.
        ready: whether it takes machines at all.
        problem: why it does not, if known, as the end of a sentence: "it is draining".
        promised: of a pool at EC2, what its machines were admitted as.
    """

    uuid: str
    name: str
    cores: int
    memory: int
    disk: int
    labels: Mapping[str, str] = field(default_factory=dict)
    cached: frozenset[str] = frozenset()
    machines: int = 0
    kind: str = "libvirt"
    architecture: str = "x86_64"
    ready: bool = True
    problem: str = ""
    promised: tuple[MachineReservation, ...] = ()


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """What is to be placed: `count` machines, all alike.

    Attributes:
        count: at least 1.
        shape: of one machine; its maximum is what takes up capacity.
        disk: bytes that one machine may come to write.
        architecture: of the image.
        addresses: each content of the image and its size in bytes.
        options: of the request.
    """

    count: int
    shape: MachineShape
    disk: int
    architecture: str
    addresses: Mapping[str, int] = field(default_factory=dict)
    options: PlacementOptions = field(default_factory=PlacementOptions)

    @property
    def machine(self) -> str:
        """What one machine takes, for people."""
        return _amounts(self.shape.max_cores, self.shape.max_memory, self.disk)


@dataclass(frozen=True, slots=True)
class Placement:
    """An answer.

    Attributes:
        nodes: the UUID of a node for each machine; fewer than asked only where the request allows that.
        sentences: why, node by node; also why the others were left out.
        fetch: bytes that each chosen node has to fetch before its first machine boots.
        promises: what each machine on a chosen pool at EC2 is admitted as.
    """

    nodes: tuple[str, ...]
    sentences: tuple[str, ...]
    fetch: Mapping[str, int]
    promises: Mapping[str, CostReservation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A node that takes at least one machine."""

    node: NodeCapacity
    fits: int
    held: int
    near: int


def place_machines(nodes: Sequence[NodeCapacity], ask: PlacementRequest) -> Placement:
    """Choose a node for each machine.

    Raises:
        NoCapacity: the machines do not fit; the message has how many would, what is lacking, and which node comes nearest.
    """
    near = _near(nodes, ask.addresses)
    fitting, left = list[_Fitting](), list[tuple[NodeCapacity, str, str]]()
    for node in nodes:
        kind, why = omission(node, ask)
        if why:
            left.append((node, kind, why))
        else:
            held = _bytes(node.cached, ask.addresses)
            fitting.append(_Fitting(node, _fits(node, ask), held, max(held, near.get(node.labels.get(SITE, ""), 0))))
    own = [one for one in fitting if one.node.kind != EC2]
    chosen = _choose(own, ask, ask.count)
    at_home = sum(number for _, number in chosen)
    if at_home < ask.count:
        chosen += _choose([one for one in fitting if one.node.kind == EC2], ask, ask.count - at_home)
    found = sum(number for _, number in chosen)
    if found < (ask.count if ask.options.whole else 1):
        raise NoCapacity(_lacking(found, left, ask))
    total = sum(ask.addresses.values())
    return Placement(
        tuple(one.node.uuid for one, number in chosen for _ in range(number)),
        tuple(_explain(chosen, fitting, left, at_home, found, ask)),
        {one.node.uuid: total - one.held for one, _ in chosen},
    )


def _bytes(cached: Container[str], addresses: Mapping[str, int]) -> int:
    return sum(count for address, count in addresses.items() if address in cached)


def _near(nodes: Sequence[NodeCapacity], addresses: Mapping[str, int]) -> dict[str, int]:
    """For each value of the label `site`, the bytes of the contents that any node there holds."""
    there = defaultdict[str, set[str]](set)
    for node in nodes:
        if site := node.labels.get(SITE):
            there[site].update(address for address in addresses if address in node.cached)
    return {site: _bytes(cached, addresses) for site, cached in there.items()}


def _fits(node: NodeCapacity, ask: PlacementRequest) -> int:
    """How many of the machines a node takes; whatever a machine needs none of is no bound."""
    return min((free // each for free, each in _amounts_of(node, ask) if each > 0), default=ask.count)


def omission(node: NodeCapacity, ask: PlacementRequest) -> tuple[str, str]:
    """Why a node gets none of the machines: the kind of reason, and the reason; two empty texts if it may."""
    if (node.kind == EC2 and ask.options.where == "local") or (node.kind != EC2 and ask.options.where == EC2):
        wanted = "EC2" if node.kind != EC2 else "the site's own nodes"
        return f"the request is for {wanted}", f"the request is for {wanted}"
    if not node.ready:
        return "not taking machines", node.problem or "it takes no machines now"
    if node.architecture != ask.architecture and (node.architecture or node.kind != EC2):
        other = f"the image is for {ask.architecture}"
        return other, f"it runs {node.architecture or 'an unknown architecture'}, and {other}"
    for name, value in sorted(ask.options.labels.items()):
        if node.labels.get(name) != value:
            has = f"says {node.labels[name]}" if name in node.labels else "is not set there"
            return f"the label {name}={value}", f"the label {name} {has}, and the request is for {value}"
    short = _short(node, ask)
    return (f"too little {short[0][0]}", _enumerate([text for _, text in short])) if short else ("", "")


def _short(node: NodeCapacity, ask: PlacementRequest) -> list[tuple[str, str]]:
    """What a node has too little of for one machine, and how little; what a machine needs none of may be overdrawn."""
    short = []
    for name, (free, each) in zip(("cores", "memory", "disk"), _amounts_of(node, ask), strict=True):
        if free < each and each:
            text = str if name == "cores" else format_size
            short.append((name, f"it has {text(max(free, 0))} of {text(each)} {name} free"))
    return short


def _choose(fitting: list[_Fitting], ask: PlacementRequest, count: int) -> list[tuple[_Fitting, int]]:
    """Nodes and how many machines each gets, at most `count` in all, the best first."""
    chosen = list[tuple[_Fitting, int]]()
    if ask.options.strategy == "pack":
        for one in sorted(fitting, key=lambda it: (-it.held, -it.near, it.fits, it.node.name, it.node.uuid)):
            if (number := min(one.fits, count)) > 0:
                chosen.append((one, number))
                count -= number
        return chosen
    heap = [
        ((0, -one.held, -one.near, -one.fits, one.node.name, one.node.uuid), index) for index, one in enumerate(fitting)
    ]
    heapq.heapify(heap)
    given = Counter[int]()
    while heap and count > 0:
        (mine, held, near, left, name, uuid), index = heap[0]
        given[index] += 1
        count -= 1
        if left + 1 < 0:
            heapq.heapreplace(heap, ((mine + 1, held, near, left + 1, name, uuid), index))
        else:
            heapq.heappop(heap)
    return [(fitting[index], number) for index, number in given.items()]


def _explain(
    chosen: list[tuple[_Fitting, int]],
    fitting: list[_Fitting],
    left: list[tuple[NodeCapacity, str, str]],
    at_home: int,
    found: int,
    ask: PlacementRequest,
) -> Iterable[str]:
    total = sum(ask.addresses.values())
    if found < ask.count:
        yield f"There is capacity for {found} of {ask.count} machines, and the request takes what there is."
    if ask.options.where == "local-then-ec2":
        if found > at_home:
            yield f"The site's own nodes have capacity for {at_home} of {ask.count} machines; the rest goes to EC2."
        else:
            yield "The site's own nodes have capacity for all machines; none goes to EC2."
    for one, number in chosen[:MAX_NODES_EXPLAINED]:
        yield f"{one.node.name} gets {_machines(number)}: {_why(one, total, ask)}."
    if more := chosen[MAX_NODES_EXPLAINED:]:
        yield f"{len(more)} more nodes get {_machines(sum(number for _, number in more))}, for the same reasons."
    taken = {one.node.uuid for one, _ in chosen}
    enough = [
        (one.node, "others come first", f"it has capacity for {_machines(one.fits)}, and others come first")
        for one in fitting
        if one.node.uuid not in taken
    ]
    yield from _omitted(sorted([*left, *enough], key=lambda it: (it[0].name, it[0].uuid)))


def _omitted(left: list[tuple[NodeCapacity, str, str]]) -> Iterable[str]:
    if len(left) <= MAX_NODES_EXPLAINED:
        for node, _, why in left:
            yield f"{node.name} is left out: {why}."
        return
    kinds = defaultdict[str, list[str]](list)
    for node, kind, _ in left:
        kinds[kind].append(node.name)
    for kind, names in sorted(kinds.items()):
        shown = ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
        yield f"{_nodes(len(names))} left out ({kind}): {shown}."


def _why(one: _Fitting, total: int, ask: PlacementRequest) -> str:
    if not total:
        holds = "the image has no contents to fetch"
    elif one.held == total:
        holds = "it holds all contents"
    elif one.held:
        holds = f"it holds {format_size(one.held)} of {format_size(total)} of the contents"
    elif one.near:
        holds = f"it holds no contents, its neighbours hold {format_size(one.near)} of {format_size(total)}"
    else:
        holds = f"it holds no contents and fetches {format_size(total)}"
    order = "the fullest that fits" if ask.options.strategy == "pack" else "the emptiest"
    return f"{holds}; among its like it is {order}, with capacity for {_machines(one.fits)}"


def _lacking(found: int, left: list[tuple[NodeCapacity, str, str]], ask: PlacementRequest) -> str:
    """The sentence of a refusal: how many fit, what each machine takes, and the node that comes nearest."""
    where = {"local": "on the site's own nodes", "ec2": "on EC2", "local-then-ec2": "here or on EC2"}[ask.options.where]
    message = f"there is capacity for {found} of {_machines(ask.count)} of {ask.machine} {where}"
    # Nearest: of those that lack capacity only, the one that has the largest share of what it lacks most.
    lacking = [node for node, kind, _ in left if kind.startswith("too little")]
    nearest = min(lacking, key=lambda node: (-_share(node, ask), node.name, node.uuid), default=None)
    if found:
        message += "; ask for fewer, or let the request take what there is (whole = false)"
    elif nearest is not None:
        had = _amounts(max(nearest.cores, 0), max(nearest.memory, 0), max(nearest.disk, 0))
        message += f"; the nearest is {nearest.name} with {had} free; ask for smaller machines, or later"
    elif left:
        kinds = Counter(kind for _, kind, _ in left)
        message += "; left out: " + _enumerate([f"{_nodes(count)} ({kind})" for kind, count in sorted(kinds.items())])
    else:
        message += "; no node has joined"
    return message


def _share(node: NodeCapacity, ask: PlacementRequest) -> float:
    return min(free / each for free, each in _amounts_of(node, ask) if each > 0)


def _amounts_of(node: NodeCapacity, ask: PlacementRequest) -> tuple[tuple[int, int], ...]:
    """What a node has free of cores, memory and disk, and what one machine takes of it."""
    return (node.cores, ask.shape.max_cores), (node.memory, ask.shape.max_memory), (node.disk, ask.disk)


def _amounts(cores: int, memory: int, disk: int) -> str:
    return f"{cores} core{'' if cores == 1 else 's'}, {format_size(memory)} memory and {format_size(disk)} disk"


def _machines(count: int) -> str:
    return "1 machine" if count == 1 else f"{count} machines"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _enumerate(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


Placer = Callable[[Sequence[NodeCapacity], PlacementRequest], Placement]
"""Chooses a node for each machine, or raises NoCapacity, as `place_machines` does. Pure: called within a transaction."""


def place_without(place: Placer, excluded: Callable[[NodeCapacity], bool], why: str) -> Placer:
    """A placer that leaves nodes out, for a reason."""

    def placed(nodes: Sequence[NodeCapacity], ask: PlacementRequest) -> Placement:
        return place([replace(node, ready=False, problem=why) if excluded(node) else node for node in nodes], ask)

    return placed


def place_on_site(place: Placer) -> Placer:
    """The same for machines that lost their place: they stay on the site's own nodes, since no requester is there
    whose account at EC2 they might use."""
    return place_without(place, lambda node: node.kind == EC2, "a machine that lost its place is not sent to EC2")
