"""The tracker over HTTP: a stock client's announces, announce keys, and what a node without the right learns: nothing."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from catalog.api.tracker import AnnounceAuthorizer, tracker_routes
from catalog.errors import CatalogError
from catalog.image.address import Address
from catalog.swarm.announce_keys import KEY_LIFE, ORIGIN, AnnounceKeys, KeyHolder
from catalog.swarm.bencode import bdecode
from catalog.swarm.torrent import short_hash
from catalog.swarm.tracker import Tracker
from signer.errors import DocumentError

PUBLIC, SECRET = Address(b"p" * 32, 1 << 20), Address(b"s" * 32, 1 << 20)
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KEYS = AnnounceKeys(b"k" * 32)


class World:
    """The application with a clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = NOW
        known = {short_hash(address): address for address in (PUBLIC, SECRET)}
        gate = AnnounceAuthorizer(
            KEYS, known.get, lambda holder, address: address == PUBLIC or holder.node == "good", lambda: self.now
        )
        self.app = FastAPI()
        self.app.include_router(tracker_routes(Tracker(), gate, lambda: self.now.timestamp()), prefix="/v1")

        @self.app.exception_handler(CatalogError)
        async def refused(_: Request, exc: CatalogError) -> JSONResponse:
            return JSONResponse({"detail": str(exc), "code": exc.code}, exc.status)

        @self.app.exception_handler(DocumentError)
        async def malformed(_: Request, exc: DocumentError) -> JSONResponse:
            return JSONResponse({"detail": str(exc)}, 400)

    def announce(self, address: Address, ip: str, port: int = 6881, left: int = 5, **more: str) -> httpx2.Response:
        fields = {"port": str(port), "left": str(left), "compact": "1"} | more
        text = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
        return self.get(f"/v1/announce?info_hash={quote(short_hash(address))}&peer_id={'x' * 20}&{text}", ip)

    def post(self, body: object, ip: str = "192.0.2.1") -> httpx2.Response:
        return self._ask("POST", "/v1/swarms/parts", ip, json.dumps(body))

    def get(self, path: str, ip: str = "192.0.2.1") -> httpx2.Response:
        return self._ask("GET", path, ip)

    def _ask(self, method: str, path: str, ip: str, content: str | None = None) -> httpx2.Response:
        async def ask() -> httpx2.Response:
            transport = httpx2.ASGITransport(self.app, client=(ip, 40000))
            async with httpx2.AsyncClient(transport=transport, base_url="http://catalog") as client:
                return await client.request(method, path, content=content)

        return asyncio.run(ask())


@pytest.fixture
def world() -> World:
    return World()


def grant(node: str, address: Address = SECRET, now: datetime = NOW) -> str:
    return KEYS.issue(KeyHolder(node, "lyon"), short_hash(address), now)


def test_strangers_share_what_is_public(world: World) -> None:
    assert bdecode(world.announce(PUBLIC, "192.0.2.1", left=0).content, "answer")[b"complete"] == 1
    answer = bdecode(world.announce(PUBLIC, "192.0.2.2").content, "answer")
    assert answer[b"peers"] == bytes([192, 0, 2, 1, 0x1A, 0xE1])


def test_ipv6_peers_go_into_their_own_field_and_mapped_ones_are_ipv4(world: World) -> None:
    world.announce(PUBLIC, "2001:db8::1")
    world.announce(PUBLIC, "::ffff:192.0.2.9")
    answer = bdecode(world.announce(PUBLIC, "192.0.2.2").content, "answer")
    assert len(answer[b"peers6"]) == 18
    assert answer[b"peers"] == bytes([192, 0, 2, 9, 0x1A, 0xE1])


@pytest.mark.parametrize(
    ("what", "key", "status", "reason"),
    [
        ("no key", "", 404, b"no content with that info-hash"),
        ("a key of a node without the right", grant("bad"), 403, b"may not read"),
        ("an expired key", grant("good", now=NOW - KEY_LIFE), 403, b"expired"),
        ("a key for another content", grant("good", PUBLIC), 403, b"not valid for this swarm"),
        ("nonsense", "nonsense", 403, b"does not have the form"),
    ],
)
def test_without_the_right_a_restricted_swarm_shows_nothing(
    world: World, what: str, key: str, status: int, reason: bytes
) -> None:
    assert world.announce(SECRET, "192.0.2.1", left=0, grant=grant("good")).status_code == 200
    refused = world.announce(SECRET, "192.0.2.66", grant=key)
    assert refused.status_code == status
    body = bdecode(refused.content, "answer")
    assert isinstance(body, dict)
    assert set(body) == {b"failure reason"}
    assert reason in body[b"failure reason"]
    parts = world.post({"address": str(SECRET), "port": 6881, "grant": key, "want": 1}, "192.0.2.66")
    assert parts.status_code == status
    assert "parts" not in parts.json()
    assert world.get("/v1/swarms/callers?port=6881", "192.0.2.66").json() == {"callers": []}
    scraped = bdecode(world.get(f"/v1/scrape?info_hash={quote(short_hash(SECRET))}").content, "scrape")
    assert scraped == {b"files": {}}


def test_with_the_right_it_is_a_swarm_like_any_other(world: World) -> None:
    world.announce(SECRET, "192.0.2.1", left=0, grant=grant("good"))
    answer = bdecode(world.announce(SECRET, "192.0.2.2", grant=grant("good")).content, "answer")
    assert answer[b"peers"][:4] == bytes([192, 0, 2, 1])
    assert world.get("/v1/swarms/callers?port=6881").json() == {
        "callers": [{"address": str(SECRET), "ip": "192.0.2.2", "port": 6881}]
    }


def test_a_key_stops_working_while_its_holder_is_in_the_swarm(world: World) -> None:
    key = grant("good")
    assert world.announce(SECRET, "192.0.2.1", grant=key).status_code == 200
    world.now += KEY_LIFE + timedelta(seconds=1)
    assert world.announce(SECRET, "192.0.2.1", grant=key).status_code == 403


def test_the_origins_seed_is_known_by_its_key(world: World) -> None:
    world.announce(PUBLIC, "192.0.2.1", left=0, grant=KEYS.issue(KeyHolder(ORIGIN, ""), short_hash(PUBLIC), NOW))
    world.announce(PUBLIC, "192.0.2.3", left=0)
    answer = bdecode(world.announce(PUBLIC, "192.0.2.2").content, "answer")
    assert [answer[b"peers"][at + 3] for at in (0, 6)] == [3, 1]


def test_parts_are_given_to_members_only_and_once(world: World) -> None:
    question = {"address": str(PUBLIC), "port": 6881, "want": 262144}
    assert world.post(question).status_code == 409
    world.announce(PUBLIC, "192.0.2.1")
    world.announce(PUBLIC, "192.0.2.2")
    first, second = world.post(question).json()["parts"], world.post(question, "192.0.2.2").json()["parts"]
    assert first == [[0, 262144]]
    assert second == [[262144, 524288]]


@pytest.mark.parametrize(
    ("what", "change", "status"),
    [
        ("an address that is none", {"address": "x"}, 400),
        ("a content that is not here", {"address": f"{'ab' * 32}-5"}, 404),
        ("the same root with another size", {"address": f"{PUBLIC.root.hex()}-5"}, 404),
        ("a port that is none", {"port": 0}, 400),
        ("a range that is empty", {"have": [[5, 5]]}, 400),
        ("a range beyond the end", {"have": [[0, 1 << 21]]}, 400),
        ("a member that is not known", {"hello": 1}, 400),
        ("want missing", {"want": None}, 400),
    ],
)
def test_malformed_questions_for_parts_are_refused(world: World, what: str, change: dict, status: int) -> None:
    world.announce(PUBLIC, "192.0.2.1")
    assert world.post({"address": str(PUBLIC), "port": 6881, "want": 1} | change).status_code == status


@pytest.mark.parametrize("more", [{"port": "0"}, {"left": "-3"}, {"event": "boom"}])
def test_malformed_announces_are_refused_in_the_form_that_clients_read(world: World, more: dict[str, str]) -> None:
    fields = {"port": "6881", "left": "5"} | more
    text = "&".join(f"{name}={value}" for name, value in fields.items())
    refused = world.get(f"/v1/announce?info_hash={'a' * 20}&peer_id={'x' * 20}&{text}")
    assert refused.status_code == 400
    assert b"failure reason" in refused.content
    assert world.get("/v1/swarms/callers?port=0").status_code == 422


def test_the_routes_are_described(world: World) -> None:
    paths = world.app.openapi()["paths"]
    assert set(paths) == {"/v1/announce", "/v1/scrape", "/v1/swarms/parts", "/v1/swarms/callers"}
    assert all(operation["summary"] for path in paths.values() for operation in path.values())
