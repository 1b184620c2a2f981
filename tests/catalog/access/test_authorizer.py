"""Roles and routes: a restricted image does not exist for whoever may not read it, on any route; for others it is all there.

One catalog process, a public and a restricted image; four roles ask every route that tells anything of an image.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.client.credential_file import read_credential
from catalog.errors import Malformed, Misused, NotEntitled, NotFound
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.reference import Reference
from catalog.swarm.announce_keys import KEY_LIFE
from catalog.swarm.bencode import bdecode
from catalog.swarm.torrent import short_hash
from signer.runtime.tls import trust_for
from tests.support import factories
from tests.support.catalog.service_process import Service, Vo
from tests.support.commands import partita

PUBLIC, SECRET = "star/worker@1.0", "star/secret@1.0"


def request(curve: ec.EllipticCurve | None = None) -> str:
    """A certificate request for a new key."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return asked.public_bytes(serialization.Encoding.PEM).decode()


class World:
    """A catalog with a public and a restricted image that share one partition, and a credential file per role."""

    def __init__(self, service: Service, root: Path, public: Bundle, secret: Bundle) -> None:
        self.service, self.root = service, root
        self.public, self.secret = public, secret
        self.credentials: dict[str, Path | None] = {"stranger": None}

    @property
    def hidden(self) -> Address:
        """A content that only the restricted image has."""
        return next(a for a in self.secret.manifest.contents() if a not in self.public.manifest.contents())

    def client(self, role: str) -> CatalogClient:
        return CatalogClient(self.service.url, credential=read_credential(self.credentials[role]))

    def get(self, role: str, path: str, method: str = "GET") -> httpx2.Response:
        text = read_credential(self.credentials[role])
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        how: dict[str, Any] = {"verify": trust_for(self.service.url), "trust_env": False, "timeout": 60}
        return httpx2.request(method, self.service.url + path, headers=headers, **how)

    def run(self, *arguments: str, ok: bool = True) -> str:
        done = partita("--set", f"catalog.directory={self.service.directory}", *arguments)
        assert (done.returncode == 0) == ok, done.stderr
        return done.stdout if ok else done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, vos: dict[str, Vo]) -> Iterator[World]:
    root = tmp_path_factory.mktemp("rights")
    star = vos["star"]
    public = star.endorse(factories.bundle(root / "public", partitions=1, size=17 << 20, seed=1))
    secret_root = root / "secret"
    (secret_root / "blobs").mkdir(parents=True)
    shared = public.manifest.contents()[0]
    (secret_root / "blobs" / str(shared)).hardlink_to(public.root / "blobs" / str(shared))
    fresh = secret_root / "blobs" / "new"
    hidden = factories.content(fresh, 17 << 20, seed=7)
    fresh.rename(secret_root / "blobs" / str(hidden))
    secret = star.endorse(Bundle.create(secret_root, factories.manifest([shared, hidden], name="secret")))
    (root / "service").mkdir()
    with Service(root / "service") as service:
        service.register(star.anchor())
        made = World(service, root, public, secret)
        for site, more in (("lyon", ["--vo", "star"]), ("bnl", []), ("tum", ["--vo", "atlas"])):
            made.credentials[site] = root / f"{site}.credential"
            made.run("catalog", "site", "register", site, "-o", str(made.credentials[site]), *more)
        made.run("image", "restrict", "star/secret", "--site", "bnl", "--vo", "star")  # before it is published
        with made.client("stranger") as client:
            transfer.publish_image(client, public)
            transfer.publish_image(client, secret)
        yield made


ENTITLED, OTHERS = ("lyon", "bnl"), ("stranger", "tum")


@pytest.fixture(params=[*ENTITLED, *OTHERS])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


ROUTES: dict[str, Callable[[World], str]] = {
    "its name": lambda _: "/v1/names/star/secret",
    "its name and version": lambda _: "/v1/names/star/secret/1.0",
    "its manifest": lambda w: f"/v1/images/{w.secret.manifest.image_id}",
    "its endorsements": lambda w: f"/v1/images/{w.secret.manifest.image_id}/endorsements",
    "its content": lambda w: f"/v1/contents/{w.hidden}",
    "the map beside it": lambda w: f"/v1/contents/{w.hidden}/map",
    "the layer beside it": lambda w: f"/v1/contents/{w.hidden}/layer",
    "the hints beside it": lambda w: f"/v1/contents/{w.hidden}/hints",
    "its manifest as a target": lambda w: (
        f"/tuf/targets/images/{(i := w.secret.manifest.image_id.removeprefix('sha256:'))}/{i}.manifest.json"
    ),
}


@pytest.mark.parametrize("route", ROUTES)
def test_who_may_not_read_it_is_told_that_it_is_not_there(world: World, role: str, route: str) -> None:
    path = ROUTES[route](world)
    answer = world.get(role, path)
    if role in ENTITLED:
        assert answer.status_code == 200
        assert "public" not in answer.headers.get("cache-control", "")
        return
    assert answer.status_code == 404
    missing = path.replace("secret", "nothing")
    for text in (world.secret.manifest.image_id.removeprefix("sha256:"), world.hidden.root.hex()):
        missing = missing.replace(text, "ab" * 32)
    refused = world.get(role, missing)
    assert refused.status_code == 404
    assert answer.json().keys() == refused.json().keys()
    assert world.get(role, path, "HEAD").status_code in {404, 405}


def test_lists_show_what_one_may_read(world: World, role: str) -> None:
    with world.client(role) as client:
        titles = {f"{one.vo}/{one.name}@{one.version}" for one in client.images()}
        told = list(client.history())
    assert titles == ({PUBLIC, SECRET} if role in ENTITLED else {PUBLIC})
    facts = json.dumps([entry.data for entry in told])
    assert (SECRET in facts) == (role in ENTITLED)
    assert (world.secret.manifest.image_id in facts) == (role in ENTITLED)
    assert [entry.seq for entry in told] == list(range(1, len(told) + 1))  # the chain is whole, and was checked
    first = world.get(role, "/v1/images?limit=1").json()
    assert len(first["items"]) == 1
    assert ("next" in first) == (role in ENTITLED)


def test_the_public_image_and_what_it_shares_are_for_everybody(world: World, role: str, tmp_path: Path) -> None:
    with world.client(role) as client:
        transfer.fetch_image(client, Reference.parse(PUBLIC), tmp_path / "image")
    assert (
        world.get("stranger", f"/v1/contents/{world.public.manifest.contents()[0]}")
        .headers["cache-control"]
        .startswith("public")
    )


def test_the_entitled_fetch_it_whole(world: World, role: str, tmp_path: Path) -> None:
    with world.client(role) as client:
        if role in ENTITLED:
            transfer.fetch_image(client, Reference.parse(SECRET), tmp_path / "image")
            assert Bundle.open(tmp_path / "image").manifest == world.secret.manifest
            return
        with pytest.raises(NotFound):
            transfer.fetch_image(client, Reference.parse(SECRET), tmp_path / "image")
        assert b"".join(_quietly(client, world.hidden)) == b""


def _quietly(client: CatalogClient, address: Address) -> Iterator[bytes]:
    try:
        yield from client.content_range(address, 0, address.size)
    except NotFound:
        return


def _announce(world: World, short: bytes, grant: str = "") -> tuple[int, dict[bytes, object]]:
    query = f"info_hash={quote(short)}&peer_id={'x' * 20}&port=6881&left=5&compact=1&grant={quote(grant)}"
    answer = world.get("stranger", f"/v1/announce?{query}")
    body = bdecode(answer.content, "answer")
    assert isinstance(body, dict)
    return answer.status_code, dict(body)


def test_swarms_are_opened_to_the_entitled_alone(world: World, role: str) -> None:
    with world.client(role) as client:
        if role not in ENTITLED:
            with pytest.raises(NotFound):
                client.grant(world.hidden, "worker-1", request())
            return
        granted = client.grant(world.hidden, "worker-1", request())
        assert granted.authority
        assert granted.certificate
        short = short_hash(world.hidden, granted.authority.encode())
        assert _announce(world, short, granted.grant)[0] == 200
        certificate = x509.load_pem_x509_certificate(granted.certificate.encode())
        authority = x509.load_pem_x509_certificate(granted.authority.encode())
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [world.hidden.root.hex()]
        assert certificate.not_valid_after_utc - granted.expires <= KEY_LIFE / 1000
        scraped = world.get("stranger", f"/v1/scrape?info_hash={quote(short)}").content
        assert bdecode(scraped, "scrape") == {b"files": {}}
        parts = {"address": str(world.hidden), "port": 6881, "want": 1, "grant": granted.grant}
        asked = httpx2.post(f"{world.service.url}/v1/swarms/parts", json=parts, trust_env=False, timeout=60)
        assert asked.status_code == 200
        assert asked.json()["parts"]


def test_a_restricted_content_has_no_public_swarm_and_a_public_one_no_restricted(world: World) -> None:
    with world.client("lyon") as client:
        restricted = client.grant(world.hidden, "worker-1", request())
        public = client.grant(world.public.manifest.contents()[1], "worker-1")
    assert public.authority is None
    assert public.certificate is None
    unknown = (404, {b"failure reason": b"no content with that info-hash here"})
    assert _announce(world, b"?" * 20) == unknown
    assert _announce(world, short_hash(world.hidden)) == unknown
    assert _announce(world, short_hash(world.hidden), restricted.grant) == unknown
    assert restricted.authority
    assert _announce(world, short_hash(world.hidden, restricted.authority.encode())) == unknown
    assert _announce(world, short_hash(world.public.manifest.contents()[1], restricted.authority.encode())) == unknown
    assert _announce(world, short_hash(world.public.manifest.contents()[1]))[0] == 200


@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ("none", None),
        ("nonsense", "nonsense"),
        ("a key on another curve", request(ec.SECP384R1())),
        ("a request that was cut", request()[:-60]),
    ],
)
def test_certificates_are_given_for_sound_requests_only(world: World, what: str, asked: str | None) -> None:
    with world.client("lyon") as client, pytest.raises(Malformed):
        client.grant(world.hidden, "worker-1", asked)


def test_nobody_gets_the_catalogs_own_place_in_a_swarm(world: World) -> None:
    with world.client("lyon") as client, pytest.raises(NotEntitled, match="reserved for the catalog"):
        client.grant(world.hidden, "origin", request())


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("nonsense", "nonsense"),
        ("a site that is not registered", f"gone.{'s' * 43}"),
        ("another secret", f"lyon.{'s' * 43}"),
    ],
)
def test_a_wrong_credential_is_said_to_be_wrong_even_for_what_is_public(world: World, what: str, shown: str) -> None:
    with CatalogClient(world.service.url, credential=shown) as client, pytest.raises(NotEntitled, match="credential"):
        client.resolve(Reference.parse(PUBLIC))


def test_rights_come_and_go_while_the_service_runs(world: World, tmp_path: Path) -> None:
    """A site is registered, admitted, renewed, and removed; what its nodes hold follows within a second."""
    file, renewed = tmp_path / "cern.credential", tmp_path / "cern.renewed"
    world.run("catalog", "site", "register", "cern", "-o", str(file), "--vo", "star")
    assert file.stat().st_mode & 0o777 == 0o600
    old = CatalogClient(world.service.url, credential=read_credential(file))
    assert _eventually(lambda: old.resolve(Reference.parse(SECRET)) == world.secret.manifest.image_id)
    granted = old.grant(world.hidden, "worker-1", request())
    assert granted.authority
    short = short_hash(world.hidden, granted.authority.encode())
    assert _announce(world, short, granted.grant)[0] == 200
    assert "--renew" in world.run("catalog", "site", "register", "cern", "-o", str(renewed), ok=False)
    assert not renewed.exists()
    world.run("catalog", "site", "register", "cern", "-o", str(renewed), "--vo", "star", "--renew")
    assert _eventually(lambda: _refused(old))
    assert _announce(world, short, granted.grant)[0] == 200  # the site has its right; only its credential is another
    new = CatalogClient(world.service.url, credential=read_credential(renewed))
    assert new.resolve(Reference.parse(SECRET)) == world.secret.manifest.image_id
    world.run("catalog", "site", "remove", "cern")
    assert _eventually(lambda: _refused(new))
    assert _announce(world, short, granted.grant)[0] == 403
    old.close()
    new.close()


def test_a_rule_is_replaced_and_taken_away(world: World) -> None:
    def readable() -> bool:
        return world.get("tum", "/v1/names/star/worker/1.0").status_code == 200

    world.run("image", "restrict", PUBLIC, "--nobody")
    assert _eventually(lambda: not readable())
    assert PUBLIC in world.run("catalog", "site", "list")
    world.run("image", "restrict", PUBLIC, "--vo", "atlas")
    assert _eventually(readable)
    assert world.get("stranger", "/v1/names/star/worker/1.0").status_code == 404
    world.run("image", "open", PUBLIC)
    assert _eventually(lambda: world.get("stranger", "/v1/names/star/worker/1.0").status_code == 200)
    assert "no rule" in world.run("image", "open", PUBLIC, ok=False)


@pytest.mark.parametrize(
    ("what", "arguments", "said"),
    [
        ("nobody is named", ["image", "restrict", "star/x"], "--nobody"),
        ("somebody and nobody", ["image", "restrict", "star/x", "--site", "lyon", "--nobody"], "--nobody"),
        ("a site that is not registered", ["image", "restrict", "star/x", "--site", "gone"], "no site gone"),
        ("no images", ["image", "restrict", "x/y/z", "--nobody"], "does not name images"),
        (
            "the catalog's own name",
            ["catalog", "site", "register", "origin", "-o", "/nowhere"],
            "not a valid site name",
        ),
        ("a file that cannot be made", ["catalog", "site", "register", "new", "-o", "/no/where"], "cannot be written"),
        ("a site that is not there", ["catalog", "site", "remove", "gone"], "no site gone"),
    ],
)
def test_commands_that_make_no_sense_change_nothing(world: World, what: str, arguments: list[str], said: str) -> None:
    before = world.run("catalog", "site", "list", "--json")
    assert said in world.run(*arguments, ok=False)
    assert world.run("catalog", "site", "list", "--json") == before


def test_credential_files_are_private_and_there(tmp_path: Path) -> None:
    file = tmp_path / "credential"
    assert read_credential(None) == ""
    with pytest.raises(Misused, match="cannot be read"):
        read_credential(file)
    file.write_text("lyon.secret\n")
    file.chmod(0o640)
    with pytest.raises(Misused, match="chmod 600"):
        read_credential(file)
    file.chmod(0o600)
    assert read_credential(file) == "lyon.secret"
    file.write_text("\n")
    with pytest.raises(Misused, match="no credential"):
        read_credential(file)
    with pytest.raises(Misused, match=r"SITE\.SECRET"):
        CatalogClient("http://127.0.0.1:1", credential="two lines\nX-Header: 1")


def test_a_site_is_registered_once(world: World, tmp_path: Path) -> None:
    assert "--renew" in world.run("catalog", "site", "register", "lyon", "-o", str(tmp_path / "x"), ok=False)


def test_the_database_is_nobody_elses(world: World) -> None:
    for path in world.service.directory.glob("catalog.db*"):
        assert path.stat().st_mode & 0o077 == 0, path


def _refused(client: CatalogClient) -> bool:
    try:
        client.resolve(Reference.parse(PUBLIC))
    except NotEntitled:
        return True
    return False


def _eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if holds():
                return True
        except (NotFound, NotEntitled):
            pass
        time.sleep(0.05)
    return False
