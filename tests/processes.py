"""Processes of the tests' own: each is forked from one that has imported the libraries once.

There is one such process for each that runs tests, so there is one list of what it imports: a second one, set by whoever
is imported later, would be the list of everybody.
"""

import multiprocessing

OURS = (
    "catalog.cli.catalog",
    "catalog.service.daemon",
    "deployer.node.daemon",
    "deployer.site.daemon",
    "partita",
    "signer.cli",
)
OF_TESTS = (
    "tests.catalog.service",
    "tests.commands",
    "tests.deployer.nodes",
    "tests.ec2.pools",
    "tests.site.victim",
    "tests.site.worlds",
    "tests.stager.test_kill_stage",
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
