"""A running catalog with images, for questions over HTTP that change nothing, and how its problems are read."""

from collections.abc import Iterator

import httpx2
import pytest

from catalog.client import transfer
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import Manifest
from catalog.schema.problems import PROBLEM_PREFIX
from tests.support.catalog.service_process import Service, Vo
from tests.support.factories import MIB, bundle

NO_IMAGE = "sha256:" + "0" * 64
NO_ADDRESS = "0" * 64 + "-1048576"


class Published:
    """A running catalog with five images: star/worker 1.0 to 1.3 and atlas/node 1.0."""

    def __init__(self, service: Service, http: httpx2.Client, images: list[Bundle], pending: Bundle) -> None:
        self.service, self.http, self.images, self.pending = service, http, images, pending

    @property
    def manifest(self) -> Manifest:
        """The first image's."""
        return self.images[0].manifest

    @property
    def content(self) -> tuple[Address, bytes]:
        """A content of it."""
        address = self.manifest.contents()[0]
        return address, self.images[0].content(address).read_bytes()


@pytest.fixture(scope="package")
def published(tmp_path_factory: pytest.TempPathFactory, vos: dict[str, Vo]) -> Iterator[Published]:
    """One service for all questions that change nothing."""
    root = tmp_path_factory.mktemp("api")
    with Service(root) as service:
        service.register(vos["star"].anchor(), vos["atlas"].anchor())
        images = []
        with service.client() as client:
            for minor in range(4):
                directory = root / f"image{minor}"
                images.append(vos["star"].endorse(bundle(directory, partitions=1, size=MIB, version=f"1.{minor}")))
                transfer.publish_image(client, images[-1])
            other = bundle(root / "atlas", partitions=1, size=MIB, vo="atlas", name="node")
            transfer.publish_image(client, vos["atlas"].endorse(other))
            pending = vos["star"].endorse(bundle(root / "pending", partitions=1, size=MIB, seed=9, version="2.0"))
            client.begin(pending.manifest.canonical(), pending.endorsements())
        with httpx2.Client(base_url=service.url, trust_env=False, timeout=60) as http:
            yield Published(service, http, images, pending)


def problem(answer: httpx2.Response) -> tuple[int, str, str]:
    """(status, code, detail) of a problem, whose form is checked."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found = answer.json()
    assert found["status"] == answer.status_code
    assert found["title"]
    assert found["type"].startswith(PROBLEM_PREFIX)
    return answer.status_code, found["type"].removeprefix(PROBLEM_PREFIX), found["detail"]
