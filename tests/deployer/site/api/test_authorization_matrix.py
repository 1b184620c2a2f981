"""Who may what: every role against every route of a real service over HTTPS. A route without a row fails.

Each row says what becomes of each role's request: `y` it is let through (whatever comes of it then), `u` nobody knows who
asks (401), `f` they may not and are told so (403), `h` the thing does not exist for them (404).
"""

import ssl
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from deployer.pki.ca import create_request
from deployer.site.auth.grants import SiteAction
from deployer.site.client.discovery import operator_socket
from deployer.site.db.engine import SiteDatabase
from deployer.site.model.cluster import ClusterDocument, ClusterPhase, ClusterState
from deployer.site.model.principal import Principal
from deployer.site.scheduling.node_capacity import Overcommit
from deployer.site.scheduling.placement import place_machines
from deployer.site.store.admission import admit_request
from deployer.site.store.changes import add_cluster, add_node, secret
from deployer.site.store.store import SiteStore
from signer.documents import validate
from tests.support.grid_ca import Holder, utc_now
from tests.support.site.authorization_matrix import BODIES, COLUMNS, DOCUMENT, MATRIX, MISSING, RIGHTS, ROLES
from tests.support.site.service_process import PaperNode, SiteProcess
from tests.support.site.token_issuer import AUDIENCE, Served, issuer
from tests.support.site.values import proposal
from tests.support.site.voms_grid import LIMITED, GridWorld


@dataclass
class World:
    """A site, its roles' connections, and what is made anew for each request."""

    site: SiteProcess
    store: SiteStore
    clients: dict[str, httpx2.Client]
    ann: Principal
    store_nodes: list[str]

    def things(self, template: str) -> dict[str, str]:
        """What a request is about, which nobody else's request has touched."""
        found: dict[str, str] = {}
        if "{deployment}" in template or "{machine}" in template:
            deployment, machines, _ = self.store.write(
                admit_request, self.ann, None, proposal(cores=1, memory=16 << 20, disk=1 << 20), place_machines
            )
            found = {"deployment": deployment.uuid, "machine": machines[0].uuid}
        if "{cluster}" in template:
            found["cluster"] = self.cluster(self.ann, f"c{uuid.uuid4().hex[:8]}", over=True)
        if "{node}" in template:
            found["node"] = self.store.write(add_node, f"n{uuid.uuid4().hex[:8]}", {}).uuid
        return found

    def cluster(self, owner: Principal, name: str, *, over: bool = False) -> str:
        """A cluster of somebody's, of which nothing runs."""
        document = validate(ClusterDocument, DOCUMENT | {"name": name}, "cluster")
        now = utc_now()
        phase = ClusterPhase.ENDED if over else ClusterPhase.ADMITTING
        state = ClusterState(
            phase=phase, changed=now, expires=now + timedelta(hours=1), counts={"worker": 1}, finished=over
        )
        return self.store.write(add_cluster, owner, document, state).uuid

    def outcome(self, role: str, row: str) -> tuple[str, str]:
        """What becomes of a role's request, as a letter, and the answer."""
        method, _, template = row.partition(" ")
        things = self.things(template)
        body = BODIES.get(row, b"{}") if method != "GET" else None
        path = template.format(**things)
        with self.clients[role].stream(method, path, content=body, headers={"Content-Type": "application/json"}) as got:
            if path.endswith("/stream") and got.status_code == 200:
                return "y", "a stream"
            text = got.read().decode()
        code = got.json().get("type", "").rpartition(":")[2] if got.status_code >= 400 else ""
        assert got.status_code < 500 or code == "site-unavailable", text
        assert got.status_code != 429, text
        hidden = {MISSING[name] for name in things if name in MISSING and f"{{{name}}}" in template}
        if code in hidden:
            assert not any(thing in text.replace(things[name], "") for name, thing in things.items())
            return "h", text
        if got.status_code == 401:
            assert got.headers["www-authenticate"].startswith('Bearer realm="partita"')
            return "u", text
        refused = code in {"forbidden", "join-refused"} and template != "/v2/join"
        return ("f" if refused else "y"), text


def client(site: SiteProcess, ca: str, *, token: str = "", certificate: Path | None = None) -> httpx2.Client:
    """A connection of a role's own."""
    context = ssl.create_default_context(cadata=ca)
    if certificate is not None:
        context.load_cert_chain(certificate)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.Client(base_url=site.url, verify=context, headers=headers, timeout=60, trust_env=False)


def grids(place: Path, world: GridWorld) -> dict[str, Path]:
    """Files with proxies: as `voms-proxy-fake` makes them, and a limited one."""
    proxy = world.proxy(language=LIMITED, attributes=world.attributes())
    parts = {"proxy": world.stock(), "limited": proxy.pem + _key(proxy) + world.ann.pem}
    for name, pem in parts.items():
        (place / name).write_bytes(pem)
    return {name: place / name for name in parts}


def _key(holder: Holder) -> bytes:
    return holder.key_pem


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("matrix")
    grid = GridWorld.make(place / "grid", utc_now())
    with ExitStack() as stack:
        star, atlas, own, odd, evil = (
            stack.enter_context(issuer(place / name)) for name in ("star", "atlas", "own", "odd", "evil")
        )
        bundle = place / "issuers.pem"
        bundle.write_bytes(b"".join(each.authorities.read_bytes() for each in (star, atlas, own, odd)))
        believed = {"star": star, "atlas": atlas, "site": own, "odd": odd}
        site = stack.enter_context(
            SiteProcess(
                rights=RIGHTS,
                issuers="".join(f'[[issuer]]\nissuer = "{s.url}"\nvo = "{vo}"\n' for vo, s in believed.items()),
                issuers_ca=str(bundle),
                audience=AUDIENCE,
                failure_rate=1000.0,
                address_rate=10_000.0,
                grid_certificates=str(grid.grid.path),
                vomsdir=str(grid.vomsdir),
            )
        )
        ca = site.ca
        node, left = PaperNode(site, "node", cores=4096, memory=64 << 30), PaperNode(site, "left")
        with site.client() as operator:
            operator.do_node("left", "remove")
        proxies = grids(place, grid)

        def token(served: Served, name: str, *groups: str, **claims: str) -> str:
            return served.signer.token(datetime.now(UTC), sub=name, wlcg__groups=list(groups), **claims)

        forged = star.signer
        forged.key = evil.key
        shown: dict[str, Callable[[], httpx2.Client]] = {
            "nobody": lambda: client(site, ca),
            "forger": lambda: client(site, ca, token=forged.token(datetime.now(UTC))),
            "stranger": lambda: client(site, ca, token=token(odd, "eve", "/odd")),
            "requester": lambda: client(site, ca, token=token(star, "ann", "/star")),
            "reader": lambda: client(site, ca, token=token(star, "ann", "/star/VO-Admin", scope="compute.read")),
            "colleague": lambda: client(site, ca, token=token(star, "bob", "/star", "/star/production")),
            "admin": lambda: client(site, ca, token=token(star, "ada", "/star", "/star/VO-Admin")),
            "proxy": lambda: client(site, ca, certificate=proxies["proxy"]),
            "limited": lambda: client(site, ca, certificate=proxies["limited"]),
            "other": lambda: client(site, ca, token=token(atlas, "ann", "/atlas", "/atlas/VO-Admin", "/star/VO-Admin")),
            "security": lambda: client(site, ca, token=token(own, "sam", "/site/security")),
            "keeper": lambda: client(site, ca, token=token(own, "kim", "/site/admins")),
            "operator": lambda: httpx2.Client(
                transport=httpx2.HTTPTransport(uds=str(operator_socket(site.settings))),
                base_url="http://site",
                timeout=60,
            ),
            "node": lambda: client(site, ca, certificate=_joined(place / "node.pem", node)),
            "left": lambda: client(site, ca, certificate=_joined(place / "left.pem", left)),
            "guest": lambda: client(site, ca, certificate=guest),
        }
        database = SiteDatabase(site.settings.database_url)
        stack.callback(database.close)
        store = SiteStore(database, utc_now, lambda: str(uuid.uuid4()), Overcommit())
        guest = _guest(place / "guest.pem", store)
        ann = Principal(issuer=star.url, subject="ann", vo="star", groups=("/star",), means="token")
        clients = {role: stack.enter_context(shown[role]()) for role in ROLES}
        yield World(site, store, clients, ann, [])


def _joined(file: Path, node: PaperNode) -> Path:
    """A node's certificate and key in one file."""
    file.write_bytes(b"".join(each.read_bytes() for each in node.files.values()))
    return file


def _guest(file: Path, store: SiteStore) -> Path:
    """What a guest gets from the context broker: a certificate of the very same CA."""
    from deployer.pki.ca import CertificateAuthority

    authority = CertificateAuthority.parse(store.write(secret, "authority", bytes))
    key, request = create_request()
    certificate = authority.host(request, str(uuid.uuid4()), ("guest",), utc_now(), timedelta(hours=1))
    file.write_bytes(certificate.encode() + key)
    return file


CASES = [pytest.param(row, id=row.replace(" ", "-").replace("/", ".")) for row in MATRIX]


@pytest.mark.parametrize("row", CASES)
def test_every_role_at_a_route(world: World, row: str) -> None:
    expected = dict(zip(COLUMNS, MATRIX[row].replace(" ", ""), strict=True))
    found, answers = {}, {}
    for role in COLUMNS:
        found[role], answers[role] = world.outcome(role, row)
    wrong = [
        f"{role} ({ROLES[role]}): {found[role]} and not {expected[role]}: {answers[role]}"
        for role in COLUMNS
        if found[role] != expected[role]
    ]
    assert not wrong, "\n".join(wrong)


def test_every_route_has_a_row(world: World) -> None:
    """And each says of which action it is."""
    described = world.clients["operator"].get("/openapi.json").json()["paths"]
    routes: dict[str, str] = {}
    for path, operations in described.items():
        for method, operation in operations.items():
            routes[f"{method.upper()} {path}"] = operation["x-action"]
    covered = set()
    for row in MATRIX:
        general = row.rpartition("/")[0] + "/{verb}"
        covered.add(row if row in routes else general)
    assert covered == set(routes)
    names = {*SiteAction, "none"}
    for route, action in routes.items():
        assert action in names or set(action.replace(",", " ").split()) & names, route


def test_verbs_are_all_in_the_matrix(world: World) -> None:
    described = world.clients["operator"].get("/openapi.json").json()["paths"]
    for thing in ("machine", "node"):
        (operation,) = described[f"/v2/{thing}s/{{{thing}}}/{{verb}}"].values()
        (verb,) = [each for each in operation["parameters"] if each["name"] == "verb"]
        schema = verb["schema"]
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            schema = world.clients["operator"].get("/openapi.json").json()["components"]["schemas"][name]
        assert {f"POST /v2/{thing}s/{{{thing}}}/{each}" for each in schema["enum"]} <= set(MATRIX)


def test_that_a_name_means_several_is_told_to_those_alone_who_see_them(world: World) -> None:
    for owner in (world.ann, world.ann.model_copy(update={"subject": "ada"})):
        world.cluster(owner, "several")
        for _ in range(2):
            world.store.write(
                admit_request,
                owner,
                None,
                proposal(cores=1, memory=16 << 20, disk=1 << 20, hostname="several"),
                place_machines,
            )
    for thing in ("machine", "cluster"):
        for role in ("stranger", "colleague", "other"):
            known, unknown = (world.clients[role].get(f"/v2/{thing}s/{name}") for name in ("several", "nobody"))
            assert known.status_code == unknown.status_code == 404
            assert known.text.replace("several", "nobody") == unknown.text
        assert world.clients["operator"].get(f"/v2/{thing}s/several").status_code == 400


@pytest.mark.parametrize("thing", sorted(MISSING))
def test_what_is_hidden_looks_like_what_is_not_there(world: World, thing: str) -> None:
    """Word by word, but for the name that was asked for; by a UUID or by the beginning of one."""
    there = world.things(f"{{{thing}}}")[thing]
    absent = str(uuid.uuid4())
    for size in (36, 13):
        asked, unknown = there[:size], absent[:size]
        for role in ("stranger", "colleague", "other", "node"):
            answers = []
            for name in (asked, unknown):
                got = world.clients[role].get(f"/v2/{thing}s/{name}")
                kept = {key: value for key, value in got.headers.items() if key not in {"date", "content-length"}}
                answers.append((got.status_code, got.text.replace(name, "NAME"), kept))
            assert answers[0] == answers[1], role
            assert answers[0][0] == 404


def test_lists_show_what_may_be_seen_one_by_one(world: World) -> None:
    things = world.things("{deployment}")
    visible = {
        role
        for role in ("requester", "reader", "colleague", "admin", "proxy", "limited", "other", "security", "operator")
        if things["machine"] in world.clients[role].get("/v2/machines", params={"limit": 1}).text
    }
    assert visible == {"requester", "reader", "admin", "proxy", "limited", "security", "operator"}
    for path in ("/v2/deployments", "/v2/clusters", "/v2/machines", "/v2/events"):
        for role in ("colleague", "other"):
            said = world.clients[role].get(path, params={"limit": 1000}).json()
            assert said["items"] == [], f"{role} at {path}"


def test_no_answer_to_a_guesser_says_why(world: World) -> None:
    answers = {world.clients[role].get("/v2/machines").json()["detail"] for role in ("forger", "guest")}
    assert answers == {"the credentials were not accepted; the site's log has the reason"}
    log = world.site.log.read_text()
    assert "signature was not made by the key" in log
    for role, each in world.clients.items():
        shown = each.headers.get("authorization", "").rpartition(" ")[2]
        assert not shown or not any(part in log for part in shown.split(".")), role


def test_a_slip_in_a_file_keeps_neither_nodes_nor_the_operator_out(make_site: Callable[..., SiteProcess]) -> None:
    """Else every node would be lost after minutes, and its machines with it."""
    site = make_site(rights="nonsense", issuers="nonsense")
    node = PaperNode(site, "node")
    with site.client() as operator:
        problems = operator.status().problems
        assert [operator.node("node").state, node.step().revision] == ["ready", 0]
    assert any("rights.toml" in each for each in problems)
    assert any("issuers.toml" in each for each in problems)
