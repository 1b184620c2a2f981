"""The console's pages of images: their endorsers, the policy's decision on them, and the form that explains a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BeforeValidator

from catalog.errors import CatalogError, Misused
from catalog.image.manifest import Manifest
from catalog.schema.images import ImageEntry
from deployer.policy.decision import Decision, RuleResult
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.auth.grants import SiteAction, quota_of
from deployer.site.console.request import Console, PageRequest, PageRoute
from deployer.site.console.templates import CONSOLE_PREFIX
from signer.documents import validate
from signer.errors import PartitaError
from signer.runtime.units import parse_duration, parse_size
from signer.verification.trust import EndorsementCheck

MOST = 100
"""Images of the page: each is looked up and evaluated; verified endorsements come from the signature cache."""

_NONE = BeforeValidator(lambda text: text or None)
"""A field of a form that was left empty."""

_AMOUNT = Query(max_length=20)


@dataclass(frozen=True)
class ImageListing:
    """An image in the list with the policy's decision on one machine of it, or the reason why it could not be made."""

    entry: ImageEntry
    checks: tuple[EndorsementCheck, ...] = ()
    decision: Decision | None = None
    fault: str = ""


def image_pages(console: Console) -> APIRouter:
    """The routes of images, and the form that explains."""
    routes = APIRouter(prefix=CONSOLE_PREFIX, route_class=PageRoute)
    site, access = console.site, console.site.access
    visiting = Annotated[PageRequest, Depends(console.visit)]

    @routes.get("/images")
    def images(visit: visiting) -> Response:
        everything = access.allows(visit.who, SiteAction.NODES)
        if not everything:
            access.demand(visit.who, SiteAction.DEPLOY)
        found, fault = [], ""
        try:
            found = [
                shown
                for entry in site.catalog.newest_images(MOST)
                if (shown := _judged(console, visit, entry, everything=everything))
            ]
        except CatalogError as exc:
            fault = str(exc)
        return console.show(visit, "images.html", images=found, fault=fault)

    @routes.get("/explain")
    def explain(
        visit: visiting,
        image: Annotated[str, Query(max_length=300)] = "",
        count: Annotated[int | None, Query(ge=1, le=1000), _NONE] = None,
        cores: Annotated[int | None, Query(ge=1, le=1024), _NONE] = None,
        memory: Annotated[str, _AMOUNT] = "",
        lifetime: Annotated[str, _AMOUNT] = "",
    ) -> Response:
        access.demand(visit.who, SiteAction.DEPLOY)
        asked = {"image": image, "count": count or 1, "cores": cores, "memory": memory, "lifetime": lifetime}
        trial, fault = None, ""
        checks: tuple[EndorsementCheck, ...] = ()
        if image:
            try:
                wanted = parse_request_form(asked)
                _, judged = site.admission.examine(wanted, visit.who)
                checks = judged.checks
                trial = site.admission.try_out(wanted, visit.who)
            except PartitaError as exc:
                fault = str(exc)
        return console.show(
            visit,
            "explain.html",
            asked=asked,
            trial=trial,
            decision=parse_rules(trial.decision) if trial else (),
            checks=checks,
            fault=fault,
            nodes=console.node_names(visit),
        )

    return routes


def parse_request_form(asked: Mapping[str, Any]) -> DeploymentRequest:
    """The request in a form; Misused, DocumentError where it is malformed."""
    given = {name: value for name, value in asked.items() if value not in (None, "")}
    for name, parse in (("memory", parse_size), ("lifetime", parse_duration)):
        if name in given:
            try:
                given[name] = parse(given[name])
            except ValueError as exc:
                raise Misused(f"{name}: {exc}") from exc
    return validate(DeploymentRequest, given, "the request")


def parse_rules(decision: Mapping[str, Any]) -> tuple[RuleResult, ...]:
    """The rules of a decision that was stored as JSON."""
    return tuple(RuleResult.model_validate(rule) for rule in decision.get("rules", ()))


def _judged(console: Console, visit: PageRequest, entry: ImageEntry, *, everything: bool) -> ImageListing | None:
    """An image of the list; None where the user may not deploy it."""
    site = console.site
    try:
        request = DeploymentRequest(image=entry.title)
        manifest, judged = site.admission.examine(request, visit.who)
    except PartitaError as exc:
        return ImageListing(entry, fault=str(exc)) if everything else None
    if not everything and not _within(console, visit, manifest):
        return None
    fault = "" if manifest.image_id == entry.image_id else "the catalog lists a different image under this name"
    return ImageListing(entry.model_copy(update={"image_id": manifest.image_id}), judged.checks, judged.decision, fault)


def _within(console: Console, visit: PageRequest, manifest: Manifest) -> bool:
    """Whether any grant allows the user to deploy that image."""
    access = console.site.access
    allowed = quota_of(access.rights(), visit.who, manifest)
    return allowed.unlimited or (bool(allowed.shares) and access.allows(visit.who, SiteAction.DEPLOY))
