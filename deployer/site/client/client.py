"""A client of a site for requesters, operators and nodes: the site's values and errors, over HTTPS or its socket.

The door to httpx2 of this side. An order carries an idempotency key, so it is sent again when an answer was lost.
"""

import base64
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2

from catalog.errors import Misused
from catalog.schema.problems import is_unknown_route, read_problem
from deployer.errors import SiteUnavailable
from deployer.pki.ca import fingerprint
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.joining import JoinRequest, JoinResponse
from deployer.site.client.endpoint import SiteEndpoint
from deployer.site.model.records import AuditRecord, SiteEvent, SiteNode
from deployer.site.schema.messages import (
    MAX_ANSWER,
    MAX_PAGE,
    AuditPage,
    ConsoleChunk,
    DeploymentCreated,
    DeploymentExplanation,
    DeploymentPage,
    DryRunResult,
    EventPage,
    JoinToken,
    JoinTokenRequest,
    LoginLink,
    MachineChange,
    MachinePage,
    NodeList,
    NodeVerbRequest,
    SaveRequest,
    SiteAnchors,
    SiteStatus,
    SwarmMap,
    VerbRequest,
)
from deployer.site.schema.views import DeploymentView, MachineView
from signer.documents import Document, canonical, parse
from signer.runtime.closing import Closable
from signer.runtime.paging import walk_pages
from signer.runtime.retry import RetryPolicy

TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
"""Seconds of silence: an order takes longest, since it queries a catalog."""

MAX_EVENT = 2 << 20
"""Bytes of an event in a stream: the longest holds a MiB of a console, in base64."""

RETRIES = RetryPolicy(attempts=4, base=0.4, max_pause=6.4, floor=0.5)
"""For a request that may be repeated, and for a broken stream."""

STREAM_SILENCE = 60.0
"""Seconds without data after which a stream of events counts as dead: four of its heartbeats."""

FOLLOW_PATIENCE = 300.0
"""Seconds that a site may be unreachable, during a restart for example, before following its events fails."""

D = TypeVar("D", bound=Document)


class SiteClient(Closable):
    """A connection to a site's service, closed by `close` or as a context manager. Safe to use from several threads."""

    def __init__(
        self,
        endpoint: SiteEndpoint,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect lazily; Misused if the URL, the CA or the certificate cannot be used."""
        self.place = str(endpoint.socket) if endpoint.socket else endpoint.url.rstrip("/")
        self._endpoint, self._sleep, self._clock = endpoint, sleep, clock
        headers = {"User-Agent": "partita"} | ({"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {})
        transport = httpx2.HTTPTransport(uds=str(endpoint.socket), verify=endpoint.tls()) if endpoint.socket else None
        base = "http://site" if endpoint.socket else self.place
        try:
            self._http = httpx2.Client(
                transport=transport,
                base_url=base,
                timeout=TIMEOUT,
                headers=headers,
                verify=endpoint.tls(),
                trust_env=False,
            )
        except (httpx2.InvalidURL, ValueError) as exc:
            raise Misused(f"{endpoint.url!r} is not a site's URL; give it as https://HOST:PORT") from exc

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def status(self) -> SiteStatus:
        """The state of the site: its policy, nodes, machines and problems."""
        return self.ask(SiteStatus, "GET", "status")

    def create(self, request: DeploymentRequest, key: str) -> DeploymentCreated:
        """Order machines. A repeated call with the same key and request returns the same answer and orders nothing."""
        return self.ask(
            DeploymentCreated,
            "POST",
            "deployments",
            content=canonical(request),
            headers={"Idempotency-Key": key},
            again=True,
        )

    def trial(self, request: DeploymentRequest) -> DryRunResult:
        """Dry-run an order; nothing is done."""
        return self.ask(DryRunResult, "POST", "deployments", content=canonical(request), params={"dry_run": "true"})

    def deployments(self, **wanted: str) -> Iterator[DeploymentView]:
        """Deployments that the caller may see, the newest first, read page by page; filters as in the API."""
        return self.items(DeploymentPage, "deployments", wanted)

    def deployment(self, uuid: str) -> DeploymentCreated:
        """One deployment with its machines."""
        return self.ask(DeploymentCreated, "GET", f"deployments/{_part(uuid)}")

    def explain(self, uuid: str) -> DeploymentExplanation:
        """Why it was admitted and runs where it does."""
        return self.ask(DeploymentExplanation, "GET", f"deployments/{_part(uuid)}/explain")

    def known_hosts(self, uuid: str) -> str:
        """The SSH host keys of a deployment's machines, as lines of known_hosts."""
        return self._attempt("GET", f"deployments/{_part(uuid)}/known_hosts", again=True).decode()

    def destroy_deployment(self, uuid: str) -> DeploymentCreated:
        """End all machines of a deployment."""
        return self.ask(DeploymentCreated, "DELETE", f"deployments/{_part(uuid)}", again=True)

    def machines(self, **wanted: str) -> Iterator[MachineView]:
        """Machines that the caller may see, the newest first, read page by page; filters as in the API."""
        return self.items(MachinePage, "machines", wanted)

    def machine(self, name: str) -> MachineView:
        """One machine, by UUID or the beginning of one."""
        return self.ask(MachineView, "GET", f"machines/{_part(name)}")

    def do(self, name: str, verb: str, reason: str = "", *, node: str = "", elsewhere: bool = False) -> MachineView:
        """Pause, resume, suspend, reactivate, reboot, shutdown or destroy a machine; returns it with its desired state.

        Args:
            node, elsewhere: for "reactivate": the node to run on, or any other node, instead of the present one.
        """
        asked = VerbRequest(reason=reason, node=node, elsewhere=elsewhere)
        return self.ask(MachineView, "POST", f"machines/{_part(name)}/{_part(verb)}", content=canonical(asked))

    def save(self, name: str, version: str, key: str, reason: str = "") -> MachineView:
        """Save a machine as a new version of its image; once for the same key, version and machine."""
        wanted, headers = SaveRequest(version=version, reason=reason), {"Idempotency-Key": key}
        path = f"machines/{_part(name)}/save"
        return self.ask(MachineView, "POST", path, content=canonical(wanted), headers=headers, again=True)

    def console(self, name: str, most: int) -> bytes:
        """The last bytes of a machine's serial console; MachineConflict where it has none now."""
        params = {"bytes": str(most)}
        return self._attempt("GET", f"machines/{_part(name)}/console", again=True, params=params)

    def follow_console(self, name: str, most: int) -> Iterator[bytes]:
        """The same, and further output as it is written, until the machine ends; reconnects when the connection breaks.

        Raises:
            SiteUnavailable: the site does not answer, or neither site nor node has for FOLLOW_PATIENCE.
            MachineConflict: the machine has ended.
        """
        path, params = f"machines/{_part(name)}/console", {"bytes": str(most), "follow": "true"}
        for event in self._follow(path, params, ""):
            if event.event == "end":
                return
            if event.data:
                yield base64.b64decode(parse(ConsoleChunk, event.data.encode(), "console", limit=MAX_EVENT).data)

    def change(self, name: str, change: MachineChange) -> MachineView:
        """Change a machine's end, memory or cores."""
        return self.ask(MachineView, "PATCH", f"machines/{_part(name)}", content=canonical(change))

    def nodes(self) -> tuple[SiteNode, ...]:
        """All nodes, by name."""
        return self.ask(NodeList, "GET", "nodes").items

    def swarm(self) -> SwarmMap:
        """The transfers of contents between nodes."""
        return self.ask(SwarmMap, "GET", "swarm")

    def node(self, name: str) -> SiteNode:
        """One node, by UUID, the beginning of one, or name."""
        return self.ask(SiteNode, "GET", f"nodes/{_part(name)}")

    def do_node(self, name: str, verb: str, reason: str = "", *, migrate: bool = False) -> SiteNode:
        """Drain, undrain or remove a node; with `migrate`, stopped and suspended machines on a drained node go to others."""
        asked = NodeVerbRequest(reason=reason, migrate=migrate)
        return self.ask(SiteNode, "POST", f"nodes/{_part(name)}/{_part(verb)}", content=canonical(asked))

    def token(self, wanted: JoinTokenRequest) -> JoinToken:
        """A token with which a node may join."""
        return self.ask(JoinToken, "POST", "nodes/tokens", content=canonical(wanted))

    def login_link(self) -> LoginLink:
        """A link with which the operator logs in on the console, once."""
        return self.ask(LoginLink, "POST", "login-links")

    def join(self, wanted: JoinRequest) -> JoinResponse:
        """Join as a node."""
        return self.ask(JoinResponse, "POST", "join", content=canonical(wanted))

    def events(self, after: int, limit: int = MAX_PAGE, deployment: str = "") -> EventPage:
        """The events after an event's number."""
        params = {"after": str(after), "limit": str(limit)} | ({"deployment": deployment} if deployment else {})
        return self.ask(EventPage, "GET", "events", params=params)

    def audit(self, most: int, **wanted: str) -> Iterator[AuditRecord]:
        """The audit log, the last entry first, read page by page; filters as in the API."""
        return islice(self.items(AuditPage, "audit", {"limit": str(min(most, MAX_PAGE))} | wanted), most)

    def follow(self, after: int, deployment: str = "") -> Iterator[SiteEvent]:
        """Events as they happen, without end; resumes where it was when the connection breaks.

        Raises:
            SiteUnavailable: the site does not answer, or has not answered for FOLLOW_PATIENCE.
        """
        for event in self._follow("events/stream", {"deployment": deployment} if deployment else {}, str(after)):
            if event.data:
                yield parse(SiteEvent, event.data.encode(), "event", limit=MAX_EVENT)

    def _follow(self, path: str, params: Mapping[str, str], after: str) -> Iterator[httpx2.ServerSentEvent]:
        """The events of a stream after a position, without end; reconnects, for FOLLOW_PATIENCE at most, when it breaks."""
        heard: float | None = None
        while True:
            try:
                for event in self._events(path, params, after):
                    heard, after = self._clock(), event.id if event.id.isdecimal() else after
                    yield event
            except SiteUnavailable:
                if heard is None or self._clock() - heard > FOLLOW_PATIENCE:
                    raise
            self._sleep(RETRIES.pause(2))

    def ask(self, model: type[D], method: str, path: str, *, again: bool = False, **options: Any) -> D:
        """Send a request and parse the answer as a document.

        Args:
            model, method, path: the document's type; HTTP method; path below /v2/.
            again: the request may be repeated with the same result.
            options: of httpx2: content, params, headers.

        Raises:
            SiteUnavailable: the site cannot be reached.
            The site's own error, as the same exception.
        """
        data = self._attempt(method, path, again=again or method == "GET", **options)
        return parse(model, data, f"answer of {self.place}", limit=MAX_ANSWER)

    def _attempt(self, method: str, path: str, *, again: bool, **options: Any) -> bytes:
        for delay in RETRIES.pauses() if again else (None,):
            self._reach()
            try:
                answer = self._http.request(method, f"/v2/{path}", **options)
            except httpx2.HTTPError as exc:
                # A refused connection is not retried; a broken one is.
                if delay is None or isinstance(exc, httpx2.ConnectError | httpx2.ConnectTimeout):
                    raise self._unavailable(exc) from exc
                self._sleep(delay)
                continue
            if answer.is_error:
                raise _error(answer)
            return answer.content
        raise AssertionError

    def items(self, model: type[D], path: str, wanted: Mapping[str, str]) -> Iterator[Any]:
        """The items of a list, read page by page; empty filters are left out. Errors as in `ask`."""
        params = {"limit": str(MAX_PAGE)} | {name: value for name, value in wanted.items() if value}

        def read(cursor: Any) -> tuple[tuple[Any, ...], Any]:
            page: Any = self.ask(model, "GET", path, params=params | ({} if cursor is None else {"after": cursor}))
            return page.items, page.next

        return walk_pages(read)

    def _events(self, path: str, params: Mapping[str, str], after: str) -> Iterator[httpx2.ServerSentEvent]:
        """A stream of server-sent events after a position; errors as in `ask`."""
        timeout, headers = httpx2.Timeout(STREAM_SILENCE, connect=5.0), {"Last-Event-ID": after} if after else {}
        self._reach()
        try:
            with self._http.stream("GET", f"/v2/{path}", params=params, headers=headers, timeout=timeout) as got:
                if got.is_error:
                    got.read()
                    raise _error(got)
                yield from httpx2.EventSource(got, MAX_EVENT)
        except httpx2.HTTPError as exc:
            raise self._unavailable(exc) from exc

    def _reach(self) -> None:
        """Check that a process listens on the socket: httpx2 leaks its own socket where none does."""
        if self._endpoint.socket is None:
            return
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as trial:
            trial.settimeout(5.0)
            try:
                trial.connect(str(self._endpoint.socket))
            except OSError as exc:
                raise SiteUnavailable(
                    f"{self._endpoint.socket}: no site answers there ({exc.strerror or exc}); start one with "
                    "`partita site serve`, or set site.url to the URL of another"
                ) from exc

    def _unavailable(self, exc: httpx2.HTTPError) -> SiteUnavailable:
        return SiteUnavailable(f"{self.place}: the site does not answer ({exc or type(exc).__name__})")


def fetch_anchors(url: str, wanted: str) -> SiteAnchors:
    """Fetch a site's CA certificates from itself, and compare them with the fingerprint that came another endpoint.

    Raises:
        Misused: the server that answers is not that site.
        SiteUnavailable: the site does not answer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # verified by the fingerprint below, and not trusted before
    try:
        with httpx2.Client(base_url=url.rstrip("/"), timeout=TIMEOUT, verify=context, trust_env=False) as client:
            answer = client.get("/v2/ca")
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as exc:
        raise SiteUnavailable(f"{url}: the site does not answer ({exc or type(exc).__name__})") from exc
    if answer.is_error:
        raise _error(answer)
    found = parse(SiteAnchors, answer.content, f"answer of {url}", limit=MAX_ANSWER)
    if fingerprint(found.certificates.encode()) != wanted:
        raise Misused(f"{url}: the token is from another site; ask its operator for the right URL")
    return found


def _error(answer: httpx2.Response) -> Exception:
    """The exception in an answer."""
    problem = read_problem(answer.content)
    if is_unknown_route(problem):
        return SiteUnavailable(
            f"{answer.url}: the site does not have that path; if it is of an earlier release, upgrade the site"
        )
    return problem or SiteUnavailable(
        f"{answer.url}: answered {answer.status_code} without a reason; is this a Partita site?"
    )


def _part(name: str) -> str:
    """Typed text as one segment of a path."""
    return quote(name, safe="")
