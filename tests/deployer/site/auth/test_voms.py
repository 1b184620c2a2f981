"""VOMS attributes: those of the stock tool become groups, and whatever is changed about one refuses it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from asn1crypto.x509 import GeneralName
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployer.errors import NotAuthenticated
from deployer.site.auth.proxy_certificates import find_holder
from deployer.site.auth.voms import VomsDirectory, VomsMembership, parse_lsc, read_membership
from tests.support.grid_ca import ec_key, name, utc_now
from tests.support.site.voms_grid import ANN, HOST, ROOT, SERVER, Ac, GridWorld, der, other, read, rsa_key, target

SITE = ("site.example.org", "localhost")
GROUPS = ("/star/Role=VO-Admin", "/star", "/star/production")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> GridWorld:
    return GridWorld.make(tmp_path_factory.mktemp("grid"), utc_now())


def member(world: GridWorld, extension: bytes, now: datetime | None = None) -> VomsMembership:
    """What the rules make of an extension in a proxy of Ann's."""
    servers = VomsDirectory(world.vomsdir)
    return read_membership(extension, read(world.ann), world.authorities, servers, SITE, now or world.now)


def test_attributes_of_the_stock_tool(world: GridWorld) -> None:
    now = utc_now()
    holder = find_holder(world.chain(world.stock("-rfc", "-hours", "2")), world.authorities, now)
    assert holder.attributes is not None
    servers = VomsDirectory(world.vomsdir)
    found = read_membership(holder.attributes, holder.certificate, world.authorities, servers, SITE, now)
    assert (found.vo, found.groups) == ("star", GROUPS)
    assert timedelta(hours=1) < found.until - now < timedelta(hours=13)


def test_attributes_that_are_made_here(world: GridWorld) -> None:
    assert member(world, world.attributes()) == VomsMembership("star", GROUPS, world.now + timedelta(hours=12))


def test_the_stock_tools_old_form_names_another_holder(world: GridWorld) -> None:
    """Old servers named the holder's own subject where the issuer belongs: that binds it to no certificate."""
    with pytest.raises(NotAuthenticated, match="belong to another certificate"):
        member(world, world.attributes(holder_issuer=world.ann.certificate.subject))


GOOD: list[tuple[str, dict[str, object], tuple[str, ...]]] = [
    ("one group", {"fqans": (b"/star",)}, ("/star",)),
    ("NULL is nothing", {"fqans": (b"/star/Role=NULL/Capability=NULL",)}, ("/star",)),
    ("a capability that is NULL", {"fqans": (b"/star/Capability=NULL",)}, ("/star",)),
    ("the first is the primary one", {"fqans": (b"/star/b", b"/star/a", b"/star")}, ("/star/b", "/star/a", "/star")),
    ("twice is once", {"fqans": (b"/star", b"/star/Role=NULL")}, ("/star",)),
    ("a role of a group below", {"fqans": (b"/star/a/b/Role=x.y-z_1",)}, ("/star/a/b/Role=x.y-z_1",)),
    ("for this service", {"extensions": {"2.5.29.55": (True, target("Site.Example.org"))}}, GROUPS),
    (
        "for this service among others",
        {"extensions": {"2.5.29.55": (True, target("x.org", "site.example.org"))}},
        GROUPS,
    ),
    (
        "for this service as a URL",
        {"extensions": {"2.5.29.55": (True, target("https://site.example.org:7443/v1"))}},
        GROUPS,
    ),
    ("a clock that is a little ahead", {"start": timedelta(minutes=4)}, GROUPS),
    ("something uncritical that nobody knows", {"extensions": {"1.2.3.4": (False, b"\x05\x00")}}, GROUPS),
]


@pytest.mark.parametrize(("what", "changes", "groups"), GOOD, ids=[row[0] for row in GOOD])
def test_attributes_that_count(
    world: GridWorld, what: str, changes: dict[str, object], groups: tuple[str, ...]
) -> None:
    assert member(world, world.attributes(**changes)).groups == groups


def flipped(made: bytes) -> bytes:
    """The last byte of the signature is another one."""
    return made[:-1] + bytes([made[-1] ^ 1])


BAD: list[tuple[str, Callable[[GridWorld], bytes], str]] = [
    ("nothing", lambda _: b"", "cannot be parsed"),
    ("no list", lambda _: b"\x04\x00", "cannot be parsed"),
    ("an empty list", lambda _: b"\x30\x00", "cannot be parsed"),
    ("a list with an empty list", lambda _: b"\x30\x02\x30\x00", "cannot be parsed"),
    ("something behind it", lambda w: w.attributes() + b"\0", "cannot be parsed"),
    ("half of it", lambda w: w.attributes()[:400], "cannot be parsed"),
    (
        "the certificate of somebody else",
        lambda w: Ac(other(w).certificate, w.server, w.now).extension(),
        "another cert",
    ),
    ("another serial number", lambda w: w.attributes(serial=1), "another certificate"),
    ("another issuer of the holder", lambda w: w.attributes(holder_issuer=name("/CN=Evil")), "another certificate"),
    (
        "another kind of name for the holder's issuer",
        lambda w: w.attributes(holder_names=[GeneralName("dns_name", "example.org")]),
        "cannot be parsed",
    ),
    ("expired", lambda w: w.attributes(end=timedelta(seconds=-1)), "are valid from"),
    ("not yet good", lambda w: w.attributes(start=timedelta(minutes=6)), "are valid from"),
    ("another VO's server", lambda w: w.attributes(uri=f"atlas://{HOST}:15000"), "group of another VO"),
    (
        "a VO that has no server",
        lambda w: w.attributes(uri=f"atlas://{HOST}:15000", fqans=(b"/atlas",)),
        "as a VOMS server of atlas",
    ),
    ("another host", lambda w: w.attributes(uri="star://else.example.org:15000"), "as a VOMS server of star"),
    ("a path for a host", lambda w: w.attributes(uri="star://../star/voms.example.org:15000"), "do not name their VO"),
    ("a path for a VO", lambda w: w.attributes(uri=f"../star://{HOST}:15000"), "do not name their VO"),
    ("dots for a VO", lambda w: w.attributes(uri=f"..://{HOST}:15000", fqans=(b"/..",)), "do not name their VO"),
    ("no port", lambda w: w.attributes(uri=f"star://{HOST}"), "do not name their VO"),
    ("a quoted dot", lambda w: w.attributes(uri="star://voms%2eexample.org:15000"), "do not name their VO"),
    ("a line break", lambda w: w.attributes(uri=f"star://{HOST}:15000\n"), "do not name their VO"),
    ("a group of another VO", lambda w: w.attributes(fqans=(b"/star", b"/atlas")), "group of another VO"),
    ("a VO that begins alike", lambda w: w.attributes(fqans=(b"/starlight",)), "group of another VO"),
    ("no groups", lambda w: w.attributes(fqans=()), "cannot be parsed|no group"),
    ("a group that is none", lambda w: w.attributes(fqans=(b"star",)), "an invalid group"),
    ("an empty name", lambda w: w.attributes(fqans=(b"/star//a",)), "an invalid group"),
    ("two roles", lambda w: w.attributes(fqans=(b"/star/Role=a/Role=b",)), "an invalid group"),
    ("a role before a group", lambda w: w.attributes(fqans=(b"/star/Role=a/b",)), "an invalid group"),
    ("a line break in a group", lambda w: w.attributes(fqans=(b"/star\n",)), "an invalid group"),
    ("a long group", lambda w: w.attributes(fqans=(b"/star/" + b"a" * 300,)), "an invalid group"),
    ("letters beyond ASCII", lambda w: w.attributes(fqans=("/star/ä".encode(),)), "cannot be parsed"),
    ("a capability", lambda w: w.attributes(fqans=(b"/star/Capability=x",)), "have a capability"),
    ("too many groups", lambda w: w.attributes(fqans=(b"/star",) * 1001), "more than 1000"),
    ("groups in another form", lambda w: w.attributes(kind="string"), "cannot be parsed"),
    ("a signature with a flipped bit", lambda w: w.attributes(change=flipped), "signature"),
    ("somebody else's signature", lambda w: w.attributes(signed_by=rsa_key(9)), "signature of the VOMS"),
    ("a signature of another kind", lambda w: w.attributes(signed_by=ec_key()), "unsupported scheme"),
    ("a weak hash", lambda w: w.attributes(digest="sha1"), "weak or unknown hash"),
    ("the first version", lambda w: w.attributes(version="v1"), "cannot be parsed"),
    (
        "for another service",
        lambda w: w.attributes(extensions={"2.5.29.55": (True, target("x.org"))}),
        "another service",
    ),
    (
        "for a service that begins alike",
        lambda w: w.attributes(extensions={"2.5.29.55": (True, target("site.example.org.evil.org"))}),
        "another service",
    ),
    (
        "for somebody in another form",
        lambda w: w.attributes(extensions={"2.5.29.55": (True, b"\x30\x02\x05\x00")}),
        "targets of the VOMS attributes cannot be read",
    ),
    (
        "something critical that nobody knows",
        lambda w: w.attributes(extensions={"1.2.3.4": (True, b"\x05\x00")}),
        "critical extension 1.2.3.4",
    ),
    ("an extension twice", lambda w: w.attributes(twice="2.5.29.56"), "cannot be parsed"),
    ("it might be revoked", lambda w: w.attributes(without=("2.5.29.56",)), "revocation cannot be checked"),
    (
        "no certificate of its server",
        lambda w: w.attributes(without=("1.3.6.1.4.1.8005.100.100.10",)),
        "cannot be parsed",
    ),
    (
        "a broken certificate of its server",
        lambda w: w.attributes(shown=b"\x30\x00"),
        "cannot be read|cannot be parsed",
    ),
    ("another's certificate", lambda w: w.attributes(shown=der(w.ann.certificate)), "not their issuer"),
    (
        "issued by a person",
        lambda w: Ac(w.ann.certificate, w.ann, w.now).extension(),
        "as a VOMS server of star",
    ),
    (
        "a server of a CA that the site does not know",
        lambda w: Ac(w.ann.certificate, w.grid.person(w.grid.root("/CN=Evil"), SERVER), w.now).extension(),
        "certificate is not valid",
    ),
    (
        "a server of a false CA of the same name",
        lambda w: Ac(w.ann.certificate, w.grid.person(w.grid.root(ROOT), SERVER), w.now).extension(),
        "certificate is not valid",
    ),
    (
        "a server whose certificate has expired",
        lambda w: Ac(w.ann.certificate, other(w, SERVER, end=w.now - timedelta(hours=1)), w.now).extension(),
        "certificate is not valid: .* expired",
    ),
]


@pytest.mark.parametrize(("what", "made", "reason"), BAD, ids=[row[0] for row in BAD])
def test_attributes_that_do_not_count(
    world: GridWorld, what: str, made: Callable[[GridWorld], bytes], reason: str
) -> None:
    with pytest.raises(NotAuthenticated, match=reason):
        member(world, made(world))


LSC: list[tuple[str, tuple[str, ...], bool]] = [
    ("as it should be", (SERVER, ROOT), True),
    ("with space around it", (f"  {SERVER} ", "", "# the CA", f"{ROOT}\t"), True),
    ("with the CA of the CA, which is itself", (SERVER, ROOT, ROOT), False),
    ("in the wrong order", (ROOT, SERVER), False),
    ("another subject", (ANN, ROOT), False),
    ("another CA", (SERVER, "/CN=Evil"), False),
    ("the subject alone", (SERVER,), False),
    ("nothing", (), False),
    ("an old chain and the one now", ("/CN=old", "/CN=CA", "------ NEXT CHAIN ------", SERVER, ROOT), True),
    ("the one now and an old chain", (SERVER, ROOT, "------NEXT CHAIN------", "/CN=old", "/CN=CA"), True),
    ("a chain over two", (SERVER, "------ NEXT CHAIN ------", ROOT), False),
    ("a pattern", ("*", "*"), False),
]


@pytest.mark.parametrize(("what", "lines", "believed"), LSC, ids=[row[0] for row in LSC])
def test_servers_are_believed_by_their_names(
    tmp_path: Path, world: GridWorld, what: str, lines: tuple[str, ...], *, believed: bool
) -> None:
    (tmp_path / "star").mkdir()
    (tmp_path / "star" / f"{HOST}.lsc").write_text("\n".join(lines))
    servers = VomsDirectory(tmp_path)
    if believed:
        read_membership(world.attributes(), read(world.ann), world.authorities, servers, SITE, world.now)
    else:
        with pytest.raises(NotAuthenticated, match="not listed in vomsdir"):
            read_membership(world.attributes(), read(world.ann), world.authorities, servers, SITE, world.now)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(b"x" * (64 << 10) + b"y"), None])
def test_a_server_without_a_file_is_not_believed(
    tmp_path: Path, world: GridWorld, spoil: Callable[[Path], object] | None
) -> None:
    (tmp_path / "star").mkdir()
    file = tmp_path / "star" / f"{HOST}.lsc"
    file.write_text(f"{SERVER}\n{ROOT}\n")
    if spoil is not None:
        spoil(file)
    servers = VomsDirectory(tmp_path if spoil else tmp_path / "none")
    with pytest.raises(NotAuthenticated, match="not listed in vomsdir"):
        read_membership(world.attributes(), read(world.ann), world.authorities, servers, SITE, world.now)


def test_names_in_lsc_files() -> None:
    assert parse_lsc("/CN=a/Email=x@y\n/CN=b/E=z\n") == (("/CN=a/emailAddress=x@y", "/CN=b/emailAddress=z"),)


def test_a_server_that_is_called_as_grids_call_hosts(tmp_path: Path) -> None:
    world = GridWorld.make(tmp_path, utc_now())
    subject = name("/DC=org/DC=grid/OU=hosts")
    called = name("/CN=x").rdns[0]
    held = [*subject.rdns, type(called)([type(next(iter(called)))(next(iter(called)).oid, f"host/{HOST}")])]
    certificate = world.grid._certificate(
        type(subject)(held), world.root.certificate.subject, rsa_key(2).public_key(), world.root.key
    )
    world.server = type(world.server)(certificate, rsa_key(2))
    world.believe(f"/DC=org/DC=grid/OU=hosts/CN=host/{HOST}", ROOT)
    assert member(world, world.attributes()).vo == "star"


def test_a_server_with_an_elliptic_key(tmp_path: Path) -> None:
    world = GridWorld.make(tmp_path, utc_now())
    world.server = world.grid.person(world.root, SERVER)
    assert member(world, world.attributes()).groups == GROUPS


def test_a_revoked_server_is_not_believed(tmp_path: Path) -> None:
    world = GridWorld.make(tmp_path, utc_now())
    world.root.revoked.append(world.server.certificate.serial_number)
    world.grid.publish_list(world.root)
    with pytest.raises(NotAuthenticated, match=r"certificate is not valid: .* was revoked"):
        member(world, world.attributes())


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2000), value=st.integers(0, 255))
def test_no_changed_byte_gets_through(world: GridWorld, place: int, value: int) -> None:
    good = world.attributes()
    spoilt = bytearray(good)
    spoilt[place % len(good)] = value
    if bytes(spoilt) == good:
        return
    try:
        found = member(world, bytes(spoilt))
    except NotAuthenticated:
        return
    assert found == member(world, good), "what is not signed changes nothing that is said"
