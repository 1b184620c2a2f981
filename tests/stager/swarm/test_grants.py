"""Restricted swarms over TLS, between real peer processes: who has a pass gets everything, who has none gets nothing."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from catalog.content.indexing import index_file
from catalog.errors import NotFound, Unavailable
from catalog.image.address import Address
from catalog.schema.swarms import SwarmGrant
from catalog.swarm.certificate_authority import SwarmCa
from catalog.swarm.tracker import Endpoint
from stager.content.piece_map import PieceMap
from stager.errors import TrackerRefuses, TrackerUnavailable
from stager.fetch.resume import find_leaves, read_boot_id
from stager.swarm.grants import (
    CATALOG_RETRY,
    PUBLIC_CREDENTIALS,
    CatalogCredentialsProvider,
    CredentialsProvider,
    SwarmCredentials,
    public_credentials,
)
from stager.swarm.swarm import Swarm, SwarmOptions

PATIENCE = 60.0
NOW = datetime.now(UTC).replace(microsecond=0)


class Catalog:
    """Grants passes as the catalog does, with an authority of its own; may refuse, or be away."""

    def __init__(self, authority: SwarmCa, *, torrent: str = "", life: timedelta = timedelta(hours=12)) -> None:
        self.authority, self._torrent, self._life = authority, torrent, life
        self.asked = 0
        self.error: Exception | None = None
        self.now = NOW

    def grant(self, address: Address, node: str, request: str | None = None) -> SwarmGrant:
        self.asked += 1
        if self.error is not None:
            raise self.error
        assert request
        name = self._torrent or address.root.hex()
        return SwarmGrant(
            grant="x",
            expires=self.now + self._life,
            authority=self.authority.certificate.decode(),
            certificate=self.authority.issue(request, name, node, self.now, self._life),
        )


OURS, THEIRS = SwarmCa.make(NOW), SwarmCa.make(NOW)


@pytest.fixture
def swarm() -> Iterator[Callable[[CredentialsProvider], Swarm]]:
    """Opens swarms without a tracker; ends them."""
    opened: list[Swarm] = []

    def make(admission: CredentialsProvider) -> Swarm:
        made = Swarm(None, SwarmOptions(listen="127.0.0.1:0"), boot=read_boot_id(), credentials=admission)
        opened.append(made.__enter__())
        return made

    yield make
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture
def content(tmp_path: Path) -> PieceMap:
    (tmp_path / "content").write_bytes(os.urandom(4 << 20))
    measured = index_file(tmp_path / "content")
    return PieceMap.of(measured.address, measured.layer)


def _forged(catalog: Catalog, mine: SwarmCa) -> CredentialsProvider:
    """A pass with the true authority in the info dict and a certificate of another one."""

    def admission(address: Address) -> SwarmCredentials:
        made = CatalogCredentialsProvider(catalog.grant, "thief")(address)
        return SwarmCredentials(made.grant, mine.certificate, made.certificate, made.key, made.expires)

    return admission


ENTITLED: CredentialsProvider = CatalogCredentialsProvider(Catalog(OURS).grant, "entitled")
ATTEMPTS: dict[str, tuple[CredentialsProvider, bool]] = {
    "a node with a pass": (ENTITLED, True),
    "a stranger in the public swarm of the same content": (public_credentials, False),
    "a certificate of another authority": (_forged(Catalog(THEIRS), OURS), False),
    "a certificate for another content": (
        CatalogCredentialsProvider(Catalog(OURS, torrent="ab" * 32).grant, "thief"),
        False,
    ),
    "a certificate that has ended": (
        CatalogCredentialsProvider(
            Catalog(OURS, life=timedelta(seconds=-60)).grant, "late", lambda: NOW - timedelta(days=1)
        ),
        False,
    ),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_holding_the_info_hash_and_an_address_is_not_enough(
    swarm: Callable[[CredentialsProvider], Swarm], content: PieceMap, tmp_path: Path, attempt: str
) -> None:
    """The seed's address filter lets the caller in, as it would for a public content: TLS alone decides."""
    admission, welcome = ATTEMPTS[attempt]
    seed, caller = swarm(ENTITLED), swarm(admission)
    shared = seed.join(content, tmp_path / "content")
    wanted = caller.join(content, tmp_path / "in", find_leaves(content, tmp_path / "in", None, read_boot_id()))
    seed.add_peers(shared, {Endpoint("127.0.0.1", caller.port_for(wanted))})
    caller.add_peers(wanted, {Endpoint("127.0.0.1", port) for port in (seed.port, seed.tls_port)})
    if welcome:
        assert caller.wait(lambda: wanted.complete, PATIENCE)
        assert (tmp_path / "in").read_bytes() == (tmp_path / "content").read_bytes()
        return
    assert not caller.wait(lambda: wanted.complete, 4)
    assert (wanted.from_peers, shared.sent) == (0, 0)
    assert not any((tmp_path / "in").read_bytes())


@pytest.mark.parametrize(
    ("error", "raised"), [(NotFound("no"), TrackerRefuses), (Unavailable("away"), TrackerUnavailable)]
)
def test_without_a_pass_a_content_enters_no_swarm_at_all(
    swarm: Callable[[CredentialsProvider], Swarm],
    content: PieceMap,
    tmp_path: Path,
    error: Exception,
    raised: type[Exception],
) -> None:
    catalog = Catalog(OURS)
    catalog.error = error
    passes = CatalogCredentialsProvider(catalog.grant, "node")
    with pytest.raises(raised):
        passes(content.address)
    node, stranger = swarm(passes), swarm(public_credentials)
    kept = node.join(content, tmp_path / "content")
    assert kept.failure
    node.rejoin(kept, forget=True)
    wanted = stranger.join(content, tmp_path / "in", find_leaves(content, tmp_path / "in", None, read_boot_id()))
    node.add_peers(kept, {Endpoint("127.0.0.1", stranger.port)})
    stranger.add_peers(wanted, {Endpoint("127.0.0.1", node.port)})
    assert not stranger.wait(lambda: wanted.complete, 3)
    assert wanted.from_peers == 0


def test_a_pass_is_asked_for_once_in_half_its_life_and_outlives_the_catalogs_absence() -> None:
    catalog, address = Catalog(OURS), Address(b"a" * 32, 1 << 20)
    passes = CatalogCredentialsProvider(catalog.grant, "node", lambda: catalog.now)
    first = passes(address)
    assert passes(address) is first
    assert first.authority == OURS.certificate
    assert first.expires == NOW + timedelta(hours=12)
    catalog.now += timedelta(hours=6)
    second = passes(address)
    assert second.expires == NOW + timedelta(hours=18)
    assert second.key == first.key
    catalog.error = Unavailable("away")
    catalog.now += timedelta(hours=11)
    assert passes(address) is second
    catalog.now += timedelta(hours=1)
    for _ in range(100):  # it is not asked again and again
        with pytest.raises(TrackerUnavailable, match=r"away|a moment ago"):
            passes(address)
    assert catalog.asked == 4
    catalog.now += CATALOG_RETRY
    catalog.error = None
    assert passes(address).expires == catalog.now + timedelta(hours=12)
    assert public_credentials(address) is PUBLIC_CREDENTIALS


def test_certificates_are_renewed_in_a_swarm_that_goes_on(
    swarm: Callable[[CredentialsProvider], Swarm], content: PieceMap, tmp_path: Path
) -> None:
    """What the tracker's answer causes: a pass that is another one by now replaces the old, and the swarm works."""
    passes = [CatalogCredentialsProvider(Catalog(OURS).grant, f"node{number}") for number in (1, 2)]
    seed, caller = swarm(lambda address: passes[0](address)), swarm(ENTITLED)
    shared = seed.join(content, tmp_path / "content")
    passes.pop(0)
    seed._on_peers_named(shared, {Endpoint("127.0.0.1", caller.tls_port)})
    assert shared.credentials == passes[0](content.address)
    time.sleep(0.2)
    wanted = caller.join(content, tmp_path / "in", find_leaves(content, tmp_path / "in", None, read_boot_id()))
    caller.add_peers(wanted, {Endpoint("127.0.0.1", seed.tls_port)})
    assert caller.wait(lambda: wanted.complete, PATIENCE)
