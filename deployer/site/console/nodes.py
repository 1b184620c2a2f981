"""The console's pages of nodes: their capacity, their caches, and the transfers between them."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response

from catalog.errors import CatalogError
from catalog.image.manifest import Manifest
from catalog.schema.images import ImageEntry
from deployer.machine.state import MachineState
from deployer.site.api.nodes import VERB_STATES
from deployer.site.auth.authorizer import restrict_filter
from deployer.site.auth.grants import SiteAction
from deployer.site.console.events import events_about
from deployer.site.console.request import ALIVE, Console, FormRequest, PageRequest, PageRoute, show_changed
from deployer.site.console.templates import CONSOLE_PREFIX
from deployer.site.db.machines import list_machines
from deployer.site.db.nodes import find_node, list_nodes
from deployer.site.model.records import ListFilter, NodeState, SiteMachine, SiteNode
from deployer.site.model.swarm_map import draw_swarm, site_feeds
from deployer.site.schema.views import MachineView

ROWS = 50
"""Rows of a page."""

MAX_CATALOG_IMAGES = 200
"""Images that cached contents are looked up in."""

REUSE, RETRY = 60.0, 5.0
"""Seconds until the catalog's images are listed again, after success and after failure: the page is live, and asks often."""


@dataclass(frozen=True, order=True)
class ImagePart:
    """A part of an image (VO/NAME@VERSION), with its label there."""

    image: str
    label: str


PartsByAddress = Mapping[str, Sequence[ImagePart]]
"""The image parts of contents, by address."""


@dataclass(frozen=True)
class CachedContent:
    """A content, the image parts that it is known to be, and the nodes that have it complete."""

    address: str
    size: int
    parts: tuple[ImagePart, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class IncomingContents:
    """A machine whose contents are being fetched, and the nodes that have any of them complete: the swarm's other seeds."""

    machine: SiteMachine
    node: str
    feeders: tuple[str, ...]


def node_pages(console: Console) -> APIRouter:
    """The routes of nodes."""
    routes = APIRouter(prefix=CONSOLE_PREFIX, route_class=PageRoute)
    contents = ImagePartIndex(console.site.catalog.newest_images, console.site.catalog.manifest)
    site, access = console.site, console.site.access
    visiting = Annotated[PageRequest, Depends(console.visit)]
    submitted = Annotated[FormRequest, Depends(console.submission)]

    @routes.get("/nodes")
    def nodes(visit: visiting) -> Response:
        access.demand(visit.who, SiteAction.NODES)
        found = [one for one in site.store.read(list_nodes) if one.state is not NodeState.LEFT]
        parts, fault = contents.parts()
        fed = site_feeds(found)
        return console.show(
            visit,
            "nodes.html",
            nodes=found,
            held=cached_contents(found, parts),
            arriving=_arriving(console, visit, found, parts),
            feeds=fed[:ROWS],
            picture=draw_swarm(fed, found),
            names={one.uuid: one.name for one in found},
            parts=parts,
            fault=fault,
        )

    @routes.get("/nodes/{node}")
    def node(visit: visiting, node: str) -> Response:
        access.demand(visit.who, SiteAction.NODES)
        found = site.store.read(find_node, node)
        parts, fault = contents.parts()
        everyone = site.store.read(list_nodes)
        fed = site_feeds(everyone)
        wanted = restrict_filter(ListFilter(node=found.uuid, states=ALIVE), access.reach(visit.who))
        return console.show(
            visit,
            "node.html",
            node=found,
            fed_by=[one for one in fed if one.to == found.uuid][:ROWS],
            feeding=[one for one in fed if one.source == found.uuid][:ROWS],
            parts=parts,
            held=cached_contents([found], parts),
            fault=fault,
            machines=[MachineView.of(one) for one in site.store.read(list_machines, wanted, ROWS)[0]] if wanted else (),
            events=events_about(site, subject=found.uuid)[::-1][:ROWS],
            nodes={one.uuid: one.name for one in everyone},
        )

    @routes.post("/nodes/{node}/{verb}")
    def act(form: submitted, node: str, verb: Literal["drain", "undrain", "remove"]) -> Response:
        access.demand(form.who, SiteAction.MANAGE_NODES)
        found = site.store.read(find_node, node)
        site.machine_changes.set_node(found, VERB_STATES[verb], form.who, form.reason)
        return show_changed("nodes", found.uuid)

    return routes


def cached_contents(nodes: Sequence[SiteNode], parts: PartsByAddress) -> list[CachedContent]:
    """The contents of the nodes' caches, those that most nodes have first."""
    holders = defaultdict[str, list[str]](list)
    for node in nodes:
        for address in node.cached:
            holders[address].append(node.name)
    found = [
        CachedContent(address, _size(address), tuple(parts.get(address, ())), tuple(sorted(names)))
        for address, names in holders.items()
    ]
    return sorted(found, key=lambda one: (-len(one.nodes), one.parts or (ImagePart("~", ""),), one.address))


def _size(address: str) -> int:
    """The size in an address (ROOT-SIZE)."""
    size = address.rpartition("-")[2]
    return int(size) if size.isdecimal() else 0


class ImagePartIndex:
    """Which image parts contents are, by the catalog's images, which are listed once in a while. Safe to use from several threads.

    Args:
        listed: returns up to that many images of the catalog.
        manifest: returns the verified manifest of an image ID.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        listed: Callable[[int], Sequence[ImageEntry]],
        manifest: Callable[[str], Manifest],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listed, self._manifest, self._clock = listed, manifest, clock
        self._lock = threading.Lock()
        self._manifests: dict[str, Manifest] = {}
        self._known: tuple[PartsByAddress, str] = ({}, "")
        self._until = float("-inf")

    def parts(self) -> tuple[PartsByAddress, str]:
        """The image parts by address, and why they are incomplete, or an empty string."""
        with self._lock:
            if self._clock() >= self._until:
                self._known = self._ask()
                self._until = self._clock() + (RETRY if self._known[1] else REUSE)
            return self._known

    def _ask(self) -> tuple[PartsByAddress, str]:
        found = defaultdict[str, list[ImagePart]](list)
        before, self._manifests = self._manifests, {}
        try:
            for entry in self._listed(MAX_CATALOG_IMAGES):
                manifest = before.get(entry.image_id) or self._manifest(entry.image_id)
                self._manifests[entry.image_id] = manifest
                labels = {one.content: one.label for one in manifest.partitions() if one.content is not None}
                for address in manifest.contents():
                    found[str(address)].append(ImagePart(manifest.title, labels.get(address, "boot")))
        except CatalogError as exc:
            return found, str(exc)
        return found, ""


def _arriving(
    console: Console, visit: PageRequest, nodes: Collection[SiteNode], parts: PartsByAddress
) -> list[IncomingContents]:
    wanted = restrict_filter(ListFilter(states=(MachineState.STAGING,)), console.site.access.reach(visit.who))
    called = {one.uuid: one.name for one in nodes}
    found = []
    for machine in console.site.store.read(list_machines, wanted, ROWS)[0] if wanted else ():
        needed = {address for address, known in parts.items() if any(one.image == machine.title for one in known)}
        feeders = sorted(one.name for one in nodes if one.uuid != machine.node and needed & one.cached)
        found.append(IncomingContents(machine, called.get(machine.node or "", ""), tuple(feeders)))
    return found
