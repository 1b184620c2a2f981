"""Join tokens: once, in time, for one site; and what a node that may join gets."""

import secrets
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import Conflict, Misused
from deployer.errors import JoinRefused
from deployer.pki.ca import CertificateAuthority, create_request
from deployer.protocol.joining import JoinRequest, parse_token
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import list_events
from deployer.site.db.nodes import get_node
from deployer.site.model.records import NodeState
from deployer.site.operations.node_joining import NodeJoinService, join_token_digest
from deployer.site.store.store import SiteStore

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def joining(tmp_path: Path) -> Iterator[NodeJoinService]:
    """A site's, with a store."""
    database = SiteDatabase(f"sqlite:///{tmp_path}/site.db")
    store = SiteStore(database, lambda: NOW, lambda: str(uuid.uuid4()))
    authority = CertificateAuthority.make(NOW)
    yield NodeJoinService(
        store, authority, authority.fingerprint, "https://site:1", timedelta(days=90), secrets.token_bytes
    )
    database.close()


def wanted(token: str, name: str = "w") -> JoinRequest:
    """What a node says."""
    return JoinRequest(token=parse_token(token)[0], request=create_request()[1], name=name)


def test_a_token_is_good_once_and_in_time(joining: NodeJoinService) -> None:
    """Until its end and not at it; whoever comes second is refused."""
    late = joining.token("", HOUR, NOW)
    for when in (NOW + HOUR, NOW + 2 * HOUR):
        with pytest.raises(JoinRefused):
            joining.join(wanted(late.token), when)
    joined = joining.join(wanted(late.token), NOW + HOUR - timedelta(seconds=1))
    with pytest.raises(JoinRefused):
        joining.join(wanted(late.token, "other"), NOW)
    assert joined.name == "w"
    assert joining.authority.node_of([], NOW) is None


def test_the_operators_name_goes_before_the_nodes_own(joining: NodeJoinService) -> None:
    """And a name that is taken is a conflict, whoever chose it."""
    assert joining.join(wanted(joining.token("worker07", HOUR, NOW).token, "mine"), NOW).name == "worker07"
    with pytest.raises(Conflict, match="worker07"):
        joining.join(wanted(joining.token("", HOUR, NOW).token, "worker07"), NOW)


def test_a_token_is_never_taken_for_an_option(joining: NodeJoinService) -> None:
    """Whatever bytes it is made of: these would begin with a dash."""
    token = replace(joining, random=lambda size: b"\xfb" * size).token("", HOUR, NOW).token
    assert not token.startswith("-")
    assert joining.join(wanted(token), NOW).name == "w"


def test_a_request_that_is_none_does_not_cost_the_token(joining: NodeJoinService) -> None:
    """Whoever carries the token tries again."""
    token = joining.token("", HOUR, NOW).token
    bad = wanted(token).model_copy(update={"request": "none"})
    with pytest.raises(Misused):
        joining.join(bad, NOW)
    joining.join(wanted(token), NOW)


def test_what_is_kept_opens_nothing(joining: NodeJoinService, tmp_path: Path) -> None:
    """The database has the digest of a secret, and the secret nowhere."""
    token = joining.token("", HOUR, NOW).token
    secret, fingerprint = parse_token(token)
    assert fingerprint == joining.fingerprint
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert secret.encode() not in kept
    assert join_token_digest(secret).encode() in kept


def test_a_node_is_known_from_then_on(joining: NodeJoinService) -> None:
    """It is ready, and has told nothing of itself yet."""
    joined = joining.join(wanted(joining.token("", HOUR, NOW).token), NOW)
    store = joining.store
    node = store.read(get_node, joined.node)
    assert (node.state, node.reported, node.capacity.cores) == (NodeState.READY, None, 0)
    assert [event.what for event in store.read(list_events)] == ["joined"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "." + "0" * 64,
        "x" * 43 + "." + "0" * 63,
        "x" * 43 + "." + "G" * 64,
        "x" * 43 + " ." + "0" * 64,
        "x" * 43 + "." + "0" * 64 + ".x",
        "ü" * 43 + "." + "0" * 64,
    ],
)
def test_what_is_no_token_is_said_with_what_to_do(text: str) -> None:
    """The text itself is not repeated: it may be somebody's secret."""
    with pytest.raises(Misused, match="site token") as refused:
        parse_token(text)
    assert not text or text not in str(refused.value)


@given(st.binary(min_size=32, max_size=32))
def test_every_token_reads_back(data: bytes) -> None:
    """Whatever the random bytes are, and with the line break of a file behind it."""
    authority = "0" * 64

    class Kept:
        def write(self, _change: object, digest: str, *_rest: object) -> None:
            self.digest = digest

    kept = Kept()
    joining = NodeJoinService(kept, None, authority, "u", HOUR, lambda count: data[:count])  # type: ignore[arg-type]
    secret, fingerprint = parse_token(joining.token("", HOUR, NOW).token + "\n")
    assert (join_token_digest(secret), fingerprint) == (kept.digest, authority)
