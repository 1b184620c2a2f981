"""The page of nodes: which contents most nodes have."""

from datetime import UTC, datetime, timedelta

from catalog.errors import Unavailable
from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.schema.images import ImageEntry
from deployer.protocol.desired_state import Capacity
from deployer.site.console.nodes import RETRY, REUSE, ImagePart, ImagePartIndex, cached_contents
from deployer.site.model.records import NodeState, SiteNode
from tests.support import factories

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def node(name: str, *cached: str) -> SiteNode:
    """A node with these contents."""
    return SiteNode(
        uuid="00000000-0000-0000-0000-000000000001",
        name=name,
        state=NodeState.READY,
        joined=NOW - timedelta(days=1),
        capacity=Capacity(cores=1, memory=1, disk=1),
        cached=frozenset(cached),
    )


def test_what_most_nodes_have_comes_first() -> None:
    """With what it is a part of, as far as that is known, and its size from its address."""
    nodes = [node("b", "aa-10", "bb-20", "odd"), node("a", "bb-20")]
    found = cached_contents(nodes, {"bb-20": [ImagePart("star/hello@1.0", "root")]})
    assert [(one.address, one.size, one.nodes) for one in found] == [
        ("bb-20", 20, ("a", "b")),
        ("aa-10", 10, ("b",)),
        ("odd", 0, ("b",)),
    ]
    assert [one.parts for one in found] == [(ImagePart("star/hello@1.0", "root"),), (), ()]


class Catalog:
    """A catalog of one image; what it was asked is counted."""

    def __init__(self) -> None:
        self.manifest_, self.asked, self.fault = (
            factories.manifest([Address(bytes([n]) * 32, 1 << 20) for n in (1, 2)]),
            [],
            False,
        )

    def newest_images(self, most: int) -> list[ImageEntry]:
        """The image, or no answer."""
        assert most > 0
        self.asked.append("list")
        if self.fault:
            raise Unavailable("nobody is there")
        one = self.manifest_
        entry = {"vo": one.vo, "name": one.name, "version": one.version, "architecture": one.architecture}
        return [ImageEntry(image_id=one.image_id, size=1, published=NOW, **entry)]

    def manifest(self, image_id: str) -> Manifest:
        """Of that image."""
        assert image_id == self.manifest_.image_id
        self.asked.append("manifest")
        return self.manifest_


def test_the_catalog_is_asked_once_in_a_while() -> None:
    """For the list once a minute, for each manifest once; sooner again where it gave no answer."""
    catalog, now = Catalog(), [0.0]
    contents = ImagePartIndex(catalog.newest_images, catalog.manifest, lambda: now[0])
    parts, fault = contents.parts()
    assert set(parts) == {str(address) for address in catalog.manifest_.contents()}
    assert all(part.image == catalog.manifest_.title for found in parts.values() for part in found)
    assert fault == ""
    contents.parts()
    now[0] = REUSE
    contents.parts()
    assert catalog.asked == ["list", "manifest", "list"]
    catalog.fault, now[0] = True, REUSE * 2
    assert contents.parts() == ({}, "nobody is there")
    catalog.fault, now[0] = False, REUSE * 2 + RETRY
    assert contents.parts()[0] == parts
