"""What a service does without being asked: each duty by itself, whatever another one fails over."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.errors import SiteUnavailable
from deployer.site.service.background import BackgroundThreads, run_every
from deployer.site.service.site import Site
from deployer.site.settings import SiteSettings
from deployer.site.store.changes import add_node
from deployer.web.wakeup import Wakeup
from tests.support.node.service_process import wait_for

NOW = datetime.now(UTC)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site that is open, and has not begun."""
    found = Site.open(SiteSettings(directory=tmp_path / "site"), "https://localhost:1")
    yield found
    found.close()


def test_a_duty_that_fails_keeps_no_other_from_being_done(site: Site) -> None:
    """Those behind it are done, it is tried again, and the service is not ready meanwhile."""
    done: list[str] = []

    def fails(_now: datetime) -> None:
        done.append("fails")
        if len(done) < 4:
            raise ZeroDivisionError

    site.background = BackgroundThreads(site.store, site.catalog, (), [fails, lambda _now: done.append("works")])
    with pytest.raises(SiteUnavailable, match="background tasks are failing"):
        site.check()
    site.start()
    wait_for(lambda: done.count("works") >= 3, 30)
    assert done.count("fails") >= 3
    wait_for(lambda: _ready(site), 30)


def _ready(site: Site) -> bool:
    try:
        site.check()
    except SiteUnavailable:
        return False
    return True


def test_news_come_with_each_nodes_revision(site: Site) -> None:
    """Whoever waits is woken, and sees at once whether it is for them."""
    rung = threading.Event()

    async def wait() -> None:
        site.wakeup.bind()
        count = site.wakeup.count
        asked.set()
        await site.wakeup.wait(count, 30)
        rung.set()

    asked = threading.Event()
    waiting = threading.Thread(target=lambda: asyncio.run(wait()))
    waiting.start()
    asked.wait(30)
    site.start()
    node = site.store.write(add_node, "one", {}).uuid
    waiting.join()
    assert rung.is_set()
    wait_for(lambda: node in site.background.revisions, 30)


def test_a_seldom_duty_is_done_seldom() -> None:
    """Once in so many seconds, and not at first."""
    clock = [0.0]
    done: list[float] = []
    duty = run_every(10, lambda: done.append(clock[0]), lambda: clock[0])
    for second in range(35):
        clock[0] = float(second)
        duty(NOW)
    assert done == [10, 20, 30]


@pytest.mark.parametrize(
    ("about", "act", "woken"),
    [
        ("a ring", lambda bell: bell.notify(), True),
        ("the end", lambda bell: bell.end(), True),
        ("nothing", lambda _bell: None, False),
    ],
)
def test_a_bell_wakes_all_who_wait(about: str, act: Callable[[Wakeup], None], woken: bool) -> None:
    """A ring that came before somebody waits is not lost; without one the time passes."""

    async def story() -> tuple[int, bool]:
        bell = Wakeup()
        bell.notify()  # nobody has hung it yet: no harm
        bell.bind()
        began = bell.time()
        count = bell.count
        waits = [asyncio.create_task(bell.wait(count, 30 if woken else 0.05)) for _ in range(50)]
        await asyncio.sleep(0)
        act(bell)
        await asyncio.gather(*waits)
        await bell.wait(bell.count - 1, 30)
        await bell.wait(bell.count, 0)
        return bell.count, bell.time() - began < 25

    count, soon = asyncio.run(story())
    assert soon
    assert (count > 0) is woken
