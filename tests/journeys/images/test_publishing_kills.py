"""Service and client are killed at random instants while images are published: nothing is corrupt, lost or left over."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from catalog.client import transfer as sending
from catalog.client.client import CatalogClient
from catalog.errors import NotFound, Unavailable
from catalog.image.bundle import Bundle
from catalog.publication.state_directory import check_contents
from tests.support.catalog.service_process import PROCESSES, Service, Vo, files
from tests.support.factories import MIB, bundle

PART = 64 << 10
"""Bytes per request: small, so that a kill falls between many acknowledgements."""


KILLS = 8
"""Per image: more images see every stage of a publication killed, also on a machine that is slow."""


class Journalled(httpx2.HTTPTransport):
    """The network, with a journal of every range that the catalog acknowledged."""

    def __init__(self, journal: Path) -> None:
        super().__init__()
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Pass it on; note what was acknowledged."""
        answer = super().handle_request(request)
        if request.method == "PUT" and answer.status_code == 200:
            address = request.url.path.rsplit("/", 1)[1]
            bounds = request.headers["content-range"].removeprefix("bytes ").split("/")[0]
            os.write(self._journal, f"{address} {bounds}\n".encode())
        return answer


def run_client(url: str, directory: Path, journal: Path) -> None:
    """The publishing process, ending as the command line does."""
    try:
        with CatalogClient(url, Journalled(journal)) as client:
            sending.publish_image(client, Bundle.open(directory), part=PART)
    except Unavailable as exc:
        sys.exit(exc.exit_code)


def acknowledged(journal: Path) -> list[tuple[str, int, int]]:
    """(address, start, end) of each range in the journal."""
    found = []
    for line in journal.read_text().splitlines() if journal.exists() else ():
        address, bounds = line.split(" ")
        first, last = bounds.split("-")
        found.append((address, int(first), int(last) + 1))
    return found


def lost(client: CatalogClient, made: Bundle, journal: Path) -> list[tuple[str, int, int]]:
    """The acknowledged ranges that the catalog does not have any more."""
    missing = []
    addresses = {str(address): address for address in made.manifest.contents()}
    for text, start, end in acknowledged(journal):
        try:
            status = client.upload_status(made.manifest.image_id, addresses[text])
        except NotFound:  # the publication is over: then the image is there
            client.manifest(made.manifest.image_id)
            continue
        if not any(low <= start and end <= high for low, high in status.received):
            missing.append((text, start, end))
    return missing


def kill(process: Any) -> None:
    """SIGKILL, and wait for the end."""
    process.kill()
    process.join()


def publish_under_fire(service: Service, made: Bundle, journal: Path, dice: random.Random) -> int:
    """Publish one image while processes die, then let it be; returns how many kills it took."""
    kills = 0
    client = None
    while True:
        if client is None:
            client = PROCESSES.Process(target=run_client, args=(service.url, made.root, journal), daemon=True)
            client.start()
            excused = False
        client.join(dice.uniform(0.03, 0.4) if kills < KILLS else None)
        if not client.is_alive():
            if client.exitcode == 0:
                return kills
            # A client that finds nobody at its first request gives up: that is no fault if the service was just killed.
            assert (client.exitcode, excused) == (Unavailable.exit_code, True), "the client gave up"
            client = None
            continue
        victims = dice.choice([("service",), ("client",), ("client", "service")])
        if "client" in victims:
            kill(client)
            client = None
            kills += 1
        if "service" in victims:
            service.kill()
            excused = True
            kills += 1
            if dice.random() < 0.25:  # also while it recovers
                service.launch()
                dice_wait(service, dice)
                kills += 1
            service.start()
        with service.client() as watching:
            assert lost(watching, made, journal) == []


def dice_wait(service: Service, dice: random.Random) -> None:
    """Let it come up for a moment, then kill it."""
    service._process.join(dice.uniform(0.0, 0.3))
    service.kill()


@pytest.mark.parametrize("wanted", [20, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_killing_service_and_client_loses_nothing(
    service: Service, star: Vo, tmp_path: Path, wanted: int, record_property: Any
) -> None:
    """At the end every image is visible once, every acknowledged range was kept, and nothing lies around."""
    dice = random.Random(20261122)
    kills = version = 0
    ids = []
    while kills < wanted:
        version += 1
        made = star.endorse(
            bundle(tmp_path / f"image{version}", partitions=2, size=2 * MIB, seed=version, version=f"1.{version}")
        )
        kills += publish_under_fire(service, made, tmp_path / f"journal{version}", dice)
        ids.append(made.manifest.image_id)
    record_property("kills", kills)
    record_property("images", version)
    with service.client() as client:
        assert [one.image_id for one in client.images()] == ids[::-1]
    service.kill()
    service.start()
    report = check_contents(service.directory)
    assert (report.lost, report.quarantined, len(report.checked)) == ([], [], 3 * version)
    left = [name for name in files(service.directory) if not name.startswith("blobs/")]
    assert left == []
    assert len(files(service.directory)) == 4 * 3 * version
    assert "Traceback" not in service.log.read_text()
