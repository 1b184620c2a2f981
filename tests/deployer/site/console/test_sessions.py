"""Sessions and links: whose they are, how long they are good, and that each ends."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from deployer.errors import NotAuthenticated
from deployer.site.console import sessions as module
from deployer.site.console.sessions import LINK_LIFE, MAX_SESSION, LoginSessions
from deployer.site.model.principal import LOCAL_OPERATOR, Principal

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ANN = Principal(issuer="https://issuer.example", subject="ann", vo="star", means="token")


@pytest.fixture
def sessions() -> LoginSessions:
    """With secrets that can be told apart."""
    numbers = itertools.count()
    return LoginSessions(lambda: f"secret-{next(numbers)}")


def test_a_session_is_somebodys_until_its_time_is_over(sessions: LoginSessions) -> None:
    """To the second; and its secret stands nowhere."""
    text, opened = sessions.open(ANN, NOW + timedelta(minutes=5), NOW)
    assert sessions.find(text, NOW + timedelta(minutes=5) - SECOND) is opened
    assert (opened.who, opened.expires) == (ANN, NOW + timedelta(minutes=5))
    assert opened.form not in {text, ""}
    assert text not in repr(vars(sessions))
    with pytest.raises(NotAuthenticated):
        sessions.find(text, NOW + timedelta(minutes=5))
    with pytest.raises(NotAuthenticated):
        sessions.find(text, NOW)  # what was over once does not come back, whatever the clock does


def test_a_session_lasts_no_longer_than_a_day_of_work(sessions: LoginSessions) -> None:
    """However long the token does; and none begins when the token is over."""
    assert sessions.open(ANN, NOW + timedelta(days=30), NOW)[1].expires == NOW + MAX_SESSION
    with pytest.raises(NotAuthenticated):
        sessions.open(ANN, NOW, NOW)


@pytest.mark.parametrize("text", ["", "secret-", "secret-00", "secret-1", "\udcff"])
def test_what_is_no_secret_finds_nothing(sessions: LoginSessions, text: str) -> None:
    """`secret-1` is what the session's forms carry; it is no way in."""
    sessions.open(ANN, NOW + MAX_SESSION, NOW)
    with pytest.raises(NotAuthenticated):
        sessions.find(text, NOW)
    sessions.end(text)
    assert sessions.find("secret-0", NOW).who == ANN


def test_somebody_logs_out(sessions: LoginSessions) -> None:
    """Of this session, and of no other of theirs."""
    first, second = (sessions.open(ANN, NOW + MAX_SESSION, NOW)[0] for _ in range(2))
    sessions.end(first)
    with pytest.raises(NotAuthenticated):
        sessions.find(first, NOW)
    assert sessions.find(second, NOW)


def test_a_link_is_good_once_and_for_a_minute(sessions: LoginSessions) -> None:
    """And is no session, nor a session a link."""
    early, late = (sessions.invite(LOCAL_OPERATOR, NOW) for _ in range(2))
    with pytest.raises(NotAuthenticated):
        sessions.find(early, NOW)
    assert sessions.redeem(early, NOW + LINK_LIFE - SECOND) == LOCAL_OPERATOR
    for code, now in ((early, NOW), (late, NOW + LINK_LIFE), (late, NOW), ("", NOW)):
        with pytest.raises(NotAuthenticated, match="site login"):
            sessions.redeem(code, now)


def test_no_more_are_kept_than_there_is_room_for(sessions: LoginSessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes."""
    monkeypatch.setattr(module, "MAX_SESSIONS", 2)
    monkeypatch.setattr(module, "MAX_LINKS", 2)
    texts = [sessions.open(ANN, NOW + MAX_SESSION, NOW)[0] for _ in range(3)]
    with pytest.raises(NotAuthenticated):
        sessions.find(texts[0], NOW)
    assert [sessions.find(text, NOW).who for text in texts[1:]] == [ANN, ANN]
    codes = [sessions.invite(LOCAL_OPERATOR, NOW) for _ in range(3)]
    with pytest.raises(NotAuthenticated):
        sessions.redeem(codes[0], NOW)
    assert [sessions.redeem(code, NOW) for code in codes[1:]] == [LOCAL_OPERATOR, LOCAL_OPERATOR]
