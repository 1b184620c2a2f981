"""A node as small as a swarm needs it, as a process: fetches one content through the swarm, then shares it until its end.

    python -m tests.support.stager.swarm_node JSON

JSON: url (of the origin), address, path, listen; and optionally grant, journal, seed (the file is there: share it), start
(wall-clock second at which to begin), tickets (false: ask for no first copies), source (false: the origin has no content).
It prints one JSON line when it is ready (a seed: when the tracker knows it), one when it is done or failed, one with its counts when its input ends.
"""

import json
import logging
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from catalog.client.client import CatalogClient
from catalog.image.address import Address
from catalog.image.ranges import ByteRange
from signer.documents import Document
from stager.content.piece_map import PieceMap
from stager.errors import SourceUnavailable, StagerError
from stager.fetch.resume import find_leaves, read_boot_id
from stager.fetch.sources import ContentSource, HttpSource
from stager.swarm.fetch import SwarmFetch, SwarmFile
from stager.swarm.grants import SwarmCredentials
from stager.swarm.swarm import Swarm, SwarmOptions
from stager.swarm.tracker_client import TrackerClient


class _Nothing(ContentSource):
    """An origin that has lost its content."""

    def read(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        raise SourceUnavailable(f"the origin has lost the bytes {ranges} of {address}")
        yield b""


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what, default=Document.model_dump) + "\n")
    sys.stdout.flush()


def main(text: str) -> None:
    """Fetch, share, end."""
    job = json.loads(text)
    logging.basicConfig(
        format="%(relativeCreated)d %(name)s %(message)s", level=logging.INFO if job.get("verbose") else logging.WARNING
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    address, path = Address.parse(job["address"]), Path(job["path"])
    rng = random.Random(job["listen"])
    tracker = TrackerClient(
        job["url"] + "/v1",
        peer_id=rng.randbytes(20),
        site=job.get("site", ""),
        credentials=lambda _: SwarmCredentials(job.get("grant", "")),
    )
    client = CatalogClient(job["url"])
    layer = Path(job["layer"]).read_bytes() if "layer" in job else client.accelerator(address, "layer")
    guide = PieceMap.of(address, layer)
    boot = read_boot_id()
    with tracker, Swarm(tracker, SwarmOptions(listen=job["listen"]), boot=boot) as swarm:
        if not job.get("seed"):
            say(ready=swarm.port, peer=swarm.peer_pid)
        time.sleep(max(0.0, job.get("start", 0) - time.time()))
        if job.get("seed"):
            member = swarm.join(guide, path)
            while member.announced is not None:
                time.sleep(0.01)
            say(ready=swarm.port, peer=swarm.peer_pid)
        else:
            journal = Path(job["journal"]) if "journal" in job else None
            fetching = SwarmFetch(
                swarm,
                tracker if job.get("tickets", True) else None,
                HttpSource(client) if job.get("source", True) else _Nothing(),
                SwarmFile(guide, path, find_leaves(guide, path, journal, boot), journal),
                rng=rng,
                patience=job.get("patience", 60.0),
            )
            try:
                brought = fetching.run()
            except (StagerError, OSError) as exc:
                say(failed=type(exc).__name__, reason=str(exc), brought=fetching.result.__dict__)
            else:
                say(done=brought.seconds, brought=brought.__dict__, restarts=swarm.restarts)
            member = next(iter(swarm.torrents), None)
        sys.stdin.read()
        times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF,)]
        cpu = sum(each.ru_utime + each.ru_stime for each in times)
        try:
            fields = Path(f"/proc/{swarm.peer_pid}/stat").read_text().rpartition(")")[2].split()
            peer_cpu = (int(fields[11]) + int(fields[12])) / 100
            peer_rss = swarm._process.resident if swarm._process else 0
        except OSError:
            peer_cpu, peer_rss = 0.0, 0
        say(
            sent=member.sent if member else 0,
            cpu=cpu,
            peer_cpu=peer_cpu,
            rss=times[0].ru_maxrss * 1024,
            peer_rss=peer_rss,
            restarts=swarm.restarts,
        )


if __name__ == "__main__":
    main(sys.argv[1])
