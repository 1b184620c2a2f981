"""Cluster documents: what is read, what is refused and why, and who waits for whom."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import Misused
from deployer.site.model.cluster import MAX_ROLES, ClusterDocument, ClusterRole, read_cluster
from signer.documents import canonical, parse_canonical, validate
from signer.errors import DocumentError

STAR = """
name = "star"
lifetime = "12h"

[roles.head]
image = "star/head@1.0"
memory = "2GiB"
cores = 2
provides = ["batch"]

[roles.worker]
image = "star/worker"
count = 4
quorum = 2
requires = ["batch"]
user_data = '''
#!/bin/sh
echo worker
'''
blanks = [{ size = 67108864, filesystem = "ext4", label = "scratch" }]
wishes = { strategy = "spread", labels = { hall = "2" } }
"""


def document(**roles: dict[str, Any]) -> ClusterDocument:
    """A cluster of these roles, all of one image."""
    return validate(
        ClusterDocument,
        {"name": "c", "roles": {name: {"image": "star/x"} | role for name, role in roles.items()}},
        "cluster",
    )


def test_a_cluster_is_read_from_toml_and_json(tmp_path: Path) -> None:
    """Both say the same, and the digest is that of what they say."""
    (tmp_path / "star.toml").write_text(STAR)
    star = read_cluster(tmp_path / "star.toml")
    assert (star.lifetime, star.roles["head"].memory, star.roles["worker"].quorum) == (43200, 2 << 30, 2)
    assert star.roles["worker"].user_data == "#!/bin/sh\necho worker\n"
    (tmp_path / "star.json").write_bytes(canonical(star))
    again = read_cluster(tmp_path / "star.json")
    assert again == star
    assert again.digest == star.digest
    assert star.before("worker") == ("head",)
    assert star.before("head") == ()


def test_a_role_becomes_a_request() -> None:
    """What it says of its members, and the names that they get."""
    star = document(worker={"count": 3, "memory": "64MiB", "cores": 2, "user_data": "#!/bin/sh\n", "network": "user"})
    names = tuple(star.hostname("worker", slot) for slot in (1, 3))
    request = star.roles["worker"].request("sha256:" + "1" * 64, 60, names, whole=False)
    assert (request.count, request.hostnames, request.hostname) == (2, ("c-worker-1", "c-worker-3"), None)
    assert (request.memory, request.cores, request.lifetime, str(request.network)) == (64 << 20, 2, 60, "user")
    assert request.user_data == "IyEvYmluL3NoCg=="
    assert not request.placement_options.whole
    assert star.slot("worker", "c-worker-3") == 3
    assert (request.max_memory, request.max_cores) == (None, None)


def test_a_role_may_have_room_to_grow() -> None:
    """And never begins with more than that."""
    worker = {"memory": "64MiB", "max_memory": "1GiB", "max_cores": 4}
    request = document(worker=worker).roles["worker"].request("sha256:" + "1" * 64, 60, ("c-worker-1",), whole=True)
    assert (request.memory, request.max_memory, request.cores, request.max_cores) == (64 << 20, 1 << 30, None, 4)
    with pytest.raises(DocumentError, match="max_memory is less than what a member begins with"):
        document(worker=worker | {"memory": "2GiB"})


def test_a_document_that_was_signed_before_keeps_its_digest() -> None:
    """What a role may say since then is in it only where somebody says it."""
    star = document(
        head={"provides": ["batch"], "network": "network:grid", "user_data": "#cloud-config\n{}\n"},
        worker={
            "count": 4,
            "quorum": 2,
            "memory": "2GiB",
            "max_memory": "4GiB",
            "cores": 1,
            "max_cores": 2,
            "requires": ["batch"],
            "public_keys": ["ssh-ed25519 AAAA alice"],
            "blanks": [{"size": 67108864, "filesystem": "ext4", "label": "scratch"}],
        },
    )
    assert star.digest == "c3654cbfb05e3643301ea68e5c516564e8222241d9a64252c3ad8b2278012854"  # by commit 5e5eede
    said = document(worker={"description": "the workers", "verify": "full"})
    request = said.roles["worker"].request("sha256:" + "1" * 64, 60, ("c-worker-1",), whole=True)
    assert (request.description, request.verify) == ("the workers", "full")
    assert parse_canonical(ClusterDocument, canonical(said), "cluster") == said
    assert document(worker={"verify": "sample"}).digest == document(worker={}).digest != said.digest


@pytest.mark.parametrize(
    "hostname", ["c-worker-", "c-worker-x", "c-head-1", "worker-1", "c-worker-٣", "c-worker-12345"]
)
def test_other_host_names_are_no_members(hostname: str) -> None:
    """Only NAME-ROLE-NUMBER is one."""
    assert document(worker={}).slot("worker", hostname) == 0


REFUSED = [
    ("no role", "name = 'c'\n[roles]", "at least 1 item"),
    ("a watch for what nobody provides", "name='c'\n[roles.a]\nimage='v/n'\nwatches=['db']", "no role provides that"),
    ("a name that nobody provides", "name='c'\n[roles.a]\nimage='v/n'\nrequires=['db']", "no role provides that"),
    (
        "a circle of two",
        "name='c'\n[roles.a]\nimage='v/n'\nrequires=['y']\nprovides=['x']\n[roles.b]\nimage='v/n'\nrequires=['x']\nprovides=['y']",
        "circle: a -> b -> a",
    ),
    (
        "a circle beside what is sound",
        (
            "name='c'\n[roles.z]\nimage='v/n'\nrequires=['x']\n"
            "[roles.a]\nimage='v/n'\nrequires=['z']\nprovides=['x']\n"
            "[roles.b]\nimage='v/n'\nrequires=['x']\nprovides=['y']\n"
            "[roles.c]\nimage='v/n'\nrequires=['y']\nprovides=['z']"
        ),
        "circle: a -> c -> b -> a",
    ),
    (
        "a quorum above the count",
        "name='c'\n[roles.a]\nimage='v/n'\ncount=2\nquorum=3",
        "quorum of 3 is more than the 2",
    ),
    ("a word that is not known", "name='c'\n[roles.a]\nimage='v/n'\nnumber=2", r"roles\.a\.number"),
    ("a word twice", "name='c'\n[roles.a]\nimage='v/n'\nprovides=['x','x']", "is listed twice under provides"),
    ("an image that is none", "name='c'\n[roles.a]\nimage='nowhere'", r"roles\.a\.image"),
    ("a role that is not a valid host name", "name='c'\n[roles.A_b]\nimage='v/n'", "roles"),
    ("a name that is not a valid host name", "name='c.d'\n[roles.a]\nimage='v/n'", r"\$\.name"),
    ("bytes without a unit", "name='c'\n[roles.a]\nimage='v/n'\nmemory=1024", r"roles\.a\.memory"),
    ("half a MiB", "name='c'\n[roles.a]\nimage='v/n'\nmemory='16777217B'", "whole MiB"),
    ("no members", "name='c'\n[roles.a]\nimage='v/n'\ncount=0", r"roles\.a\.count"),
    ("too many", "name='c'\n[roles.a]\nimage='v/n'\ncount=600\n[roles.b]\nimage='v/n'\ncount=600", "at most 1000"),
    ("user-data of no kind", "name='c'\n[roles.a]\nimage='v/n'\nuser_data='hello'", r"roles\.a\.user_data"),
    ("not a valid network", "name='c'\n[roles.a]\nimage='v/n'\nnetwork='wlan'", r"roles\.a\.network"),
    ("no time", "name='c'\nlifetime='0s'\n[roles.a]\nimage='v/n'", r"\$\.lifetime"),
    ("no TOML", "name", "TOML"),
]


@pytest.mark.parametrize(("text", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_no_cluster_can_mean_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """With the file and the place."""
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(Misused, match=says) as refused:
        read_cluster(tmp_path / "c.toml")
    assert "c.toml" in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Says so."""
    with pytest.raises(Misused, match="cannot be read"):
        read_cluster(tmp_path / "none.toml")


def test_a_role_that_requires_its_own_name_waits_for_nobody() -> None:
    """Its members find each other; for the order that counts for nothing."""
    ring = document(peer={"count": 3, "provides": ["ring"], "requires": ["ring"]})
    assert ring.providers("peer") == ("peer",)
    assert ring.before("peer") == ()


NAMES = [f"r{number}" for number in range(6)]
EDGES = st.frozensets(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=12)


def _reaches(edges: frozenset[tuple[str, str]], start: str) -> bool:
    """Whether a role comes back to itself by way of others."""
    edges = frozenset((one, other) for one, other in edges if one != other)
    seen, new = set[str](), {other for one, other in edges if one == start}
    while new - seen:
        seen |= new
        new = {other for one, other in edges if one in seen}
    return start in seen


@settings(max_examples=200, deadline=None)
@given(EDGES)
def test_exactly_circles_are_refused(edges: frozenset[tuple[str, str]]) -> None:
    """Any graph of requirements: refused when some role waits for itself, and the circle that is named is one."""
    roles = {
        name: {"provides": [name], "requires": sorted(other for one, other in edges if one == name)} for name in NAMES
    }
    circular = any(_reaches(edges, name) for name in NAMES)
    try:
        found = document(**roles)
    except DocumentError as refused:
        assert circular
        named = str(refused).partition("circle: ")[2].partition(";")[0].split(" -> ")
        assert named[0] == named[-1]
        assert all((one, other) in edges for one, other in itertools.pairwise(named))
        return
    assert not circular
    order = list[str]()
    while len(order) < len(NAMES):  # there is an order in which all can start
        order.append(next(name for name in NAMES if name not in order and set(found.before(name)) <= set(order)))


ROLES = st.dictionaries(
    st.from_regex(r"[a-z]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True),
    st.builds(
        ClusterRole,
        image=st.sampled_from(["star/x", "star/y@1.0", "sha256:" + "a" * 64]),
        count=st.integers(1, 30),
        memory=st.none(),
        cores=st.none() | st.integers(1, 64),
        provides=st.sampled_from([(), ("a",), ("a", "b")]),
        replace=st.integers(0, 100),
        starts=st.sampled_from(["ready", "booting"]),
        ready=st.sampled_from(["reported", "running"]),
    ),
    min_size=1,
    max_size=MAX_ROLES,
)


@settings(max_examples=50, deadline=None)
@given(ROLES)
def test_what_is_written_is_read_again(roles: dict[str, ClusterRole]) -> None:
    """The canonical form is one, and says everything."""
    one = ClusterDocument(name="c", roles=roles)
    assert parse_canonical(ClusterDocument, canonical(one), "cluster") == one


def test_the_documented_cluster_is_one(tmp_path: Path) -> None:
    """What docs/clusters.md shows is read."""
    page = (Path(__file__).parents[4] / "docs" / "clusters.md").read_text()
    (tmp_path / "star.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    assert read_cluster(tmp_path / "star.toml").before("worker") == ("head",)
