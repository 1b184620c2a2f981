"""Who is logged in on the console, and the links by which a site's operator logs in. In memory: a restart logs everybody out.

A browser holds nothing but a random word. So a session of somebody with hundreds of groups is no larger than another, it
ends at once when they log out, and there is no key by whose loss others could be made.
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
"""How long a session holds at most: a working day. One by a token never holds longer than the token."""

LINK_LIFE = timedelta(minutes=1)
"""How long the operator's link is good: from one window to the other."""

SESSION_SECRET_BYTES = 32
"""Of what a browser holds: nobody guesses 256 bits."""

MAX_SESSIONS = 10_000
"""Sessions that are kept: the oldest goes first."""

MAX_LINKS = 100
"""Links that are good at a time."""


@dataclass(frozen=True)
class LoginSession:
    """Somebody who is logged in.

    Attributes:
        who: as they were known when they logged in; what they may is looked up each time.
        expires: when they have to log in again.
        form: what each form of theirs carries, so that no other page can send one in their name.
    """

    who: Principal
    expires: datetime
    form: str


class LoginSessions:
    """Safe to use from several threads. Secrets are kept as digests: who reads this memory cannot use them elsewhere.

    Args:
        secret: gives a fresh unguessable text.
    """

    def __init__(self, secret: Callable[[], str]) -> None:
        self._secret = secret
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, LoginSession] = OrderedDict()
        self._links: OrderedDict[str, tuple[Principal, datetime]] = OrderedDict()

    def open(self, who: Principal, until: datetime, now: datetime) -> tuple[str, LoginSession]:
        """Log somebody in, until that time at most; returns what their browser holds, and the session.

        Raises:
            NotAuthenticated: the time is over already.
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
        """The session that a browser's secret stands for; NotAuthenticated if it stands for none any more."""
        with self._lock:
            found = self._sessions.get(_digest(text))
            if found is not None and found.expires <= now:
                del self._sessions[_digest(text)]
                found = None
        if found is None:
            raise NotAuthenticated("you are not logged in, or not any more")
        return found

    def end(self, text: str) -> None:
        """Log out."""
        with self._lock:
            self._sessions.pop(_digest(text), None)

    def invite(self, who: Principal, now: datetime) -> str:
        """A code by which somebody logs in once, within a minute."""
        text = self._secret()
        with self._lock:
            self._links[_digest(text)] = (who, now + LINK_LIFE)
            while len(self._links) > MAX_LINKS:
                self._links.popitem(last=False)
        return text

    def redeem(self, code: str, now: datetime) -> Principal:
        """Whose a code is, which is good no longer; NotAuthenticated if it is nobody's."""
        with self._lock:
            who, until = self._links.pop(_digest(code), (None, now))
        if who is None or until <= now:
            raise NotAuthenticated("this link is not good (any more); ask for a new one: partita site login")
        return who


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
