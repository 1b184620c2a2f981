"""A node's view of its site: what it should have, and where it says what it has. A door to httpx2.

NODE/site/url               where the site is
NODE/site/site.pem          the certificates by which it is believed, its CA's first
NODE/site/certificate.pem   the node's own certificate, and
NODE/site/key.pem           its key
`partita node join` leaves them. Nothing else is believed: no other CA, no proxy, no redirect.
"""

import ssl
from typing import TypeVar

import httpx2

from catalog.schema.problems import is_unknown_route, read_problem
from deployer.errors import SiteUnavailable
from deployer.node.membership.credentials import CA_FILE, CERTIFICATE_FILE, KEY_FILE, SiteMembership
from deployer.protocol.desired_state import MAX_REPORT, ConsoleResponse, DesiredState, NodeReport, ReportResponse
from deployer.protocol.joining import NodeCertificate
from signer.documents import Document, canonical, parse
from signer.errors import DocumentError

D = TypeVar("D", bound=Document)

MAX_CERTIFICATE = 64 << 10
"""Bytes of a certificate; one for a P-256 key has a thousand."""

TIMEOUT = 20.0
"""Seconds that the site may be silent beyond what it was asked to wait."""


class NodeSiteClient:
    """A connection to a site, closed by `close`. One thread may wait for what is desired while another reports."""

    def __init__(self, membership: SiteMembership) -> None:
        self._url = membership.url
        place = membership.directory
        try:
            context = ssl.create_default_context(cafile=str(place / CA_FILE))
            if membership.url.startswith("https:"):
                context.load_cert_chain(place / CERTIFICATE_FILE, place / KEY_FILE)
        except (OSError, ssl.SSLError) as exc:
            raise SiteUnavailable(f"{place}: the site's or the node's certificate cannot be used: {exc}") from exc
        self._http = httpx2.Client(base_url=membership.url, verify=context, trust_env=False, timeout=TIMEOUT)

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def desired(self, after: int, wait: float) -> DesiredState | None:
        """What this node should have, once its revision is another than `after`, or after so many seconds.

        Raises:
            SiteUnavailable: the site cannot be reached, does not know this node, or sends an invalid document.
        """
        params = {"after": str(after), "wait": str(wait), "console_requests": "true"}
        answer = self._ask("GET", "desired", params=params, timeout=wait + TIMEOUT)
        if answer.status_code in {httpx2.codes.NO_CONTENT, httpx2.codes.NOT_MODIFIED}:
            return None
        return self._parse(DesiredState, answer, "the site's desired state", MAX_REPORT)

    def report(self, report: NodeReport) -> ReportResponse:
        """Say how the node is; errors as in `desired`."""
        headers = {"Content-Type": "application/json"}
        answer = self._ask("POST", "report", content=canonical(report), headers=headers)
        if answer.status_code == httpx2.codes.NO_CONTENT:  # a site of before there were leases
            return ReportResponse()
        return self._parse(ReportResponse, answer, "the site's response to a report", MAX_CERTIFICATE)

    def serial(self, answer: ConsoleResponse) -> None:
        """Tell a part of a console that the site asked for; errors as in `desired`."""
        self._ask("POST", "console", content=canonical(answer), headers={"Content-Type": "application/json"})

    def renew(self, request: str) -> str:
        """A fresh certificate for this node (PEM) for a request (PKCS #10, PEM); errors as in `desired`."""
        answer = self._ask("POST", "certificate", json={"request": request})
        return self._parse(NodeCertificate, answer, "certificate", MAX_CERTIFICATE).certificate

    def _parse(self, model: type[D], answer: httpx2.Response, what: str, limit: int) -> D:
        try:
            return parse(model, answer.content, what, limit=limit)
        except DocumentError as exc:
            raise SiteUnavailable(f"{self._url}: {exc}; is the site of another version?") from exc

    def _ask(self, method: str, path: str, **options: object) -> httpx2.Response:
        try:
            answer = self._http.request(method, f"/v2/agent/{path}", **options)  # type: ignore[arg-type]
        except httpx2.HTTPError as exc:
            raise SiteUnavailable(f"{self._url}: the site does not answer ({exc or type(exc).__name__})") from exc
        if answer.is_error or answer.is_redirect:
            problem = read_problem(answer.content)
            if is_unknown_route(problem):
                raise SiteUnavailable(
                    f"{self._url}: the site's release does not have this node's API; upgrade the site"
                )
            reason = problem or f"it answers {answer.status_code}"
            raise SiteUnavailable(f"{self._url}: the site does not want this node's call: {reason}")
        return answer
