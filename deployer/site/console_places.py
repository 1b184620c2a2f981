"""The console's pages of nodes, what they cache, and of clusters."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from catalog.errors import CatalogError
from deployer.machine import State
from deployer.site.access import narrowed
from deployer.site.api_nodes import STATES
from deployer.site.api_routes import AFTER
from deployer.site.cluster import Cluster, ClusterDocument
from deployer.site.cluster_api import by, find_cluster, summary, view
from deployer.site.cluster_wire import Replacing, Scaling
from deployer.site.console_story import story
from deployer.site.pages import PREFIX
from deployer.site.records import Filter, NodeState, SiteMachine, SiteNode
from deployer.site.rights import Action, Denied, may
from deployer.site.visiting import Console, Page, Visit, back, following_page, reason_of
from signer.documents import validate

ROWS = 50
"""Rows of a page."""

MOST_IMAGES = 200
"""Images in which the contents of a cache are looked for."""


@dataclass(frozen=True, order=True)
class Part:
    """What a content is: a part of that image (VO/NAME@VERSION), called so there."""

    image: str
    label: str


Parts = Mapping[str, Sequence[Part]]
"""What contents are, by their addresses."""


@dataclass(frozen=True)
class Held:
    """A content, what it is a part of as far as that is known, and the nodes that have it whole."""

    address: str
    size: int
    parts: tuple[Part, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Arriving:
    """A machine whose contents come to its node, and the nodes that have any of them whole: its swarm's other seeds."""

    machine: SiteMachine
    node: str
    feeders: tuple[str, ...]


def place_pages(console: Console) -> APIRouter:
    """Nodes and clusters."""
    routes = APIRouter(prefix=PREFIX, route_class=Page)
    for part in (_nodes, _clusters, _cluster_actions):
        routes.include_router(part(console))
    return routes


def _nodes(console: Console) -> APIRouter:
    routes = APIRouter(route_class=Page)
    site, access = console.site, console.site.access
    visiting = Annotated[Visit, Depends(console.visit)]

    @routes.get("/nodes")
    def nodes(visit: visiting) -> Response:
        access.demand(visit.who, Action.NODES)
        found = [one for one in site.store.nodes() if one.state is not NodeState.LEFT]
        parts, fault = _parts(console)
        return console.show(
            visit,
            "nodes.html",
            nodes=found,
            held=holdings(found, parts),
            arriving=_arriving(console, visit, found, parts),
            fault=fault,
        )

    @routes.get("/nodes/{node}")
    def node(visit: visiting, node: str) -> Response:
        access.demand(visit.who, Action.NODES)
        found = site.store.find_node(node)
        parts, fault = _parts(console)
        reads = access.reach(visit.who)
        wanted = narrowed(Filter(node=found.uuid, states=tuple(one for one in State if not one.final)), reads)
        return console.show(
            visit,
            "node.html",
            node=found,
            held=holdings([found], parts),
            fault=fault,
            machines=site.store.machines(wanted, ROWS)[0] if wanted else (),
            events=story(site, subject=found.uuid)[::-1][:ROWS],
            nodes={found.uuid: found.name},
        )

    @routes.post("/nodes/{node}/{verb}")
    async def act(request: Request, node: str, verb: Literal["drain", "undrain", "remove"]) -> Response:
        visit, fields = await console.sent(request)
        reason = reason_of(fields)

        def work() -> SiteNode:
            access.demand(visit.who, Action.MANAGE_NODES)
            return site.changing.set_node(site.store.find_node(node), STATES[verb], visit.who, reason)

        return back(f"/nodes/{(await run_in_threadpool(work)).uuid}")

    return routes


def _clusters(console: Console) -> APIRouter:
    routes = APIRouter(route_class=Page)
    site, access = console.site, console.site.access
    visiting = Annotated[Visit, Depends(console.visit)]

    @routes.get("/clusters")
    def clusters(visit: visiting, after: AFTER = None) -> Response:
        access.demand(visit.who, Action.READ)
        wanted = narrowed(Filter(), access.reach(visit.who))
        items, following = site.clusters.page(wanted, ROWS, after) if wanted else ((), None)
        return console.show(
            visit,
            "clusters.html",
            clusters=[summary(one) for one in items],
            next=following_page(visit.request, following),
        )

    @routes.get("/clusters/{cluster}")
    def cluster(visit: visiting, cluster: str) -> Response:
        found = find_cluster(site, visit.who, cluster, Action.READ)
        shown = view(found, site.clusters.members(found.uuid), site.now(), visit.who)
        rights = access.rights()
        may_do = {
            one.value
            for one in (Action.MODIFY, Action.CANCEL)
            if found.active and not isinstance(may(rights, visit.who, one, found.owner), Denied)
        }
        return console.show(
            visit,
            "cluster.html",
            cluster=shown,
            ranks=ranks(shown.document),
            may_do=may_do,
            events=story(site, subject=found.uuid)[::-1][:ROWS],
        )

    return routes


def _cluster_actions(console: Console) -> APIRouter:
    routes = APIRouter(route_class=Page)
    site, keeper = console.site, console.site.clusters

    @routes.post("/clusters/{cluster}/scale")
    async def scale(request: Request, cluster: str) -> Response:
        visit, fields = await console.sent(request)
        count = fields.get("count", "")
        given = {"role": fields.get("role", ""), "count": int(count) if count.isdecimal() else -1}
        wanted = validate(Scaling, given | {"reason": reason_of(fields)}, "scaling")

        def work() -> Cluster:
            one = find_cluster(site, visit.who, cluster, Action.MODIFY)
            if wanted.count > one.state.counts.get(wanted.role, 0):
                site.access.demand(visit.who, Action.DEPLOY)
            return keeper.scale(one.uuid, wanted.role, wanted.count, by(visit.who, wanted.reason))

        return back(f"/clusters/{(await run_in_threadpool(work)).uuid}")

    @routes.post("/clusters/{cluster}/replace")
    async def replace(request: Request, cluster: str) -> Response:
        visit, fields = await console.sent(request)
        given = {"member": fields.get("member", ""), "reason": reason_of(fields)}
        wanted = validate(Replacing, given, "replacing")

        def work() -> Cluster:
            one = find_cluster(site, visit.who, cluster, Action.MODIFY)
            return keeper.replace(one.uuid, wanted.member, by(visit.who, wanted.reason))

        return back(f"/clusters/{(await run_in_threadpool(work)).uuid}")

    @routes.post("/clusters/{cluster}/destroy")
    async def destroy(request: Request, cluster: str) -> Response:
        visit, fields = await console.sent(request)
        reason = by(visit.who, reason_of(fields))

        def work() -> Cluster:
            return keeper.end(find_cluster(site, visit.who, cluster, Action.CANCEL).uuid, reason)

        return back(f"/clusters/{(await run_in_threadpool(work)).uuid}")

    return routes


def ranks(document: ClusterDocument) -> list[list[str]]:
    """The roles in the order in which they start: each rank needs what those before it provide, and nothing later."""
    left, found = sorted(document.roles), list[list[str]]()
    done = set[str]()
    while left:
        rank = [name for name in left if set(document.before(name)) <= done]
        found.append(rank)
        done |= set(rank)
        left = [name for name in left if name not in done]
    return found


def holdings(nodes: Sequence[SiteNode], parts: Parts) -> list[Held]:
    """What the nodes have in their caches: what most of them have first."""
    holders = defaultdict[str, list[str]](list)
    for node in nodes:
        for address in node.cached:
            holders[address].append(node.name)
    found = [
        Held(address, _size(address), tuple(parts.get(address, ())), tuple(sorted(names)))
        for address, names in holders.items()
    ]
    return sorted(found, key=lambda one: (-len(one.nodes), one.parts or (Part("~", ""),), one.address))


def _size(address: str) -> int:
    """As the address says (ROOT-SIZE)."""
    size = address.rpartition("-")[2]
    return int(size) if size.isdecimal() else 0


def _parts(console: Console) -> tuple[Parts, str]:
    """What contents are, by the images of the catalog; and why that is not known, if it is not."""
    found = defaultdict[str, list[Part]](list)
    catalog = console.site.catalog
    try:
        for entry in catalog.listed(MOST_IMAGES):
            manifest = catalog.manifest(entry.image_id)
            labels = {one.content: one.label for one in manifest.partitions() if one.content is not None}
            for address in manifest.blobs():
                found[str(address)].append(Part(manifest.title, labels.get(address, "boot")))
    except CatalogError as exc:
        return found, str(exc)
    return found, ""


def _arriving(console: Console, visit: Visit, nodes: Collection[SiteNode], parts: Parts) -> list[Arriving]:
    wanted = narrowed(Filter(states=(State.STAGING,)), console.site.access.reach(visit.who))
    called = {one.uuid: one.name for one in nodes}
    found = []
    for machine in console.site.store.machines(wanted, ROWS)[0] if wanted else ():
        needed = {address for address, known in parts.items() if any(one.image == machine.title for one in known)}
        feeders = sorted(one.name for one in nodes if one.uuid != machine.node and needed & one.cached)
        found.append(Arriving(machine, called.get(machine.node or "", ""), tuple(feeders)))
    return found
