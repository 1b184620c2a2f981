"""What guests may not: what is not theirs, lines that would be another's, and what is too large or no request at all."""

import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import Misused
from deployer.site.broker.rules import (
    MAX_DATA,
    MAX_PUBLISHED,
    check_key,
    clean_reason,
    parse_addresses,
    parse_host_keys,
)
from tests.support.site.context_broker import BLOB, STAR, Guest, Make, Star, World

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
    assert (answer.status, answer.json["type"]) == (400, "urn:partita:problem:misused")
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
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("DELETE", "/ready", 405, "misused"),
        ("GET", "/../../v1/machines", 404, "not-found"),
        ("GET", "/peers?wait=-1", 400, "malformed"),
    ],
)
def test_every_error_is_a_problem_document(lone: Guest, method: str, path: str, status: int, code: str) -> None:
    answer = lone.ask(method, path)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json["type"].endswith(code)
