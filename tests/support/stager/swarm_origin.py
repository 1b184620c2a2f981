"""A catalog as small as a swarm needs it, as a process: the real tracker routes, and contents over HTTP ranges.

    python -m tests.support.stager.swarm_origin LISTEN READY FILE...

READY receives a JSON list of the contents' addresses when it listens. Anybody may read everything, but for contents whose
file's name begins with `restricted`: these only the node "entitled" may read.
"""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from catalog.api.tracker import AnnounceAuthorizer, tracker_routes
from catalog.content.indexing import index_file
from catalog.errors import CatalogError
from catalog.image.address import Address
from catalog.swarm.announce_keys import AnnounceKeys, KeyHolder
from catalog.swarm.torrent import short_hash
from catalog.swarm.tracker import Tracker

SECRET = b"a secret of tests, not of anybody else"


def main(listen: str, ready: str, *files: str) -> None:
    """Serve until told to end."""
    paths = {measured.address: (Path(file), measured) for file in files for measured in [index_file(Path(file))]}
    by_hash = {short_hash(address): address for address in paths}

    def may_read(holder: KeyHolder, address: Address) -> bool:
        return holder.node == "entitled" or not paths[address][0].name.startswith("restricted")

    app = FastAPI()
    gate = AnnounceAuthorizer(AnnounceKeys(SECRET), by_hash.get, may_read, lambda: datetime.now(UTC))
    app.include_router(tracker_routes(Tracker(), gate, time.monotonic), prefix="/v1")

    @app.exception_handler(CatalogError)
    async def refused(_: Request, exc: CatalogError) -> Response:
        return JSONResponse({"detail": str(exc)}, exc.status)

    @app.get("/v1/contents/{address}/layer")
    def layer(address: str) -> Response:
        return Response(paths[Address.parse(address)][1].layer)

    @app.get("/v1/contents/{address}")
    def blob(address: str, request: Request) -> Response:
        path, _ = paths[Address.parse(address)]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["range"])
        assert wanted
        start, end = int(wanted[1]), int(wanted[2]) + 1

        def chunks() -> Iterator[bytes]:
            with path.open("rb", buffering=0) as file:
                for at in range(start, end, 1 << 18):
                    yield os.pread(file.fileno(), min(1 << 18, end - at), at)

        headers = {
            "content-range": f"bytes {start}-{end - 1}/{path.stat().st_size}",
            "content-length": str(end - start),
        }
        return StreamingResponse(chunks(), 206, headers)

    host, _, port = listen.rpartition(":")
    server = socket.create_server((host, int(port)))
    new = Path(ready + ".new")
    new.write_text(json.dumps([server.getsockname()[1], *map(str, paths)]))
    new.rename(ready)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([server])


if __name__ == "__main__":
    main(*sys.argv[1:])
