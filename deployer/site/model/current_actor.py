"""Who acts: whoever was let through in the present request, for the story to say so.

`Access` notes it where it lets somebody do something, and the store writes it beside each event of what they do. It holds for
one request (a context variable: each request has a context of its own), so no route can forget it, and what the site does by
itself is nobody's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from deployer.site.model.principal import Principal

_ACTOR: ContextVar[str] = ContextVar("actor", default="")


def set_actor(who: Principal) -> None:
    """Set the actor until the present request is over."""
    _ACTOR.set(who.identity)


@contextmanager
def acting_as(who: Principal) -> Iterator[None]:
    """Set the actor while the block runs."""
    before = _ACTOR.set(who.identity)
    try:
        yield
    finally:
        _ACTOR.reset(before)


def get_actor() -> str:
    """The identity of who acts; empty for the site itself."""
    return _ACTOR.get()
