"""The console: the site's pages for people, server-rendered. Its routes put together, and logging in and out.

Without JavaScript everything can be read and done; with it, pages keep themselves fresh.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response, Security
from starlette.concurrency import run_in_threadpool

from catalog.errors import NotFound
from deployer.errors import Forbidden
from deployer.pki.tls_peer import peer_of
from deployer.site.api.deployments import ASKING
from deployer.site.api.parameters import BEARER, answer, problems, told
from deployer.site.auth.tokens import peek
from deployer.site.console.clusters import cluster_pages
from deployer.site.console.console_output import serial_pages
from deployer.site.console.events import story_pages
from deployer.site.console.images import image_pages
from deployer.site.console.machines import machine_pages
from deployer.site.console.nodes import node_pages
from deployer.site.console.request import COOKIE, LOGIN, Console, Page, form, to
from deployer.site.console.sessions import LINK_LIFE, MAX_SESSION, Session
from deployer.site.console.templates import PREFIX, page, static
from deployer.site.model.principal import LOCAL, Principal
from deployer.site.schema.messages import VERSION, LoginLink
from deployer.site.service.site import Site

MAX_PATH = 2000
"""Characters of a page's address that is gone back to."""

CERTIFICATE_SESSION = timedelta(minutes=15)
"""How long a session by a certificate holds: the certificate, its proxies and its VO's word for it all have ends of their own,
and whoever still has them logs in again with one button."""


def console_routes(site: Site) -> APIRouter:
    """Under /console, and the page at /."""
    console = Console(site)
    routes = APIRouter()
    for part in (_login_pages, machine_pages, serial_pages, cluster_pages, node_pages, image_pages, story_pages):
        routes.include_router(part(console), include_in_schema=False)
    routes.include_router(_link_routes(console), prefix=f"/{VERSION}", dependencies=[Security(BEARER)])
    return routes


def _link_routes(console: Console) -> APIRouter:
    routes = APIRouter(tags=["site"])
    site = console.site

    @routes.post(
        "/login-links",
        response_model=LoginLink,
        responses=problems(Forbidden, *ASKING),
        openapi_extra=told(None),
        summary="Get a link by which the operator logs in on the console",
    )
    def link(request: Request, who: Annotated[Principal, Depends(site.access.who)]) -> Response:
        """Good once, for a minute, and only for whoever opens the site's own socket: all others have what they log in with."""
        if who.means != LOCAL.means:
            raise Forbidden("this is for whoever opens the site's own socket; log in with what you have shown here")
        code = console.sessions.invite(who, site.now())
        made = LoginLink(url=f"{site.url}{LOGIN}?code={code}", expires=site.now() + LINK_LIFE)
        return answer(request, made, cache="no-store")

    return routes


def _login_pages(console: Console) -> APIRouter:
    routes = APIRouter(route_class=Page)
    access, now = console.site.access, console.site.now

    @routes.get("/")
    def root() -> Response:
        return to(f"{PREFIX}/")

    @routes.get(f"{PREFIX}/static/{{name}}")
    def file(name: str) -> Response:
        found = static(name)
        if found is None:
            raise NotFound(f"there is no file {name[:80]!r}")
        return found

    @routes.get(LOGIN)
    def ask(request: Request, code: str = "", next: str = "") -> Response:  # noqa: A002 - as it stands in the address
        """A form: a link that logs in by being looked at would be used up by whatever looks at links."""
        values = {"problem": "", "code": code, "next": _inside(next), "certificate": bool(peer_of(request).chain)}
        return page("login.html", values)

    @routes.post(LOGIN)
    async def login(request: Request) -> Response:
        fields = await form(request)

        def known() -> tuple[str, Session]:
            if code := fields.get("code"):
                access.again(request)
                who = console.sessions.redeem(code, now())
                return console.sessions.open(who, now() + MAX_SESSION, now())
            token = fields.get("token", "").strip()
            if token:
                return console.sessions.open(access.who_by(token, request), ends(token), now())
            who = access.person(request)
            life = MAX_SESSION if who.means == LOCAL.means else CERTIFICATE_SESSION
            return console.sessions.open(who, now() + life, now())

        text, session = await run_in_threadpool(known)
        answered = to(_inside(fields.get("next", "")) or f"{PREFIX}/")
        seconds = max(1, int((session.expires - now()) / timedelta(seconds=1)))
        answered.set_cookie(COOKIE, text, max_age=seconds, path="/", secure=True, httponly=True, samesite="strict")
        return answered

    @routes.post(f"{PREFIX}/logout")
    async def logout(request: Request) -> Response:
        await console.sent(request)
        console.sessions.end(request.cookies.get(COOKIE, ""))
        answered = to(LOGIN)
        answered.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
        return answered

    return routes


def ends(token: str) -> datetime:
    """When a token that was verified is good no longer."""
    return datetime.fromtimestamp(float(peek(token).claims["exp"]), UTC)


def _inside(path: str) -> str:
    """A page of the console that somebody came from; empty for whatever else was said."""
    found = urlsplit(path)
    sound = not (found.scheme or found.netloc) and found.path.startswith(f"{PREFIX}/") and path.isprintable()
    return path if sound and "\\" not in path and len(path) <= MAX_PATH else ""
