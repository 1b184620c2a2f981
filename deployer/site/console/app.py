"""The console: the site's pages for people, rendered on the server. Its router, with login and logout.

Everything works without JavaScript; with it, pages update themselves.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response, Security
from starlette.concurrency import run_in_threadpool

from catalog.errors import NotFound
from deployer.errors import Forbidden
from deployer.pki.tls_peer import peer_of
from deployer.site.api.parameters import BEARER, SiteRouter, action, answer
from deployer.site.auth.tokens import peek_token
from deployer.site.console.clusters import cluster_pages
from deployer.site.console.events import event_pages
from deployer.site.console.images import image_pages
from deployer.site.console.machines import machine_pages
from deployer.site.console.nodes import node_pages
from deployer.site.console.request import COOKIE, LOGIN, Console, FormRequest, PageRoute, read_form, redirect
from deployer.site.console.sessions import LINK_LIFE, MAX_SESSION, LoginSession
from deployer.site.console.templates import CONSOLE_PREFIX, render_page, static_file
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.schema.messages import SITE_API_VERSION, LoginLink
from deployer.site.service.site import Site

MAX_PATH = 2000
"""Characters of the path to return to after login."""

CERTIFICATE_SESSION = timedelta(minutes=15)
"""Length of a session by a certificate: the certificate, its proxies and its VOMS attributes all expire at times of
their own, and a user who still has them logs in again with one click."""


def console_routes(site: Site) -> APIRouter:
    """The routes below /console, and the redirect from /."""
    console = Console(site)
    routes = APIRouter()
    for part in (_login_pages, machine_pages, cluster_pages, node_pages, image_pages, event_pages):
        routes.include_router(part(console), include_in_schema=False)
    routes.include_router(_link_routes(console), prefix=f"/{SITE_API_VERSION}", dependencies=[Security(BEARER)])
    return routes


def _link_routes(console: Console) -> APIRouter:
    routes = SiteRouter("", "site")
    site = console.site

    @routes.operation("POST /login-links", "Get a link by which the operator logs in on the console", LoginLink)
    @action(None, Forbidden)
    def link(request: Request, who: Annotated[Principal, Depends(site.access.who)]) -> Response:
        """Valid once, for a minute, and only for the operator at the site's own socket: all others have credentials."""
        if who.means != LOCAL_OPERATOR.means:
            raise Forbidden("login links are for the operator at the site's own socket; log in with your credentials")
        code = console.sessions.invite(who, site.now())
        made = LoginLink(url=f"{site.url}{LOGIN}?code={code}", expires=site.now() + LINK_LIFE)
        return answer(request, made, cache="no-store")

    return routes


def _login_pages(console: Console) -> APIRouter:
    routes = APIRouter(route_class=PageRoute)
    access, now = console.site.access, console.site.now

    @routes.get("/")
    def root() -> Response:
        return redirect(f"{CONSOLE_PREFIX}/")

    @routes.get(f"{CONSOLE_PREFIX}/static/{{name}}")
    def file(name: str) -> Response:
        found = static_file(name)
        if found is None:
            raise NotFound(f"no such file: {name[:80]!r}")
        return found

    @routes.get(LOGIN)
    def ask(request: Request, code: str = "", next: str = "") -> Response:  # noqa: A002 - as it stands in the address
        """A form: a link that logged in when it is fetched would be used up by link previews."""
        values = {"problem": "", "code": code, "next": _inside(next), "certificate": bool(peer_of(request).chain)}
        return render_page("login.html", values)

    @routes.post(LOGIN)
    async def login(request: Request) -> Response:
        fields = await read_form(request)

        def known() -> tuple[str, LoginSession]:
            if code := fields.get("code"):
                access.reauthenticate(request)
                who = console.sessions.redeem(code, now())
                return console.sessions.open(who, now() + MAX_SESSION, now())
            token = fields.get("token", "").strip()
            if token:
                return console.sessions.open(access.who_by(token, request), token_expiry(token), now())
            who = access.person(request)
            life = MAX_SESSION if who.means == LOCAL_OPERATOR.means else CERTIFICATE_SESSION
            return console.sessions.open(who, now() + life, now())

        text, session = await run_in_threadpool(known)
        answered = redirect(_inside(fields.get("next", "")) or f"{CONSOLE_PREFIX}/")
        seconds = max(1, int((session.expires - now()) / timedelta(seconds=1)))
        answered.set_cookie(COOKIE, text, max_age=seconds, path="/", secure=True, httponly=True, samesite="strict")
        return answered

    @routes.post(f"{CONSOLE_PREFIX}/logout")
    def logout(form: Annotated[FormRequest, Depends(console.submission)]) -> Response:
        console.sessions.end(form.request.cookies.get(COOKIE, ""))
        answered = redirect(LOGIN)
        answered.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
        return answered

    return routes


def token_expiry(token: str) -> datetime:
    """When a verified token expires."""
    return datetime.fromtimestamp(float(peek_token(token).claims["exp"]), UTC)


def _inside(path: str) -> str:
    """The path, if it is a page of the console; else an empty string."""
    found = urlsplit(path)
    sound = not (found.scheme or found.netloc) and found.path.startswith(f"{CONSOLE_PREFIX}/") and path.isprintable()
    return path if sound and "\\" not in path and len(path) <= MAX_PATH else ""
