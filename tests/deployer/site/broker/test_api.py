"""The context broker, asked over HTTP as guests ask it: who is let in, what they learn of themselves, and when it ends."""

import logging
import sqlite3
import threading
from datetime import timedelta

import pytest

from deployer.protocol.desired_state import DesiredStatus
from deployer.site.broker.rules import RETRY_LIFE, SESSION_LIFE
from deployer.site.db.events import list_events
from deployer.site.db.machines import desired_state, get_machine
from deployer.site.store.changes import change_machine
from tests.support.site.context_broker import BLOB, KEY, NONCE, Guest, Make, Star, World
from tests.support.site.values import telling

# A machine alone


def test_a_machine_changes_its_secret_for_a_session_and_learns_who_it_is(world: World, lone: Guest) -> None:
    world.observed(lone.machine, "10.1.2.3", "fe80::1", "fd00::5/64")
    said = lone.said("/identity")
    machine = world.store.read(get_machine, lone.machine.uuid)
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
    machine = world.store.read(get_machine, lone.machine.uuid)
    assert (machine.ready, machine.host_keys) == ("ready", (BLOB,))
    told = [what for what, _ in world.told(machine)]
    assert told.count("ready") == 1
    assert told.count("host-keys") == 1


def test_a_machine_that_failed_says_why_in_one_clean_line(world: World, lone: Guest) -> None:
    assert lone.ask("POST", "/failed", b"20-data ended with 1:\r\n\x1b[31mno munge key\x00\xff").status == 204
    machine = world.store.read(get_machine, lone.machine.uuid)
    assert machine.ready == "failed: 20-data ended with 1: ?[31mno munge key?\ufffd"
    assert ("not-ready", "20-data ended with 1: ?[31mno munge key?\ufffd") in world.told(machine)
    lone.ask("POST", "/ready")
    assert world.store.read(get_machine, lone.machine.uuid).ready == "ready"


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
    assert world.broker.directory.known_hosts(guest.machine.deployment) == [f"lone-1 {BLOB}"]
    again = make(guest.machine).knock()
    assert (again.status, again.json["type"]) == (403, "urn:partita:problem:forbidden")
    assert "alarm" in [what for what, _ in world.told(guest.machine)]
    assert guest.ask("GET", "/identity").status == 401
    assert world.broker.directory.known_hosts(guest.machine.deployment) == []
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
    world.store.write(
        change_machine,
        lone.machine.uuid,
        telling(lambda found: found.model_copy(update={"desired": DesiredStatus.ENDED}), "ending", "asked for"),
    )
    assert lone.ask("GET", "/identity").status == 401
    assert lone.publish("address", "10.0.0.1").status == 401


def test_a_node_that_asks_twice_is_told_the_same_and_another_node_something_new(world: World) -> None:
    (machine,) = world.machines()
    first = world.context(machine)
    assert world.context(machine) == first
    other = next(node for node in world.nodes if node != machine.node)
    world.store.write(
        change_machine, machine.uuid, telling(lambda found: found.model_copy(update={"node": other}), "migrated", "")
    )
    assert world.context(machine).secret != first.secret
    assert world.context(machine) == world.context(machine)


def test_a_machine_on_another_node_starts_anew_and_what_it_was_is_not_let_in(made: tuple[World, Make]) -> None:
    world, make = made
    old = make(world.machines()[0]).enter()
    old.publish("ssh-host-keys", KEY)
    old.ask("POST", "/ready")
    other = next(node for node in world.nodes if node != old.machine.node)
    world.store.write(
        change_machine,
        old.machine.uuid,
        telling(lambda found: found.model_copy(update={"node": other}), "migrated", ""),
    )
    new = make(old.machine)
    assert old.ask("GET", "/identity").status == 401
    assert old.knock().status == 403
    new.enter()
    machine = world.store.read(get_machine, old.machine.uuid)
    assert (machine.ready, machine.host_keys) == (None, ())
    assert "alarm" not in [what for what, _ in world.told(machine)]


def test_a_machine_that_should_end_gets_no_context(world: World) -> None:
    (machine,) = world.machines()
    world.store.write(
        change_machine,
        machine.uuid,
        telling(lambda found: found.model_copy(update={"desired": DesiredStatus.ENDED}), "ending", "asked for"),
    )
    assert machine.node is not None
    state = world.broker.introduce(machine.node, world.store.read(desired_state, machine.node))
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
    said = caplog.text + out + err + "".join(str(event) for event in world.store.read(list_events))
    hidden = {guest.context.secret, guest.session, guest.session.partition(".")[2]}
    assert "presented a second time" in said
    assert [one for one in hidden if one in said] == []
    world.database.close()
    held = b"".join(path.read_bytes() for path in world.directory.iterdir() if path.name.startswith("site.db"))
    assert guest.machine.uuid.encode() in held
    assert [one for one in hidden if one.encode() in held] == []
    kept = sqlite3.connect(world.directory / "site.db")
    assert len(kept.execute("select secret, session from contexts").fetchall()) == 1
    kept.close()
