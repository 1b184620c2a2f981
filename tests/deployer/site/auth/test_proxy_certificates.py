"""Proxies: those of stock tools count, and each rule of RFC 3820 that one breaks is named."""

import subprocess
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from deployer.errors import NotAuthenticated
from deployer.site.auth.proxy_certificates import MAX_PROXIES, find_holder
from tests.support.grid_ca import Holder, name, utc_now
from tests.support.site.voms_grid import (
    ANN,
    INDEPENDENT,
    LIMITED,
    ROOT,
    GridWorld,
    der,
    make_proxy,
    other,
    proxy_info,
    rsa_key,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> GridWorld:
    return GridWorld.make(tmp_path_factory.mktemp("grid"), utc_now())


def chain(*holders: Holder) -> list[bytes]:
    return [der(each.certificate) for each in holders]


def test_a_certificate_is_its_holders(world: GridWorld) -> None:
    found = find_holder([*chain(world.ann), der(world.root.certificate)], world.authorities, world.now)
    assert found.certificate.subject == ANN
    assert found.certificate.issuer == ROOT
    assert (found.limited, found.attributes) == (False, None)


def test_a_proxy_is_its_holders_however_deep(world: GridWorld) -> None:
    made = [world.ann]
    for number in range(MAX_PROXIES):
        made.append(world.proxy(made[-1], common=str(number)))
    found = find_holder(chain(*reversed(made)), world.authorities, world.now)
    assert found.certificate.subject == ANN
    with pytest.raises(NotAuthenticated, match="more than 8 proxies"):
        find_holder(chain(world.proxy(made[-1]), *reversed(made)), world.authorities, world.now)


@pytest.mark.parametrize(("options", "limited"), [(["-rfc"], False), (["-rfc", "-limited"], True)])
def test_proxies_of_the_stock_tool(world: GridWorld, options: Sequence[str], *, limited: bool) -> None:
    found = find_holder(world.chain(world.stock(*options)), world.authorities, utc_now())
    assert found.certificate.subject == ANN
    assert found.limited is limited
    assert found.attributes is not None


def test_what_we_make_here_openssl_takes_for_a_proxy(world: GridWorld, tmp_path: Path) -> None:
    proxy = world.proxy()
    (tmp_path / "p").write_bytes(proxy.pem)
    (tmp_path / "u").write_bytes(world.ann.pem)
    command = ["openssl", "verify", "-allow_proxy_certs", "-CApath", str(world.grid.path), "-untrusted", "u", "p"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_a_proxy_below_a_limited_one_is_limited(world: GridWorld) -> None:
    limited = world.proxy(language=LIMITED)
    full = world.proxy(limited)
    assert find_holder(chain(full, limited, world.ann), world.authorities, world.now).limited


def test_the_attributes_nearest_to_the_job_count(world: GridWorld) -> None:
    first = world.proxy(attributes=b"first")
    second = world.proxy(first, attributes=b"second")
    third = world.proxy(second)
    assert find_holder(chain(third, second, first, world.ann), world.authorities, world.now).attributes == b"second"


def test_as_many_proxies_below_as_one_allows(world: GridWorld) -> None:
    first = world.proxy(length=1)
    second = world.proxy(first)
    assert find_holder(chain(second, first, world.ann), world.authorities, world.now)
    third = world.proxy(second)
    with pytest.raises(NotAuthenticated, match="allows 1 proxies below it, and there are 2"):
        find_holder(chain(third, second, first, world.ann), world.authorities, world.now)


HOUR = timedelta(hours=1)
BAD: list[tuple[str, Callable[[GridWorld], Sequence[bytes]], str]] = [
    ("nothing", lambda _: [], "contains only proxy certificates"),
    ("a proxy alone", lambda w: chain(w.proxy()), "contains only proxy certificates"),
    ("no certificate", lambda _: [b"x"], "unreadable certificate"),
    ("expired", lambda w: chain(w.proxy(end=-HOUR), w.ann), "is valid from"),
    ("not yet good", lambda w: chain(w.proxy(start=HOUR), w.ann), "is valid from"),
    (
        "an expired one above",
        lambda w: chain(w.proxy(above := w.proxy(end=-HOUR)), above, w.ann),
        "is valid from",
    ),
    ("somebody else's signature", lambda w: chain(w.proxy(signed_by=rsa_key(9)), w.ann), "was not issued by"),
    ("below somebody else", lambda w: chain(w.proxy(other(w)), w.ann), "was not issued by"),
    (
        "signed by the proxy beside it",
        lambda w: chain(make_proxy(Holder(w.ann.certificate, (beside := w.proxy()).key), w.now), beside, w.ann),
        "was not issued by",
    ),
    (
        "another name",
        lambda w: chain(w.proxy(subject=name("/DC=org/DC=grid/OU=people/CN=Bob/CN=1")), w.ann),
        "not its issuer's name plus one common name",
    ),
    ("the issuer's own name", lambda w: chain(w.proxy(subject=name(ANN)), w.ann), "is not its issuer's name"),
    ("two names more", lambda w: chain(w.proxy(subject=name(f"{ANN}/CN=1/CN=2")), w.ann), "is not its issuer's name"),
    ("an OU more", lambda w: chain(w.proxy(subject=name(f"{ANN}/OU=1")), w.ann), "is not its issuer's name"),
    (
        "a double name more",
        lambda w: chain(
            w.proxy(
                subject=x509.Name(
                    [
                        *w.ann.certificate.subject.rdns,
                        x509.RelativeDistinguishedName([*name("/CN=1"), *name("/OU=2")]),
                    ]
                )
            ),
            w.ann,
        ),
        "is not its issuer's name",
    ),
    ("a CA", lambda w: chain(w.proxy(authority=True), w.ann), "claims to be a CA"),
    ("a key for certificates", lambda w: chain(w.proxy(usage="digital_signature key_cert_sign"), w.ann), "key usage"),
    (
        "a key for nothing",
        lambda w: chain(w.proxy(usage="key_encipherment"), w.ann),
        "key usage that proxies must not have",
    ),
    (
        "an issuer whose key is not for signing",
        lambda w: chain(w.proxy(above := w.proxy(usage="key_encipherment")), above, w.ann),
        "key usage that proxies must not have",
    ),
    (
        "another name beside its own",
        lambda w: chain(w.proxy(extra=[(x509.SubjectAlternativeName([x509.DNSName("x")]), False)]), w.ann),
        "has an alternative name",
    ),
    (
        "another name of its issuer",
        lambda w: chain(w.proxy(extra=[(x509.IssuerAlternativeName([x509.DNSName("x")]), False)]), w.ann),
        "has an alternative name",
    ),
    (
        "something critical that nobody knows",
        lambda w: chain(
            w.proxy(extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]), w.ann
        ),
        "critical extension 1.2.3.4",
    ),
    ("not critically a proxy", lambda w: chain(w.proxy(critical=False), w.ann), "does not mark ProxyCertInfo"),
    ("independent", lambda w: chain(w.proxy(language=INDEPENDENT), w.ann), "independent proxy inherits no rights"),
    ("restricted in another language", lambda w: chain(w.proxy(language="1.2.3"), w.ann), "unknown policy language"),
    (
        "restricted in words",
        lambda w: chain(w.proxy(info=proxy_info(LIMITED, policy=b"only on Sundays")), w.ann),
        "not in the form of RFC 3820",
    ),
    ("no form", lambda w: chain(w.proxy(info=b"\x30\x00"), w.ann), "not in the form of RFC 3820"),
    ("no form at all", lambda w: chain(w.proxy(info=b""), w.ann), "not in the form of RFC 3820"),
    ("a length of another kind", lambda w: chain(w.proxy(info=b"\x30\x05\x04\x01\x00\x30\x00"), w.ann), "form"),
    ("a length below nothing", lambda w: chain(w.proxy(length=-1), w.ann), "allows -1 proxies"),
    ("none below allowed", lambda w: chain(w.proxy(above := w.proxy(length=0)), above, w.ann), "allows 0 proxies"),
    (
        "a holder who signs contracts and nothing else",
        lambda w: chain(w.proxy(held := other(w, usage=("content_commitment",))), held),
        "does not allow it to sign proxies",
    ),
    ("a short key", lambda w: chain(w.proxy(key=rsa_key(1024, bits=1024)), w.ann), "RSA key of 1024 bits"),
    ("a weak hash", lambda w: chain(w.proxy(digest=hashes.SHA224()), w.ann), "signed with sha224"),
    (
        "below a CA",
        lambda w: chain(w.proxy(Holder(w.root.certificate, w.root.key)), Holder(w.root.certificate, w.root.key)),
        "belongs to a CA",
    ),
    ("the holder's own has expired", lambda w: chain(other(w, end=w.now - HOUR)), "expired on"),
    (
        "the holder's own is not for signing",
        lambda w: chain(other(w, usage=("key_encipherment",))),
        "not made for signing",
    ),
    ("outside of the CA's names", lambda w: chain(other(w, "/DC=com/CN=Bob")), "signing policy"),
    (
        "a CA that the site does not know",
        lambda w: chain(w.grid.person(w.grid.root("/CN=Evil"), ANN)),
        "not a trusted CA",
    ),
    ("a false CA of the same name", lambda w: chain(w.grid.person(w.grid.root(ROOT), ANN)), "was not signed by the CA"),
]


@pytest.mark.parametrize(("what", "shown", "reason"), BAD, ids=[row[0] for row in BAD])
def test_chains_that_do_not_count(
    world: GridWorld, what: str, shown: Callable[[GridWorld], Sequence[bytes]], reason: str
) -> None:
    with pytest.raises(NotAuthenticated, match=reason):
        find_holder(shown(world), world.authorities, world.now)


def test_a_revoked_holder_has_no_proxies(tmp_path: Path) -> None:
    world = GridWorld.make(tmp_path, utc_now())
    shown = chain(world.proxy(), world.ann)
    assert find_holder(shown, world.authorities, world.now)
    world.root.revoked.append(world.ann.certificate.serial_number)
    world.grid.publish_list(world.root).touch()
    with pytest.raises(NotAuthenticated, match="was revoked"):
        find_holder(shown, world.authorities, world.now)


def test_a_ca_without_a_current_list_vouches_for_nobody_unless_the_site_says_so(tmp_path: Path) -> None:
    world = GridWorld.make(tmp_path, utc_now())
    for file in world.grid.path.glob("*.r0"):
        file.unlink()
    with pytest.raises(NotAuthenticated, match="no revocation list"):
        find_holder(chain(world.ann), world.authorities, world.now)
    assert find_holder(chain(world.ann), world.authorities, world.now, "if-present")
