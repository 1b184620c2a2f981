"""The routes of the TUF repository, as stock TUF clients use them: consistent snapshots and hashed target names."""

import re
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from catalog.errors import Malformed, NotFound, Unavailable
from catalog.publication.images import PublicationService
from catalog.web.parameters import described, example_response
from catalog.web.responses import CACHE_FOREVER, document_response

FILE = Annotated[
    str, Path(max_length=80, description="VERSION.ROLE.json, or timestamp.json.", examples=["1.root.json"])
]
TARGET = Annotated[
    str,
    Path(
        max_length=500,
        description="A target's path, with its SHA-256 and a dot before the last component.",
        examples=["names/star/8c32db3c6ecc40b7c0cdcd8c3e2a1e6fe5ab8e9f2c36c4a5a0fb2ee4bf4ed8ae.worker.json"],
    ),
]
METADATA_RESPONSE = example_response("application/json", {"signed": {"_type": "root"}, "signatures": []})
TARGET_RESPONSE = example_response("application/json", {"image_id": "sha256:..."})
_FILE = re.compile(r"(?:([1-9][0-9]{0,8})\.)?([a-z0-9-]+)\.json")
_TARGET = re.compile(r"((?:.+/)?)([0-9a-f]{64})\.([^/]+)")


def tuf_routes(publishing: PublicationService) -> APIRouter:
    """GET below /tuf/metadata and /tuf/targets."""
    routes = APIRouter(prefix="/tuf", tags=["freshness"])

    @routes.get(
        "/metadata/{file}",
        **described("Get signed metadata", None, NotFound, Malformed, Unavailable, responses=METADATA_RESPONSE),
    )
    @routes.head("/metadata/{file}", include_in_schema=False)
    def metadata(request: Request, file: FILE) -> Response:
        """TUF metadata. A version never changes; only the timestamp is served without a version."""
        match = _FILE.fullmatch(file)
        if match is None:
            raise NotFound(f"no metadata file {file!r}; ask for VERSION.ROLE.json or timestamp.json")
        version = None if match[1] is None else int(match[1])
        with publishing.database.reading() as connection:
            data = publishing.repository.metadata(connection, match[2], version)
        tag = None if version is None else file
        return document_response(request, data, tag=tag, cache="no-cache" if version is None else CACHE_FOREVER)

    @routes.get(
        "/targets/{path:path}",
        **described("Get a target", None, NotFound, Malformed, Unavailable, responses=TARGET_RESPONSE),
    )
    @routes.head("/targets/{path:path}", include_in_schema=False)
    def target(request: Request, path: TARGET) -> Response:
        """A target that signed metadata lists, by its SHA-256."""
        match = _TARGET.fullmatch(path)
        if match is None:
            raise NotFound(f"no target {path[:200]!r}; ask for DIRECTORY/SHA256.NAME")
        with publishing.database.reading() as connection:
            data = publishing.repository.target(connection, match[1] + match[3], match[2])
        return document_response(request, data, tag=match[2], cache=CACHE_FOREVER)

    return routes
