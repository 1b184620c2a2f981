"""Who acts is known within their request alone."""

import threading

from deployer.site.model.current_actor import acting_as, get_actor, set_actor
from tests.support.site.values import ALICE, BOB, CAROL


def test_who_acts_is_known_within_their_request_alone() -> None:
    """Nobody acts where nothing was asked for, whatever others do at the same time."""
    seen: list[str] = []
    with acting_as(ALICE):
        thread = threading.Thread(target=lambda: seen.append(get_actor()))
        thread.start()
        thread.join()
        with acting_as(BOB):
            seen.append(get_actor())
        seen.append(get_actor())
        set_actor(CAROL)
        seen.append(get_actor())
    seen.append(get_actor())
    assert seen == ["", BOB.identity, ALICE.identity, CAROL.identity, ""]
