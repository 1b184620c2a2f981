"""What pages make of values, without a service: amounts and instants, the order of roles, who holds what."""

from datetime import UTC, datetime, timedelta

import pytest

from catalog.errors import Unavailable
from catalog.image.address import Address
from catalog.image.manifest import Manifest
from catalog.schema.images import ImageEntry
from deployer.errors import Misused
from deployer.protocol.desired_state import Capacity
from deployer.site.console import templates as pages
from deployer.site.console.clusters import rank_roles
from deployer.site.console.images import parse_request_form
from deployer.site.console.nodes import RETRY, REUSE, ImagePart, ImagePartIndex, cached_contents
from deployer.site.model.cluster import ClusterDocument
from deployer.site.model.records import NodeState, SiteNode
from signer.documents import validate
from signer.errors import DocumentError
from tests.support import factories

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1024 KiB"),
        (7 << 20, "7 MiB"),
        (5 << 30, "5 GiB"),
        (1 << 42, "4 TiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    """Three digits and a binary unit; never as a power of ten."""
    assert pages._size(size) == text


def test_instants_are_written_for_people_and_for_programs() -> None:
    """In UTC, wherever they come from."""
    there = NOW.astimezone(tz=None)
    assert pages._when(there) == '<time datetime="2026-11-22T12:00:00Z">2026-11-22 12:00:00 UTC</time>'
    assert pages._when(None) == "never"


def test_pages_load_nothing_that_is_not_there() -> None:
    """A template that names something unknown fails, and does not show an empty place."""
    with pytest.raises(Exception, match="is undefined"):
        pages.render_page("problem.html", {"title": "x"})
    assert pages.static_file("console.py") is None


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


def test_roles_stand_in_the_order_in_which_they_start() -> None:
    """Each rank needs only what those before it provide; roles that need nothing are first, by name."""
    roles = {
        "worker": {"image": "star/w@1.0", "requires": ["batch", "disk"]},
        "head": {"image": "star/h@1.0", "provides": ["batch"], "requires": ["disk"]},
        "store": {"image": "star/s@1.0", "provides": ["disk"]},
        "alone": {"image": "star/a@1.0"},
    }
    document = validate(ClusterDocument, {"name": "c", "roles": roles}, "cluster")
    assert rank_roles(document) == [["alone", "store"], ["head"], ["worker"]]


def test_the_form_of_the_explanation_is_a_request() -> None:
    """What is left empty is left out; what cannot be understood is said with its place."""
    asked = {"image": "star/hello@1.0", "count": 2, "cores": None, "memory": "64MiB", "lifetime": ""}
    found = parse_request_form(asked)
    assert (found.count, found.memory, found.cores, found.lifetime) == (2, 64 << 20, None, None)
    for field, text in (("memory", "much"), ("lifetime", "2y")):
        with pytest.raises(Misused, match=field):
            parse_request_form(asked | {field: text})
    with pytest.raises(DocumentError):
        parse_request_form(asked | {"memory": "1KiB"})


class Catalog:
    """A catalog of one image; what it was asked is counted."""

    def __init__(self) -> None:
        self.manifest_, self.asked, self.fault = (
            factories.manifest([Address(bytes([n]) * 32, 1 << 20) for n in (1, 2)]),
            [],
            False,
        )

    def listed(self, most: int) -> list[ImageEntry]:
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
    contents = ImagePartIndex(catalog.listed, catalog.manifest, lambda: now[0])
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
