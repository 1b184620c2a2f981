"""A dry run of a cluster: each role's decision, the placement of all members together, and when the whole would be ready.

Pure but for the values that it is given. Room and quotas are taken as admission takes them, role by role in the document's
order, so what fits here would be admitted now; nothing is kept, and nothing reserved.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from statistics import median

from deployer.errors import NoCapacity
from deployer.site.model.cluster import ClusterDocument
from deployer.site.model.quota import ResourceUsage
from deployer.site.scheduling.boot_estimate import BootHistory, ReadinessSample, estimate_boot
from deployer.site.scheduling.node_capacity import cap_machines
from deployer.site.scheduling.placement import NodeCapacity, Placement, Placer
from deployer.site.scheduling.proposal import Proposal
from deployer.site.schema.clusters import ClusterDryRun, RoleDryRun


@dataclass(frozen=True, slots=True)
class _RolePlacement:
    """A role's members: those that there is capacity for, where, and why there or why not."""

    nodes: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    fault: str = ""


def dry_run_cluster(
    document: ClusterDocument,
    proposed: Mapping[str, Proposal],
    nodes: Sequence[NodeCapacity],
    place: Placer,
    usage: tuple[ResourceUsage, ResourceUsage],
    past: BootHistory,
    problems: Sequence[str] = (),
) -> ClusterDryRun:
    """Dry-run a cluster.

    Args:
        document: the cluster.
        proposed: each role's, asked for the members whose capacity is reserved at once.
        nodes: as they are now, with what they cache of all the roles' images.
        place: chooses nodes where a proposal has no way of its own.
        usage: what the owner has now, and all of their VO.
        past: by which it is estimated.
        problems: what else is in the way.
    """
    found = _place_roles(document, proposed, {node.uuid: node for node in nodes}, place, usage)
    steps = _steps(document)
    order = [role for step in steps for role in step]
    fetch = _fetch(order, proposed, found, {node.uuid: node.cached for node in nodes})
    times = _times(document, order, proposed, found, fetch, past)
    roles = {}
    for name, role in document.roles.items():
        one, placed = proposed[name], found[name]
        begins, ready = times[name]
        roles[name] = RoleDryRun(
            accepted=one.decision.accepted,
            image_id=one.image_id,
            title=one.title,
            decision=one.decision.as_json(),
            count=role.count,
            quorum=document.initial_count(name),
            placed=len(placed.nodes),
            nodes=dict(Counter(placed.nodes)),
            placement=placed.sentences,
            problem=placed.fault,
            begins=begins,
            ready=ready,
        )
    every = [ready for _, ready in times.values()]
    known = [ready for ready in every if ready is not None]
    total = Counter[str]()
    for there in fetch.values():
        total.update(there)
    return ClusterDryRun(
        name=document.name,
        accepted=all(role.accepted for role in roles.values()),
        placed=all(role.placed >= role.quorum and not role.problem for role in roles.values()),
        problems=tuple(problems),
        order=steps,
        roles=roles,
        fetch=dict(total),
        seconds=round(max(known), 1) if len(known) == len(every) else None,
    )


def _place_roles(
    document: ClusterDocument,
    proposed: Mapping[str, Proposal],
    nodes: dict[str, NodeCapacity],
    place: Placer,
    usage: tuple[ResourceUsage, ResourceUsage],
) -> dict[str, _RolePlacement]:
    """First all roles' members that are needed, as admission does; then, as far as there is capacity, the rest."""
    found: dict[str, _RolePlacement] = {}
    mine, together = usage
    for name in document.roles:
        proposal, count = proposed[name], document.initial_count(name)
        more = proposal.usage(count)
        fault = proposal.limit(mine, more, together) if proposal.limit is not None else None
        try:
            chosen = _place(proposal, count, nodes, place, whole=True)
        except NoCapacity as exc:
            found[name] = _RolePlacement((), (str(exc),), fault or str(exc))
            continue
        found[name] = _RolePlacement(chosen.nodes, chosen.sentences, fault or "")
        mine, together = mine + more, together + more
        _taken(nodes, proposal, chosen)
    for name, role in document.roles.items():
        more_wanted = role.count - document.initial_count(name)
        if more_wanted and not found[name].fault:
            proposal = proposed[name]
            try:
                chosen = _place(proposal, more_wanted, nodes, place, whole=False)
            except NoCapacity:
                continue
            before = found[name]
            found[name] = _RolePlacement((*before.nodes, *chosen.nodes), (*before.sentences, *chosen.sentences))
            _taken(nodes, proposal, chosen)
    return found


def _place(
    proposal: Proposal, count: int, nodes: Mapping[str, NodeCapacity], place: Placer, *, whole: bool
) -> Placement:
    ask = proposal.placement_request
    ask = replace(ask, count=count, options=ask.options.model_copy(update={"whole": whole}))
    return (proposal.place or place)(
        [cap_machines(node, proposal.most, ask.shape.max_cores) for node in nodes.values()], ask
    )


def _taken(nodes: dict[str, NodeCapacity], proposal: Proposal, chosen: Placement) -> None:
    ask = proposal.placement_request
    for uuid, number in Counter(chosen.nodes).items():
        node = nodes[uuid]
        nodes[uuid] = replace(
            node,
            cores=node.cores - number * ask.shape.max_cores,
            memory=node.memory - number * ask.shape.max_memory,
            disk=node.disk - number * ask.disk,
            machines=node.machines + number,
        )


def _steps(document: ClusterDocument) -> tuple[tuple[str, ...], ...]:
    """Roles that start together, each step after those that it waits for."""
    sorter = TopologicalSorter({role: document.before(role) for role in document.roles})
    sorter.prepare()
    steps = list[tuple[str, ...]]()
    while sorter.is_active():
        ready = sorter.get_ready()
        steps.append(tuple(role for role in document.roles if role in ready))
        sorter.done(*ready)
    return tuple(steps)


def _fetch(
    order: Sequence[str],
    proposed: Mapping[str, Proposal],
    found: Mapping[str, _RolePlacement],
    cached: Mapping[str, frozenset[str]],
) -> dict[str, dict[str, int]]:
    """For each role, the bytes that each of its nodes fetches: what an earlier role brought there is there already."""
    there = {uuid: set(held) for uuid, held in cached.items()}
    fetch: dict[str, dict[str, int]] = {}
    for role in order:
        addresses = proposed[role].placement_request.addresses
        fetch[role] = {}
        for uuid in dict.fromkeys(found[role].nodes):
            fetch[role][uuid] = sum(size for address, size in addresses.items() if address not in there[uuid])
            there[uuid] |= set(addresses)
    return fetch


def _times(
    document: ClusterDocument,
    order: Sequence[str],
    proposed: Mapping[str, Proposal],
    found: Mapping[str, _RolePlacement],
    fetch: Mapping[str, Mapping[str, int]],
    past: BootHistory,
) -> dict[str, tuple[float | None, float | None]]:
    """For each role, seconds until its first member is started, and until the last one is ready; None: nothing is known."""
    times: dict[str, tuple[float | None, float | None]] = {}
    runs: dict[str, float | None] = {}
    for name in order:
        role = document.roles[name]
        waits = [(times[one][1] if role.starts == "ready" else runs[one]) for one in document.before(name)]
        begins = _latest(waits)
        boot = estimate_boot(past.boots, fetch[name]) if found[name].nodes else None
        settles = _settles(proposed[name].image_id, past.settled) if role.ready == "reported" else 0.0
        runs[name] = None if begins is None or boot is None else round(begins + boot, 1)
        run = runs[name]
        times[name] = begins, None if run is None or settles is None else round(run + settles, 1)
    return times


def _latest(times: Sequence[float | None]) -> float | None:
    known = [one for one in times if one is not None]
    return None if len(known) < len(times) else max(known, default=0.0)


def _settles(image_id: str, settled: Sequence[ReadinessSample]) -> float | None:
    """Seconds from running to ready: of the image's own guests, else of any."""
    own = [one.seconds for one in settled if one.image_id == image_id]
    every = own or [one.seconds for one in settled]
    return median(every) if every else None
