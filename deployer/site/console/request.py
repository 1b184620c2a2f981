"""What all pages of the console share: sessions, forms, and error pages.

A session's principal is the very one that a token, a certificate or the operator's socket proved; each page and each
button asks `site.access` as the routes of the API do. With forms of other sites a browser sends no session cookie
(SameSite=Strict), and each form carries a secret of its session as well.
"""

import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse

from catalog.errors import Malformed
from catalog.web.parameters import read_body
from deployer.errors import Forbidden, NotAuthenticated
from deployer.machine.state import MachineState
from deployer.site.auth.grants import SiteAction
from deployer.site.console.sessions import SESSION_SECRET_BYTES, LoginSession, LoginSessions
from deployer.site.console.templates import CONSOLE_PREFIX, HEADERS, render_page
from deployer.site.db.events import last_event
from deployer.site.db.nodes import list_nodes
from deployer.site.model.principal import Principal
from deployer.site.schema.messages import ReasonRequest
from deployer.site.service.site import Site
from signer.documents import validate
from signer.errors import PartitaError

COOKIE = "__Host-partita"
"""Browsers accept a cookie with this prefix only over TLS, from this very host, for its whole path (RFC 6265bis, 4.1.3.2)."""

MAX_FORM = 96 << 10
"""Bytes of a form: a token with some hundred groups is the largest."""

MAX_FIELDS = 20

ALIVE = tuple(one for one in MachineState if not one.final)
"""States of machines that have not ended."""

LOGIN = f"{CONSOLE_PREFIX}/login"


@dataclass(frozen=True)
class PageRequest:
    """A request within a session."""

    request: Request
    session: LoginSession

    @property
    def who(self) -> Principal:
        """The session's principal."""
        return self.session.who


@dataclass(frozen=True)
class FormRequest(PageRequest):
    """A form that was submitted within a session: its fields."""

    fields: Mapping[str, str]

    @property
    def reason(self) -> str:
        """The reason in the form, or an empty string; DocumentError where it is too long."""
        return validate(ReasonRequest, {"reason": self.fields.get("reason", "").strip()}, "reason").reason


class Console:
    """What the routes of all pages need.

    Attributes:
        site: that the console shows.
        sessions: of its users.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.sessions = LoginSessions(lambda: secrets.token_urlsafe(SESSION_SECRET_BYTES))

    def visit(self, request: Request) -> PageRequest:
        """The session of a request: a dependency of routes. NotAuthenticated, TooManyRequests."""
        session = self.sessions.find(request.cookies.get(COOKIE, ""), self.site.now())
        self.site.access.reauthenticate(request, session.who)
        return PageRequest(request, session)

    async def submission(self, request: Request) -> FormRequest:
        """The submitted form of a request: a dependency of routes.

        Raises:
            NotAuthenticated, TooManyRequests. Forbidden: the form is not of this session. Malformed: not a form.
        """
        visit = await run_in_threadpool(self.visit, request)
        fields = await read_form(request)
        if not secrets.compare_digest(fields.pop("form", "").encode(), visit.session.form.encode()):
            raise Forbidden("the form token does not match your session; reload the page and send the form again")
        return FormRequest(request, visit.session, fields)

    def node_names(self, visit: PageRequest) -> Mapping[str, str]:
        """The names of nodes by UUID; empty if the user may not see them."""
        if not self.site.access.allows(visit.who, SiteAction.NODES):
            return {}
        return {one.uuid: one.name for one in self.site.store.read(list_nodes, contents=False)}

    def show(self, visit: PageRequest, template: str, **values: Any) -> Response:
        """Render a page, with the values that all pages have."""
        may = {action.value for action in SiteAction if self.site.access.allows(visit.who, action)}
        shared = {
            "who": visit.who,
            "form": visit.session.form,
            "may": may,
            "here": visit.request.url.path,
            "last": self.site.store.read(last_event),
        }
        return render_page(template, shared | values)


class PageRoute(APIRoute):
    """A route that renders errors as pages, and redirects to the login page without a session."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with errors rendered."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except NotAuthenticated as exc:
                if request.url.path == LOGIN:
                    return render_page(
                        "login.html", {"problem": str(exc), "code": "", "next": "", "certificate": False}, 401
                    )
                where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                back = f"?next={quote(where, safe='')}" if request.method == "GET" else ""
                return redirect(f"{LOGIN}{back}")
            except RequestValidationError as exc:
                fault: dict[str, Any] = exc.errors()[0]
                place = ".".join(str(part) for part in fault.get("loc", ()))
                return problem_page(Malformed(f"{place}: {fault.get('msg', 'is malformed')}"))
            except PartitaError as exc:
                return problem_page(exc)

        return handled


def problem_page(error: PartitaError) -> Response:
    """The page for an error."""
    answered = render_page(
        "problem.html",
        {"status": error.status, "title": HTTPStatus(error.status).phrase, "detail": str(error)},
        error.status,
    )
    answered.headers.update(error.headers)
    return answered


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form (application/x-www-form-urlencoded).

    Raises:
        Forbidden: a page of another site sent it. TooLarge, Malformed: not a form.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if site != "same-origin" or (origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")):
        raise Forbidden("cross-site form rejected")
    data = await read_body(request, MAX_FORM, "a form")
    try:
        return dict(parse_qsl(data.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
    except ValueError as exc:
        raise Malformed("the request body is not a valid form") from exc


def redirect(where: str) -> Response:
    """Redirect by GET, whatever the request's method (303: RFC 9110, section 15.4.4)."""
    return RedirectResponse(where, 303, HEADERS)


def show_changed(group: str, uuid: str) -> Response:
    """Redirect from a form to the page of the object that it changed; `group` is that of its pages, such as "machines"."""
    return redirect(f"{CONSOLE_PREFIX}/{group}/{uuid}")


def next_page_url(request: Request, after: str | None) -> str:
    """The query string of the next page; empty on the last one."""
    return str(request.url.include_query_params(after=after).query) if after else ""
