"""The actor of the present request: the principal that was authorized for it, named in its events.

The authorizer sets it where it permits an action, and the store writes it with each event of that action. It holds for
one request (a context variable: each request has a context of its own), so no route can forget it, and what the site does by
itself has no actor.
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
