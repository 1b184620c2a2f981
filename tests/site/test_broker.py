"""The context broker, asked over HTTP as guests ask it: who is let in, what they learn of whom, and what is refused."""

import logging
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from deployer.errors import Misused, SiteUnavailable
from deployer.machine import State
from deployer.site.authority import HOST, new_request
from deployer.site.broker import (
    MAX_DATA,
    MAX_PUBLISHED,
    RETRY_LIFE,
    SESSION_LIFE,
    check_key,
    clean_reason,
    parse_addresses,
    parse_host_keys,
    usable_address,
)
from deployer.site.broker_api import PER_GUEST
from deployer.site.broker_meeting import Meeting
from deployer.site.broker_serving import listen
from deployer.site.brokering import KEEP, broker_key
from deployer.site.cluster import Cluster
from deployer.site.desired import Want
from deployer.site.records import Filter, SiteMachine
from tests.deployer.test_seed import public_key
from tests.site.brokers import STAR, Guest, World, site

KEY = public_key(comment="root@star")
BLOB = " ".join(KEY.split(" ")[:2])
NONCE = "n" * 40

Make = Callable[[SiteMachine], Guest]
Star = tuple[World, Guest, Guest, Guest]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Make]]:
    """A site whose clock stands still, shared by tests with machines of their own."""
    with site(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[World, Make]]:
    """A site of the test's own: it moves the clock, or looks into the database."""
    with site(tmp_path) as found:
        yield found


@pytest.fixture
def world(made: tuple[World, Make]) -> World:
    return made[0]


@pytest.fixture
def lone(made: tuple[World, Make]) -> Guest:
    """A machine without a cluster, with a session."""
    world, make = made
    return make(world.machines()[0]).enter()


@pytest.fixture
def star(made: tuple[World, Make]) -> Star:
    """A head and two workers, all with sessions."""
    world, make = made
    head, one, two = (make(machine).enter() for machine in world.star())
    return world, head, one, two


# A machine alone


def test_a_machine_changes_its_secret_for_a_session_and_learns_who_it_is(world: World, lone: Guest) -> None:
    world.observed(lone.machine, "10.1.2.3", "fe80::1", "fd00::5/64")
    said = lone.said("/identity")
    machine = world.store.machine(lone.machine.uuid)
    assert said["machine"] == machine.uuid
    assert said["hostname"] == "lone-1"
    assert said["addresses"] == ["10.1.2.3", "fd00::5"]
    assert (said["role"], said["cluster"], said["requires"]) == ("", "", {})
    assert lone.session.startswith(machine.uuid + ".")


def test_a_machine_alone_publishes_its_keys_has_no_peers_and_says_that_it_is_ready(world: World, lone: Guest) -> None:
    assert lone.publish("ssh-host-keys", KEY + "\n").status == 204
    assert lone.said("/peers") == {"complete": True, "missing": {}, "peers": []}
    assert lone.ask("POST", "/ready").status == 204
    assert lone.ask("POST", "/ready").status == 204
    machine = world.store.machine(lone.machine.uuid)
    assert (machine.ready, machine.host_keys) == ("ready", (BLOB,))
    told = [what for what, _ in world.told(machine)]
    assert told.count("ready") == 1
    assert told.count("host-keys") == 1


def test_a_machine_that_failed_says_why_in_one_clean_line(world: World, lone: Guest) -> None:
    assert lone.ask("POST", "/failed", b"20-data ended with 1:\r\n\x1b[31mno munge key\x00\xff").status == 204
    machine = world.store.machine(lone.machine.uuid)
    assert machine.ready == "failed: 20-data ended with 1: ?[31mno munge key?\ufffd"
    assert ("not-ready", "20-data ended with 1: ?[31mno munge key?\ufffd") in world.told(machine)
    lone.ask("POST", "/ready")
    assert world.store.machine(lone.machine.uuid).ready == "ready"


def test_lines_are_said_to_guests_that_ask_for_text(star: Star) -> None:
    world, head, one, _ = star
    world.observed(head.machine, "10.0.0.1")
    head.publish("munge.key", b"\x00\x01")
    head.ask("POST", "/ready")
    identity = one.ask("GET", "/identity", Accept="text/plain").text
    assert f"machine={one.machine.uuid}\n" in identity
    assert "requires=head:1\n" in identity
    peers = one.ask("GET", "/peers", Accept="text/plain").text
    assert peers == "complete yes\npeer star-head-1 head ready 10.0.0.1\ndata star-head-1 munge.key 2\n"
    renewed = one.ask("POST", "/session", Accept="text/plain").text
    assert renewed.startswith(f"session={one.session}\nexpires=2026-11-22T13:00:00Z\nmachine=")


# Secrets and sessions


def test_a_secret_that_is_used_twice_is_an_alarm_and_ends_the_session(made: tuple[World, Make]) -> None:
    world, make = made
    guest = make(world.machines()[0]).enter()
    guest.publish("ssh-host-keys", KEY)
    assert world.broker.known_hosts(guest.machine.deployment) == [f"lone-1 {BLOB}"]
    again = make(guest.machine).knock()
    assert (again.status, again.json["type"]) == (403, "urn:partita:problem:forbidden")
    assert "alarm" in [what for what, _ in world.told(guest.machine)]
    assert guest.ask("GET", "/identity").status == 401
    assert world.broker.known_hosts(guest.machine.deployment) == []
    assert make(guest.machine).knock().status == 403


def test_an_answer_that_was_lost_may_be_asked_for_again_with_the_same_nonce_for_a_while(
    own: tuple[World, Make],
) -> None:
    world, make = own
    guest = make(world.machines()[0])
    first, second = guest.knock(nonce=NONCE), guest.knock(nonce=NONCE)
    assert first.status == second.status == 200
    assert first.json["session"] == second.json["session"]
    assert [what for what, _ in world.told(guest.machine)].count("alarm") == 0
    world.now += RETRY_LIFE + timedelta(seconds=1)
    assert guest.knock(nonce=NONCE).status == 403
    assert "alarm" in [what for what, _ in world.told(guest.machine)]


def test_another_nonce_is_another_party(made: tuple[World, Make]) -> None:
    world, make = made
    guest = make(world.machines()[0])
    assert guest.knock(nonce=NONCE).status == 200
    assert guest.knock(nonce="m" * 40).status == 403
    assert guest.knock(nonce=NONCE).status == 403  # which of the two was the machine is not known


def test_of_many_that_show_a_secret_at_once_one_is_let_in(made: tuple[World, Make]) -> None:
    world, make = made
    guest = make(world.machines()[0])
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(guest.knock().status)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200] + [403] * 15


def test_a_session_ends_unless_it_is_renewed(own: tuple[World, Make]) -> None:
    world, make = own
    lone = make(world.machines()[0]).enter()
    world.now += SESSION_LIFE - timedelta(seconds=1)
    assert lone.ask("POST", "/session").status == 200
    world.now += SESSION_LIFE - timedelta(seconds=1)
    assert lone.ask("GET", "/identity").status == 200
    world.now += timedelta(seconds=1)
    answer = lone.ask("GET", "/identity")
    assert (answer.status, answer.headers["www-authenticate"].split()[0]) == (401, "Bearer")
    assert lone.ask("POST", "/session").status == 401


def test_a_machine_that_is_over_is_not_spoken_with(world: World, lone: Guest) -> None:
    world.store.change_machine(
        lone.machine.uuid, lambda found: found.model_copy(update={"want": Want.ENDED}), "ending", "asked for"
    )
    assert lone.ask("GET", "/identity").status == 401
    assert lone.publish("address", "10.0.0.1").status == 401


def test_a_node_that_asks_twice_is_told_the_same_and_another_node_something_new(world: World) -> None:
    (machine,) = world.machines()
    first = world.context(machine)
    assert world.context(machine) == first
    other = next(node for node in world.nodes if node != machine.node)
    world.store.change_machine(machine.uuid, lambda found: found.model_copy(update={"node": other}), "moved", "")
    assert world.context(machine).secret != first.secret
    assert world.context(machine) == world.context(machine)


def test_a_machine_on_another_node_starts_anew_and_what_it_was_is_not_let_in(made: tuple[World, Make]) -> None:
    world, make = made
    old = make(world.machines()[0]).enter()
    old.publish("ssh-host-keys", KEY)
    old.ask("POST", "/ready")
    other = next(node for node in world.nodes if node != old.machine.node)
    world.store.change_machine(old.machine.uuid, lambda found: found.model_copy(update={"node": other}), "moved", "")
    new = make(old.machine)
    assert old.ask("GET", "/identity").status == 401
    assert old.knock().status == 403
    new.enter()
    machine = world.store.machine(old.machine.uuid)
    assert (machine.ready, machine.host_keys) == (None, ())
    assert "alarm" not in [what for what, _ in world.told(machine)]


def test_a_machine_that_should_end_gets_no_context(world: World) -> None:
    (machine,) = world.machines()
    world.store.change_machine(
        machine.uuid, lambda found: found.model_copy(update={"want": Want.ENDED}), "ending", "asked for"
    )
    assert machine.node is not None
    state = world.broker.introduce(machine.node, world.store.desired(machine.node))
    assert [one.context for one in state.machines if one.uuid == machine.uuid] in ([], [None])


def test_no_secret_and_no_session_stands_in_the_database_or_in_a_log(
    own: tuple[World, Make], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    world, make = own
    with caplog.at_level(logging.DEBUG):
        guest = make(world.machines()[0])
        assert guest.knock(secret="x" * 43).status == 403
        guest.enter()
        guest.publish("ssh-host-keys", KEY)
        guest.ask("GET", "/peers/nobody/published/x")
        assert guest.ask("GET", "/nowhere").status == 404
        assert guest.knock().status == 403
    out, err = capfd.readouterr()
    said = caplog.text + out + err + "".join(str(event) for event in world.store.events())
    hidden = {guest.context.secret, guest.session, guest.session.partition(".")[2]}
    assert "shown a second time" in said
    assert [one for one in hidden if one in said] == []
    world.database.close()
    held = b"".join(path.read_bytes() for path in world.directory.iterdir() if path.name.startswith("site.db"))
    assert guest.machine.uuid.encode() in held
    assert [one for one in hidden if one.encode() in held] == []
    kept = sqlite3.connect(world.directory / "site.db")
    assert len(kept.execute("select secret, session from contexts").fetchall()) == 1
    kept.close()


def test_a_broker_with_tls_is_known_by_the_very_certificate_that_it_shows(tmp_path: Path) -> None:
    with site(tmp_path, tls=True) as (world, make):
        guest = make(world.machines()[0]).enter()
        host, port = guest.context.url.removeprefix("https://").split(":")
        shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))
        digest = hashes.Hash(hashes.SHA256())
        digest.update(shown)
        assert guest.context.fingerprint == digest.finalize().hex()


# Peers


def test_workers_wait_until_their_head_is_ready_and_the_head_waits_for_nobody(star: Star) -> None:
    world, head, one, _ = star
    assert head.said("/peers") == {"complete": True, "missing": {}, "peers": []}
    assert one.said("/peers") == {"complete": False, "missing": {"head": 1}, "peers": []}
    head.publish("address", "10.0.0.1")
    assert one.said("/peers?standing=present")["complete"]
    assert not one.said("/peers")["complete"]
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(one.said("/peers?wait=30")))
    waiting.start()
    time.sleep(0.3)
    assert found == []
    head.publish("munge.key", b"secret of the cluster")
    head.publish("ssh-host-keys", KEY)
    head.ask("POST", "/ready")
    waiting.join(60)
    (peers,) = found
    assert peers == {
        "complete": True,
        "missing": {},
        "peers": [
            {
                "machine": head.machine.uuid,
                "hostname": "star-head-1",
                "role": "head",
                "standing": "ready",
                "addresses": ["10.0.0.1"],
                "host_keys": [BLOB],
                "published": {"address": 8, "munge.key": 21, "ssh-host-keys": len(KEY)},
            }
        ],
    }
    assert one.ask("GET", "/peers/star-head-1/published/munge.key").body == b"secret of the cluster"
    assert one.ask("GET", f"/peers/{head.machine.uuid}/published/munge.key").body == b"secret of the cluster"
    assert one.ask("GET", "/hosts").text == "10.0.0.1 star-head-1\n"
    assert one.ask("GET", "/known_hosts").text == f"star-head-1,10.0.0.1 {BLOB}\n"
    world.observed(head.machine, "192.168.122.7")  # what the site sees counts more than what a guest says
    assert one.ask("GET", "/hosts").text == "192.168.122.7 star-head-1\n"


def test_members_of_one_role_find_each_other_before_any_is_ready(made: tuple[World, Make]) -> None:
    world, make = made
    ring = {"name": "ring", "roles": {"node": {"image": "a/b@1", "count": 3, "provides": ["mpi"], "requires": ["mpi"]}}}
    cluster = world.cluster(ring)
    nodes = [
        make(machine).enter() for machine in world.machines(3, cluster=cluster.uuid, role="node", hostname="ring-node")
    ]
    assert nodes[0].said("/identity")["requires"] == {"node": 2}
    for number, guest in enumerate(nodes[:2], 1):
        guest.publish("address", f"10.0.0.{number}")
    assert nodes[0].said("/peers")["missing"] == {"node": 1}
    nodes[2].publish("address", "10.0.0.3")
    for guest in nodes:
        found = guest.said("/peers")
        assert found["complete"]
        assert guest.machine.hostname not in [peer["hostname"] for peer in found["peers"]]


def test_a_role_that_never_speaks_is_there_as_soon_as_it_runs(made: tuple[World, Make]) -> None:
    world, make = made
    silent = {
        "name": "quiet",
        "roles": {
            "store": {"image": "a/b@1", "provides": ["files"], "ready": "running"},
            "user": {"image": "a/b@1", "requires": ["files"]},
        },
    }
    cluster = world.cluster(silent)
    (store,) = world.machines(1, cluster=cluster.uuid, role="store", hostname="quiet-store")
    user = make(world.machines(1, cluster=cluster.uuid, role="user", hostname="quiet-user")[0]).enter()
    assert not user.said("/peers")["complete"]
    world.observed(store, "10.0.0.9", state=State.BOOTING)
    assert not user.said("/peers")["complete"]
    world.observed(store, "10.0.0.9")
    assert user.said("/peers")["complete"]
    assert user.ask("GET", "/hosts").text == "10.0.0.9 quiet-store-1\n"


def test_peers_that_are_over_or_whose_secret_two_parties_showed_are_not_told_of(star: Star) -> None:
    _, head, one, _ = star
    head.publish("address", "10.0.0.1")
    head.ask("POST", "/ready")
    assert one.said("/peers")["complete"]
    head.knock()
    assert one.said("/peers")["peers"] == []
    assert one.ask("GET", "/peers/star-head-1/published/address").status == 403


def test_hosts_keys_are_told_to_the_requester_as_known_hosts_lines(star: Star) -> None:
    world, head, one, two = star
    world.observed(head.machine, "10.0.0.1", "fd00::1")
    other = public_key("ecdsa-sha2-nistp256")
    for guest in (head, one):
        guest.publish("ssh-host-keys", f"{KEY}\n{other}\n")
    lines = world.broker.known_hosts(head.machine.deployment)
    assert lines == [f"star-head-1,10.0.0.1,fd00::1 {key}" for key in (BLOB, " ".join(other.split(" ")[:2]))]
    assert [line.split(" ")[0] for line in world.broker.known_hosts(one.machine.deployment)] == ["star-worker-1"] * 2
    two.publish("ssh-host-keys", KEY)
    two.knock()
    assert "star-worker-2" not in str(world.broker.known_hosts(one.machine.deployment))


# Attacks


FOREIGN = [
    ("another machine's secret", lambda me, you: me.knock(secret=you.context.secret), 403),
    ("a secret for another machine", lambda me, you: you.knock(machine=me.machine.uuid), 403),
    ("a secret that nobody has", lambda me, _: me.knock(secret="A" * 43), 403),
    ("a machine that there is not", lambda me, _: me.knock(machine="00000000-0000-4000-8000-000000000000"), 403),
    ("an empty secret", lambda me, _: me.ask("POST", "/identity", b'{"machine":"%s","secret":""}'), 400),
    ("another machine's name before the own token", lambda me, you: _as(me, _mixed(you, me)), 401),
    ("the own name before another machine's token", lambda me, you: _as(me, _mixed(me, you)), 401),
    ("a session without a token", lambda me, _: _as(me, me.machine.uuid + "."), 401),
    ("the digest instead of the session", lambda me, _: _as(me, "0" * 64), 401),
    ("the secret instead of the session", lambda me, _: _as(me, me.context.secret), 401),
    ("no session at all", lambda me, _: _as(me, ""), 401),
    ("a role that is not required", lambda me, _: me.ask("GET", "/peers?role=worker"), 403),
    ("a role that there is not", lambda me, _: me.ask("GET", "/peers?role=nobody"), 403),
    ("data of a machine of the own role", lambda me, _: me.ask("GET", "/peers/star-worker-2/published/address"), 403),
    ("data of itself through the others", lambda me, _: me.ask("GET", "/peers/star-worker-1/published/address"), 403),
    (
        "another cluster's machine by its UUID",
        lambda me, you: me.ask("GET", f"/peers/{you.machine.uuid}/published/address"),
        403,
    ),
    ("a key of another that it has not", lambda me, _: me.ask("GET", "/peers/star-head-1/published/nothing"), 403),
    ("to wait for an hour", lambda me, _: me.ask("GET", "/peers?wait=3600"), 400),
    ("a standing that there is not", lambda me, _: me.ask("GET", "/peers?standing=failed"), 400),
]


def _mixed(name: Guest, token: Guest) -> str:
    return f"{name.machine.uuid}.{token.session.partition('.')[2]}"


def _as(me: Guest, session: str):  # type: ignore[no-untyped-def]
    before, me.session = me.session, session
    try:
        return me.ask("GET", "/identity")
    finally:
        me.session = before


@pytest.mark.parametrize(("attack", "what", "status"), FOREIGN, ids=[row[0] for row in FOREIGN])
def test_nobody_gets_what_is_not_theirs(made: tuple[World, Make], attack: str, what: Callable, status: int) -> None:  # type: ignore[type-arg]
    world, make = made
    head, me, two = (make(machine).enter() for machine in world.star())
    for guest, address in ((head, "10.0.0.1"), (me, "10.0.0.2"), (two, "10.0.0.3")):
        guest.publish("address", address)
    head.ask("POST", "/ready")
    other = world.cluster({"name": "other", "roles": STAR["roles"]})
    you = make(world.machines(1, cluster=other.uuid, role="head", hostname="other-head")[0]).enter()
    you.publish("address", "10.9.9.9")
    you.ask("POST", "/ready")
    answer = what(me, you)
    assert answer.status == status, answer
    assert b"10.9.9.9" not in answer.body
    if attack != "a secret for another machine" and attack != "another machine's secret":
        assert me.ask("GET", "/identity").status == 200
    assert [peer["hostname"] for peer in me.said("/peers")["peers"]] == ["star-head-1"]


KEYS_THAT_ARE_NONE = [
    "..",
    ".ssh",
    "a..b",
    "a%2Fb",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "a%00b",
    "a%0Ab",
    "a%20b",
    "a;b",
    "-rf",
    "x" * 65,
    "%C3%A9",
    "a.",
]


@pytest.mark.parametrize("key", KEYS_THAT_ARE_NONE)
def test_keys_lead_nowhere(lone: Guest, key: str) -> None:
    for method in ("PUT", "POST"):
        assert lone.ask(method, f"/published/{key}", b"x").status in (400, 404, 405, 422)
    assert lone.ask("GET", f"/peers/lone-1/published/{key}").status in (400, 403, 404, 422)


LINES_THAT_ARE_NONE = [
    ("address", "10.0.0.1\r\n"),
    ("address", "10.0.0.1 evil.example.org"),
    ("address", "10.0.0.1\n10.0.0.2 star-head-1"),
    ("address", "10.0.0.1\x0010.0.0.2"),
    ("address", "10.0.0.1\u2028"),
    ("address", "010.0.0.1"),
    ("address", "10.0.0.1/24"),
    ("address", "127.0.0.1"),
    ("address", "::1"),
    ("address", "0.0.0.0"),  # noqa: S104 - one that is refused
    ("address", "224.0.0.1"),
    ("address", "fe80::1"),
    ("address", "fd00::1%eth0"),
    ("address", "FD00::1"),
    ("address", "localhost"),
    ("address", ""),
    ("address", "\n\n"),
    ("address", "\n".join(f"10.0.0.{number}" for number in range(17))),
    ("ssh-host-keys", ""),
    ("ssh-host-keys", "star-head-1 " + BLOB),
    ("ssh-host-keys", f"@cert-authority * {BLOB}"),
    ("ssh-host-keys", f"{BLOB}\r\n* {BLOB}"),
    ("ssh-host-keys", f"{BLOB} x\n* {BLOB}"),
    ("ssh-host-keys", BLOB.replace("ssh-ed25519", "ssh-rsa")),
    ("ssh-host-keys", BLOB + " comment\x85with another line"),
    ("ssh-host-keys", "\n".join([BLOB] * 9)),
    ("ssh-host-keys", "ssh-ed25519"),
    ("ssh-host-keys", f"  {BLOB}"),
]


@pytest.mark.parametrize(("key", "value"), LINES_THAT_ARE_NONE)
def test_what_would_be_a_line_of_its_own_in_another_guest_is_refused(lone: Guest, key: str, value: str) -> None:
    answer = lone.publish(key, value)
    assert (answer.status, answer.json["type"]) == (400, "urn:partita:problem:deployment-misused")
    assert lone.said("/peers")["peers"] == []


def test_what_is_too_large_or_too_much_is_refused_and_nothing_of_it_kept(star: Star) -> None:
    _, head, one, _ = star
    head.publish("address", "10.0.0.1")
    head.ask("POST", "/ready")
    assert head.publish("big", bytes(MAX_DATA)).status == 204
    assert head.publish("bigger", bytes(MAX_DATA + 1)).status == 413
    for number in range(MAX_PUBLISHED - 2):
        assert head.publish(f"k{number}", b"x").status == 204
    assert head.publish("one-more", b"x").status == 400
    assert head.publish("k0", b"changed").status == 204
    (peer,) = one.said("/peers")["peers"]
    assert len(peer["published"]) == MAX_PUBLISHED
    assert peer["published"]["k0"] == 7
    assert one.ask("GET", "/peers/star-head-1/published/big").body == bytes(MAX_DATA)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"machine":1,"secret":"x"}',
        b'{"machine":"../../etc","secret":"xxxxxxxxxxxxxxxxxxxxxxxx"}',
        b'{"machine":"00000000-0000-4000-8000-000000000000","secret":"x","admin":true}',
        b'{"machine":"00000000-0000-4000-8000-000000000000","secret":"x","secret":"y"}',
        b'{"machine":"00000000-0000-4000-8000-000000000000","secret":"x","nonce":"short"}',
        b"\xff" * 100,
        b"[" * 2000,
        b" " * 3000,
    ],
)
def test_a_first_request_that_is_none_is_refused(lone: Guest, body: bytes) -> None:
    assert lone.ask("POST", "/identity", body).status in (400, 413)


def test_headers_cannot_be_smuggled_in(lone: Guest) -> None:
    """A raw request with a second header in the session, and one with two lengths."""
    host, port = lone.context.url.removeprefix("http://").split(":")
    shown = f"Host: x\r\nAuthorization: Bearer {lone.session}\r\n"
    for head in (
        f"GET /context/v1/identity HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\x00{lone.session}\r\n\r\n",
        f"POST /context/v1/ready HTTP/1.1\r\n{shown}Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(head.encode())
            assert connection.recv(100).split(b" ")[1] in (b"400", b"401")


# Host certificates


def _load(answer: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(answer)


def test_a_host_certificate_is_for_what_the_site_gave_whatever_the_request_says(world: World, lone: Guest) -> None:
    world.observed(lone.machine, "10.1.2.3")
    lone.publish("address", "10.9.9.9")  # the guest's own word
    key = ec.generate_private_key(ec.SECP256R1())
    wished = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.bank.example")]))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("*.example.org"), x509.DNSName("star-head-1")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    answer = lone.ask("POST", "/certificate", wished.public_bytes(serialization.Encoding.PEM))
    assert answer.status == 200
    leaf, issuer = _load(answer.body)
    assert issuer.public_bytes(serialization.Encoding.PEM) == world.authority.certificate
    leaf.verify_directly_issued_by(issuer)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lone-1"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [str(one.value) for one in leaf.subject] == [HOST, lone.machine.uuid]
    assert leaf.not_valid_after_utc <= world.store.machine(lone.machine.uuid).ends
    # It is no node's: the site does not take a guest for one of its nodes.
    der = leaf.public_bytes(serialization.Encoding.DER)
    assert world.authority.issued(der, world.now)
    assert world.authority.node_of([der], world.now) is None


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"", 400), (b"hello", 400), (b"\xff" * 100, 400), (b"-" * 5000, 413), (b"weak", 400), (b"forged", 400)],
)
def test_a_certificate_request_that_is_none_is_refused(lone: Guest, request_: bytes, status: int) -> None:
    if request_ in (b"weak", b"forged"):
        curve = ec.SECP192R1() if request_ == b"weak" else ec.SECP256R1()
        asked = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(ec.generate_private_key(curve), hashes.SHA256())
        )
        der = bytearray(asked.public_bytes(serialization.Encoding.DER))
        if request_ == b"forged":
            der[-1] ^= 1
        request_ = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()
    assert lone.ask("POST", "/certificate", request_).status == status


def test_a_certificate_needs_a_session(made: tuple[World, Make]) -> None:
    world, make = made
    assert make(world.machines()[0]).ask("POST", "/certificate", new_request()[1].encode()).status == 401


# What is kept


def test_machines_that_are_long_over_are_forgotten(own: tuple[World, Make]) -> None:
    world, make = own
    lone = make(world.machines()[0]).enter()
    lone.publish("data", b"x")
    (other,) = world.machines(hostname="other")
    world.context(other)
    world.store.change_machine(
        lone.machine.uuid, lambda found: found.model_copy(update={"want": Want.ENDED}), "ending", ""
    )
    world.store.change_machine(
        other.uuid, lambda found: found.model_copy(update={"ends": found.ends + timedelta(days=9)}), "extended", ""
    )
    assert world.broker.tidy() == 0
    world.now += timedelta(hours=2) + KEEP
    assert world.broker.tidy() == 1
    assert world.broker.tidy() == 0
    kept = sqlite3.connect(world.directory / "site.db")
    assert kept.execute("select machine from contexts").fetchall() == [(other.uuid,)]
    assert kept.execute("select count(*) from published").fetchone() == (0,)
    kept.close()


def test_the_key_is_made_once_kept_private_and_missed_when_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "context.key"
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(broker_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["context.key"]
    path.write_bytes(b"short")
    with pytest.raises(Exception, match="is not the 32 bytes"):
        broker_key(path)


# Pure


@given(st.text(max_size=80))
def test_a_key_is_a_plain_name_or_none(text: str) -> None:
    try:
        assert check_key(text) == text
    except Misused:
        return
    assert text.isascii()
    assert "/" not in text
    assert not text.startswith(".")
    assert text.isprintable()
    assert " " not in text


@given(st.binary(max_size=120))
def test_lines_for_other_guests_are_whole_or_refused(data: bytes) -> None:
    for read in (parse_addresses, parse_host_keys):
        try:
            found = read(data)
        except Misused:
            continue
        assert found
        assert all(line.isascii() and line.isprintable() for line in found)


@given(st.binary(max_size=2000))
def test_a_reason_is_one_printable_line(data: bytes) -> None:
    reason = clean_reason(data)
    assert reason
    assert reason.isprintable()
    assert len(reason) <= 300


@pytest.mark.parametrize(
    ("text", "found"),
    [("10.0.0.1/24", "10.0.0.1"), ("FD00::1", "fd00::1"), ("fe80::1", None), ("x", None), ("", None), ("::", None)],
)
def test_addresses_that_nodes_report_are_read(text: str, found: str | None) -> None:
    assert usable_address(text) == found


def test_machines_that_wait_share_what_one_of_them_has_read(own: tuple[World, Make]) -> None:
    world, make = own
    machines = world.star()
    head, one, two = (make(machine).enter() for machine in machines)
    now, reads = 0.0, 0
    read = world.store.machines

    def machines_of(which: Filter, limit: int, after: str | None = None) -> tuple[Sequence[SiteMachine], str | None]:
        nonlocal reads
        reads += 1
        return read(which, limit, after)

    known = SimpleNamespace(machines=machines_of, deployment=world.store.deployment)
    meeting = Meeting(known, world.database, lambda uuid: Cluster.of(world.store.cluster(uuid)), lambda: now, 0.5)  # type: ignore[arg-type]
    for machine in (one.machine, two.machine, one.machine):
        assert not meeting.peers(machine, patient=True).complete
    assert reads == 1
    head.publish("address", "10.0.0.1")
    head.ask("POST", "/ready")
    assert meeting.peers(one.machine).complete  # who does not wait is told what is true now
    assert not meeting.peers(one.machine, patient=True).complete
    now = 0.6
    assert meeting.peers(one.machine, patient=True).complete
    assert reads == 3


def test_a_guest_that_asks_without_end_is_slowed_and_the_others_are_not(made: tuple[World, Make]) -> None:
    world, make = made
    loud, quiet = (make(machine).enter() for machine in world.machines(2))
    answers = [loud.ask("GET", "/identity") for _ in range(int(PER_GUEST.burst) + 50)]
    slowed = [answer for answer in answers if answer.status != 200]
    assert {answer.status for answer in slowed} == {429}
    assert int(slowed[0].headers["retry-after"]) >= 1
    assert quiet.ask("GET", "/identity").status == 200


def test_an_address_that_cannot_be_listened_on_is_said(tmp_path: Path) -> None:
    with listen("127.0.0.1:0") as held:
        port = held.getsockname()[1]
        with pytest.raises(SiteUnavailable, match=r"choose another with site\.broker_listen"):
            listen(f"127.0.0.1:{port}")
    with pytest.raises(Misused, match="a port is at most 65535"):
        listen("127.0.0.1:65536")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("DELETE", "/ready", 400, "malformed"),
        ("GET", "/../../v1/machines", 404, "not-found"),
        ("GET", "/peers?wait=-1", 400, "malformed"),
    ],
)
def test_every_error_is_a_problem_document(lone: Guest, method: str, path: str, status: int, code: str) -> None:
    answer = lone.ask(method, path)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json["type"].endswith(code)
