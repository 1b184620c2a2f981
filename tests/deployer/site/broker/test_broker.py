"""A broker over time: what it forgets, its key, how it slows those who ask without end, and where it listens."""

import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.errors import Misused
from deployer.errors import SiteUnavailable
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.broker.api import PER_GUEST
from deployer.site.broker.broker import KEEP, broker_key
from deployer.site.daemon import bind_address
from deployer.site.store.changes import change_machine
from tests.support.site.context_broker import Make, World
from tests.support.site.values import telling

# What is kept


def test_machines_that_are_long_over_are_forgotten(own: tuple[World, Make]) -> None:
    world, make = own
    lone = make(world.machines()[0]).enter()
    lone.publish("data", b"x")
    (other,) = world.machines(hostname="other")
    world.context(other)
    world.store.write(
        change_machine,
        lone.machine.uuid,
        telling(lambda found: found.model_copy(update={"desired": DesiredStatus.ENDED}), "ending", ""),
    )
    world.store.write(
        change_machine,
        other.uuid,
        telling(lambda found: found.model_copy(update={"expires": found.expires + timedelta(days=9)}), "extended", ""),
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
    with pytest.raises(Exception, match="does not have 32 bytes"):
        broker_key(path)


def test_a_guest_that_asks_without_end_is_slowed_and_the_others_are_not(made: tuple[World, Make]) -> None:
    world, make = made
    loud, quiet = (make(machine).enter() for machine in world.machines(2))
    answers = [loud.ask("GET", "/identity") for _ in range(int(PER_GUEST.burst) + 50)]
    slowed = [answer for answer in answers if answer.status != 200]
    assert {answer.status for answer in slowed} == {429}
    assert int(slowed[0].headers["retry-after"]) >= 1
    assert quiet.ask("GET", "/identity").status == 200


def test_an_address_that_cannot_be_listened_on_is_said(tmp_path: Path) -> None:
    with bind_address("127.0.0.1:0", "site.broker_listen") as held:
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(SiteUnavailable, match=r"choose another with site\.broker_listen"):
            bind_address(f"127.0.0.1:{port}", "site.broker_listen")
    with pytest.raises(Misused, match="a port is at most 65535"):
        bind_address("127.0.0.1:65536", "site.broker_listen")
