"""The route by which a machine is saved as a new version of its image, which its VO may then endorse."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from catalog.errors import Conflict, Malformed, TooLarge
from catalog.web.problems import problem_responses
from deployer.errors import Forbidden, MachineConflict, MachineNotFound
from deployer.site.api.deployments import AUTH_ERRORS, redact_machine
from deployer.site.api.machines import permitted_machine
from deployer.site.api.parameters import IdempotencyKey, MachineParameter, answer, openapi_extra, read_document
from deployer.site.auth.grants import SiteAction
from deployer.site.db.nodes import get_node
from deployer.site.model.principal import Principal
from deployer.site.model.records import SiteMachine
from deployer.site.scheduling.placement import EC2
from deployer.site.schema.messages import SaveRequest
from deployer.site.service.site import Site


def save_routes(site: Site) -> APIRouter:
    """Under /v1/machines/{machine}/save; before the verbs, which have the same form."""
    routes = APIRouter(prefix="/machines", tags=["machines"])

    @routes.post(
        "/{machine}/save",
        response_model=SiteMachine,
        responses=problem_responses(
            Malformed, TooLarge, MachineNotFound, Forbidden, MachineConflict, Conflict, *AUTH_ERRORS
        ),
        openapi_extra=openapi_extra(SiteAction.SAVE, SaveRequest),
        summary="Save a machine that rests as a new, unendorsed version of its image",
    )
    async def save(
        request: Request,
        who: Annotated[Principal, Depends(site.access.who)],
        machine: MachineParameter,
        key: IdempotencyKey = "",
    ) -> Response:
        """The machine's `saves` show the progress and, at the end, the image ID; events report it, too.

        Its node reads the disks and uploads what has changed to the catalog, as a candidate for its VO to endorse.
        """

        def work() -> SiteMachine:
            found = permitted_machine(site, who, machine, SiteAction.SAVE)
            if found.node is not None and site.store.read(get_node, found.node, contents=False).kind == EC2:
                raise MachineConflict(f"machine {found.hostname} runs at EC2, and its disks are not read from there")
            return site.changing.save(found.uuid, wanted, key, who)

        wanted = await read_document(request, SaveRequest, "request to save")
        return answer(request, redact_machine(await run_in_threadpool(work)))

    return routes
