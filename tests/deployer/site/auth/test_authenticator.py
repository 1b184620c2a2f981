"""Who asks: tokens, certificates, nodes and the operator become principals; everybody else learns nothing but no."""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from deployer.errors import NotAuthenticated, PolicyUnusable, SiteUnavailable, TooManyRequests
from deployer.pki.ca import CertificateAuthority, create_request
from deployer.site.auth.authenticator import Authenticator, make_authenticator
from deployer.site.auth.grid_identity import GridTrust
from deployer.site.auth.issuers import Issuer, Issuers
from deployer.site.auth.jwks import IssuerKeys
from deployer.site.auth.rate_limits import RequestLimiter, RequestRate
from deployer.site.auth.voms import VomsDirectory
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.settings import SiteSettings
from tests.support.grid_ca import utc_now
from tests.support.site.token_issuer import AUDIENCE, Served, issuer
from tests.support.site.voms_grid import ANN, LIMITED, ROOT, GridWorld, der, other, rsa_key

NODE = "0b8a2c9e-58f5-4b7a-9a52-0a54ab4f4a3f"


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class World:
    """An issuer, a grid, and a site that believes both."""

    served: Served
    grid: GridWorld
    authority: CertificateAuthority
    who: Authenticator

    def node(self, unit: str = "node", authority: CertificateAuthority | None = None) -> bytes:
        """The certificate (DER) of a node, or of a guest."""
        key, request = create_request()
        del key
        made = authority or self.authority
        issued = made.node if unit == "node" else lambda *args: made.host(args[0], args[1], (), *args[2:])
        pem = issued(request, NODE, now(), timedelta(days=1))
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("world")
    grid = GridWorld.make(place / "grid", utc_now())
    trust = GridTrust(grid.grid.path, VomsDirectory(grid.vomsdir), ("localhost",))
    authority = CertificateAuthority.make(now())
    with issuer(place / "tls") as served:
        keys = IssuerKeys(place / "keys", now, served.authorities)
        issuers = Issuers(issuer=(Issuer(issuer=served.url, vo="star"),))
        steady = itertools.count(0, 1000)
        who = Authenticator(
            lambda: issuers, AUDIENCE, keys, authority, now, RequestLimiter(lambda: float(next(steady))), trust
        )
        yield World(served, grid, authority, who)
        keys.close()


def bearer(text: str) -> list[str]:
    return [f"Bearer {text}"]


def test_a_token(world: World) -> None:
    found = world.who.authenticate(bearer(world.served.signer.token(now())), address="192.0.2.1")
    assert found == Principal(
        issuer=world.served.url, subject="ann", vo="star", groups=("/star", "/star/production"), means="token"
    )
    assert world.who.authenticate([f"bearer  {world.served.signer.token(now())} "]) == found


def test_a_certificate(world: World) -> None:
    found = world.who.authenticate([], [der(world.grid.ann.certificate), der(world.grid.root.certificate)])
    assert found == Principal(issuer=ROOT, subject=ANN, means="certificate")


def test_a_proxy_with_attributes(world: World) -> None:
    found = world.who.authenticate([], world.grid.chain(world.grid.stock()))
    assert found == Principal(
        issuer=ROOT,
        subject=ANN,
        vo="star",
        groups=("/star/Role=VO-Admin", "/star", "/star/production"),
        means="certificate",
    )


def test_a_limited_proxy(world: World) -> None:
    proxy = world.grid.proxy(language=LIMITED)
    found = world.who.authenticate([], [der(proxy.certificate), der(world.grid.ann.certificate)])
    assert found.means == "limited-proxy"
    assert found.identity == f"{ROOT} {ANN}"


def test_a_node(world: World) -> None:
    assert world.who.authenticate([], [world.node()]) == Principal(issuer="site", subject=NODE, means="node")


def test_the_operator(world: World) -> None:
    assert world.who.authenticate([], local=True) is LOCAL_OPERATOR


def test_what_is_shown_on_purpose_comes_first(world: World) -> None:
    """Whoever shows a token on the operator's socket, or beside a certificate, is whom the token speaks for."""
    token = bearer(world.served.signer.token(now()))
    assert world.who.authenticate(token, local=True).subject == "ann"
    assert world.who.authenticate(token, [world.node()]).subject == "ann"
    with pytest.raises(NotAuthenticated):
        world.who.authenticate(bearer("x.y.z"), local=True)
    with pytest.raises(NotAuthenticated):
        world.who.authenticate(bearer("x.y.z"), [world.node()])


def test_nothing_shown_says_what_to_show(world: World) -> None:
    with pytest.raises(NotAuthenticated, match="needs a bearer token") as caught:
        world.who.authenticate([])
    assert caught.value.challenge == 'Bearer realm="partita"'


def refusal(world: World, authorization: list[str], chain: list[bytes]) -> NotAuthenticated:
    with pytest.raises(NotAuthenticated) as caught:
        world.who.authenticate(authorization, chain, address="192.0.2.7")
    return caught.value


def test_every_refusal_is_the_same_and_its_reason_is_in_the_log_alone(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    signer = world.served.signer
    tokens = {
        "has expired": bearer(signer.token(now(), iat=1, exp=3600)),
        "is not trusted here": bearer(signer.token(now(), iss="https://evil.example.org")),
        "signature": bearer(signer.token(now())[:-9] + "AAAAAAAA"),
        "audience is https://else": bearer(signer.token(now(), aud="https://else.example.org")),
        "not a signed JWT": bearer("hunter2"),
        "does not carry a bearer token": ["Basic YW5uOmh1bnRlcjI="],
        "more than one Authorization": [*bearer(signer.token(now())), "Bearer x"],
    }
    proxy = world.grid.proxy(attributes=world.grid.attributes(signed_by=rsa_key(9)))
    chains = {
        "signature of the VOMS": [der(proxy.certificate), der(world.grid.ann.certificate)],
        "was not issued by": [der(world.grid.proxy(other(world.grid)).certificate), der(world.grid.ann.certificate)],
        "not a trusted CA": [world.node(authority=CertificateAuthority.make(now()))],
        "contains only proxy certificates": [der(proxy.certificate)],
        "unreadable certificate": [b"nonsense"],
        "is not a trusted CA": [world.node(unit="host")],
    }
    answers = set()
    for shown, certificates in [(each, []) for each in tokens.values()] + [([], each) for each in chains.values()]:
        error = refusal(world, shown, certificates)
        answers.add((str(error), error.challenge))
    sentence = "the credentials were not accepted; the site's log has the reason"
    assert answers == {
        (sentence, 'Bearer realm="partita", error="invalid_token"'),
        (sentence, 'Bearer realm="partita"'),
    }
    for reason in (*tokens, *chains):
        assert reason in caplog.text
    assert caplog.text.count("request from 192.0.2.7 not authenticated") == len(tokens) + len(chains)


def test_no_token_is_ever_in_a_log_or_a_message(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    signer = world.served.signer
    good = signer.token(now(), jti="S3CRET-jti", sub="ann")
    for text in (good, good[:-4] + "AAAA", good + "é", signer.token(now(), exp=1), signer.token(now(), aud="x")):
        try:
            world.who.authenticate(bearer(text), address="192.0.2.7")
        except NotAuthenticated as exc:
            said: BaseException | None = exc
            while said is not None:  # what a log would show of it: every cause as well
                assert not any(part in str(said) for part in text.split(".") if len(part) > 20)
                said = said.__cause__
        for part in text.split("."):
            assert part not in caplog.text
    assert "S3CRET" not in caplog.text
    assert len(caplog.records) > 3


def test_what_strangers_say_cannot_break_a_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    refusal(world, bearer(world.served.signer.token(now(), iss="https://x\n2026 root logged in \x1b[2J")), [])
    assert "root logged in" in caplog.text
    assert "\x1b" not in caplog.text
    assert "\n2026" not in caplog.text


def test_a_site_without_a_grid_takes_no_certificates_of_people(world: World, caplog: pytest.LogCaptureFixture) -> None:
    plain = Authenticator(Issuers, AUDIENCE, world.who._keys, world.authority, now, RequestLimiter(lambda: 0.0))
    with pytest.raises(NotAuthenticated):
        plain.authenticate([], [der(world.grid.ann.certificate)])
    assert "grid_certificates is not set" in caplog.text
    assert plain.authenticate([], [world.node()]).means == "node"


def test_what_cannot_be_known_now_is_not_a_refusal(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = Issuers(issuer=(Issuer(issuer="https://localhost:1", vo="star"),))
    trust = GridTrust(tmp_path / "none", VomsDirectory(tmp_path))
    keys = IssuerKeys(tmp_path / "keys", now, world.served.authorities)
    who = Authenticator(lambda: away, AUDIENCE, keys, world.authority, now, RequestLimiter(lambda: 0.0), trust)
    with pytest.raises(SiteUnavailable, match="cannot fetch the keys"):
        who.authenticate(bearer(world.served.signer.token(now(), iss="https://localhost:1")))
    with pytest.raises(SiteUnavailable, match="directory of CAs"):
        who.authenticate([], [der(world.grid.ann.certificate)])
    keys.close()
    assert "cannot be authenticated now" in caplog.text


def test_rates(world: World, caplog: pytest.LogCaptureFixture) -> None:
    rates = RequestLimiter(
        lambda: 0.0, person=RequestRate(2, 1), address=RequestRate(100, 1), failure=RequestRate(3, 1)
    )
    issuers = Issuers(issuer=(Issuer(issuer=world.served.url, vo="star"),))
    who = Authenticator(lambda: issuers, AUDIENCE, world.who._keys, world.authority, now, rates)
    ann, bob = (bearer(world.served.signer.token(now(), sub=name)) for name in ("ann", "bob"))
    for _ in range(3):
        with pytest.raises(NotAuthenticated):
            who.authenticate(bearer("x.y.z"), address="192.0.2.1")
    with pytest.raises(TooManyRequests, match="without valid credentials"):
        who.authenticate(bearer("x.y.z"), address="192.0.2.1")
    assert caplog.text.count("not authenticated") == 3, "and the log is not filled either"
    assert who.authenticate(ann, address="192.0.2.1").subject == "ann", "others there do not suffer"
    assert who.authenticate(ann, address="192.0.2.2").subject == "ann"
    with pytest.raises(TooManyRequests, match="of yours"):
        who.authenticate(ann, address="192.0.2.3")
    assert who.authenticate(bob, address="192.0.2.1").subject == "bob"
    for _ in range(94):
        rates.check_address("192.0.2.1")
    with pytest.raises(TooManyRequests, match="from your address"):
        who.authenticate(bob, address="192.0.2.1")
    assert who.authenticate([], [world.node()], address="192.0.2.1").means == "node"
    for _ in range(200):
        assert who.authenticate([], local=True) is LOCAL_OPERATOR


def settings(place: Path, **changes: object) -> SiteSettings:
    return SiteSettings(
        directory=place / "site",
        issuers=place / "issuers.toml",
        **changes,  # type: ignore[arg-type]
    )


def test_as_the_settings_say(world: World, tmp_path: Path) -> None:
    made = settings(
        tmp_path,
        issuers_ca=world.served.authorities,
        grid_certificates=world.grid.grid.path,
        vomsdir=world.grid.vomsdir,
        names=("localhost",),
    )
    who = make_authenticator(made, world.authority, f"{AUDIENCE}/", now, lambda: 0.0)
    token = bearer(world.served.signer.token(now()))
    with pytest.raises(NotAuthenticated):
        who.authenticate(token)
    made.issuers.write_text(f'[[issuer]]\nissuer = "{world.served.url}"\nvo = "star"\n')
    assert who.authenticate(token).subject == "ann", (
        "the file is read again, and the audience is what the site is called"
    )
    assert who.authenticate([], world.grid.chain(world.grid.stock())).vo == "star"
    assert list((tmp_path / "site").rglob("*.json"))
    named = make_authenticator(
        settings(tmp_path, issuers_ca=world.served.authorities, audience="site"),
        world.authority,
        AUDIENCE,
        now,
        lambda: 0.0,
    )
    with pytest.raises(NotAuthenticated):
        named.authenticate(token)
    assert named.authenticate(bearer(world.served.signer.token(now(), aud="site"))).subject == "ann"


def test_what_keeps_people_out_is_told(tmp_path: Path, world: World) -> None:
    made = settings(tmp_path, issuers_ca=world.served.authorities)
    made.issuers.write_text("nonsense")
    who = make_authenticator(made, world.authority, AUDIENCE, now, lambda: 0.0)
    with pytest.raises(NotAuthenticated):
        who.authenticate(bearer(world.served.signer.token(now())))
    assert who.authenticate([], [world.node()]).means == "node", "nodes go on"
    (said,) = who.problems()
    assert "issuers.toml: $: is not TOML" in said
    made.issuers.write_text('[[issuer]]\nissuer = "https://localhost:1"\nvo = "star"\n')
    with pytest.raises(SiteUnavailable):
        who.authenticate(bearer(world.served.signer.token(now(), iss="https://localhost:1")))
    (said,) = who.problems()
    assert said.startswith("the keys of https://localhost:1 cannot be fetched")
    made.issuers.unlink()
    assert list(who.problems()) == []


def test_authorities_of_issuers_that_are_none(tmp_path: Path, world: World) -> None:
    with pytest.raises(PolicyUnusable, match="cannot read the CA"):
        make_authenticator(settings(tmp_path, issuers_ca=tmp_path / "none"), world.authority, "", now, lambda: 0.0)
