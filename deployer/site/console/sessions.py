"""Sessions of the console, and the links with which a site's operator logs in. In memory: a restart ends all sessions.

A browser holds nothing but a random secret. So a session of a user with hundreds of groups is as small as any other, it
ends at once at logout, and there is no signing key with whose loss sessions could be forged.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from deployer.errors import NotAuthenticated
from deployer.site.model.principal import Principal

MAX_SESSION = timedelta(hours=8)
"""The longest session: a working day. One by a token never outlives the token."""

LINK_LIFE = timedelta(minutes=1)
"""Validity of the operator's link: enough to copy it to a browser."""

SESSION_SECRET_BYTES = 32
"""Bytes of a browser's secret: 256 bits cannot be guessed."""

MAX_SESSIONS = 10_000
"""Sessions that are kept; the oldest is dropped first."""

MAX_LINKS = 100
"""Links that are valid at a time."""


@dataclass(frozen=True)
class LoginSession:
    """A user's session.

    Attributes:
        who: the principal at login; what they may do is looked up each time.
        expires: when they have to log in again.
        form: a secret in each of their forms, so that no other page can send one in their name.
    """

    who: Principal
    expires: datetime
    form: str


class LoginSessions:
    """The sessions and links. Safe to use from several threads. Secrets are kept as digests: a memory dump reveals none.

    Args:
        secret: returns a fresh unguessable string.
    """

    def __init__(self, secret: Callable[[], str]) -> None:
        self._secret = secret
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, LoginSession] = OrderedDict()
        self._links: OrderedDict[str, tuple[Principal, datetime]] = OrderedDict()

    def open(self, who: Principal, until: datetime, now: datetime) -> tuple[str, LoginSession]:
        """Open a session that ends at `until` at the latest; returns the browser's secret, and the session.

        Raises:
            NotAuthenticated: `until` has passed.
        """
        expires = min(until, now + MAX_SESSION)
        if expires <= now:
            raise NotAuthenticated("credentials have expired")
        text, session = self._secret(), LoginSession(who, expires, self._secret())
        with self._lock:
            self._sessions[_digest(text)] = session
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return text, session

    def find(self, text: str, now: datetime) -> LoginSession:
        """The session of a browser's secret; NotAuthenticated if it is unknown or expired."""
        with self._lock:
            found = self._sessions.get(_digest(text))
            if found is not None and found.expires <= now:
                del self._sessions[_digest(text)]
                found = None
        if found is None:
            raise NotAuthenticated("you are not logged in, or your session has expired")
        return found

    def end(self, text: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_digest(text), None)

    def invite(self, who: Principal, now: datetime) -> str:
        """A code with which a principal logs in once, within a minute."""
        text = self._secret()
        with self._lock:
            self._links[_digest(text)] = (who, now + LINK_LIFE)
            while len(self._links) > MAX_LINKS:
                self._links.popitem(last=False)
        return text

    def redeem(self, code: str, now: datetime) -> Principal:
        """The principal of a code, which is used up by this; NotAuthenticated if it is unknown or expired."""
        with self._lock:
            who, until = self._links.pop(_digest(code), (None, now))
        if who is None or until <= now:
            raise NotAuthenticated("this link is invalid or expired; get a new one with partita site login")
        return who


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
