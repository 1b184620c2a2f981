"""Processes of the tests' own: each is forked from one that has imported the libraries once.

There is one such process for each that runs tests, so there is one list of what it imports: a second one, set by whoever
is imported later, would be the list of everybody.
"""

import multiprocessing

OURS = (
    "catalog.cli.catalog",
    "catalog.cli.publish",
    "catalog.service.daemon",
    "deployer.node.daemon",
    "deployer.site.daemon",
    "partita",
    "signer.cli",
)
OF_TESTS = (
    "tests.support.catalog.service_process",
    "tests.support.commands",
    "tests.support.node.service_process",
    "tests.support.aws.site_with_pool",
    "tests.support.site.store_worker",
    "tests.support.site.service_process",
    "tests.support.stager.swarm_node",
    "tests.support.stager.swarm_origin",
    "tests.journeys.images.test_staging_kills",
)
LATE = (
    "alembic.command",
    "alembic.ddl",
    "boto3",
    "httpcore",
    "mako.ext.pygmentplugin",
    "mako.template",
    "pydantic.v1",
    "pytest",
    "sqlalchemy.dialects.postgresql",
    "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.h11_impl",
)
"""What services would import when they start, each anew: half a second of computing."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([*LATE, *OURS, *OF_TESTS])
