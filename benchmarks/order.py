"""An order at a site, everything cached, until the site says that the machine runs, against a bare virDomainCreateXML.

Ours goes over HTTPS to the site, which looks the image up, verifies, decides, places and writes it down; the node's agent
hears of it, does all of that again for itself, assembles, boots and reports. The peer starts the same domain on disks
that lie there already.
"""

import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.deploy import again
from catalog.client import transfer
from catalog.image.bundle import Bundle
from deployer.hypervisor.libvirt import Hypervisor
from deployer.machine.spec import MachineSpec
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.records.machine_store import MachineRecord
from deployer.site.client.client import SiteClient
from signer.openpgp.keyring import Keyring
from tests.support.catalog.service_process import Service, Vo
from tests.support.node.boot_sector_guest import boot_sector_image
from tests.support.node.service_process import NodeProcess, policy
from tests.support.site.service_process import SiteProcess, populace

ROUNDS = 12
PATIENCE = 120.0
LOOK_EVERY = 0.005

ORDER = DeploymentRequest(image="star/hello@1.0", lifetime=3600)


def run(workdir: Path, rounds: int = ROUNDS) -> dict[str, list[dict[str, Any]]]:
    """Measure; see benchmarks.__main__ for the form of a row."""
    keyring = Keyring(workdir / "keys")
    star = Vo(keyring, "star", keyring.generate("Star <star@example.org>"))
    image = star.endorse(boot_sector_image(workdir / "image"))
    bare = Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
    text = policy(star.anchor())
    try:
        with Service(workdir) as catalog, populace(workdir) as people:
            catalog.register(star.anchor())
            with catalog.client() as client:
                transfer.publish_image(client, image)
            node = NodeProcess(catalog.url, text)
            # What is measured is one order, not how many somebody may make in a row.
            settings = people.settings() | {"person_rate": 1e4, "address_rate": 1e4}
            with SiteProcess(catalog.url, text, **settings) as site:
                site.join(node.directory / "n" / "site", "one")
                with node, site.reach(token=people.star("ann")) as asked:
                    site.wait(lambda operator: operator.nodes()[0].reported is not None)
                    ours, peer = _measure(asked, node, image, bare, rounds)
    finally:
        shutil.rmtree(bare)
    ratio = ours / peer
    row = {
        "name": "an order at a site until its machine runs, everything cached, against a bare virDomainCreateXML",
        "ours": ours * 1000,
        "peer": peer * 1000,
        "unit": "ms",
        "ratio": ratio,
        "target": "<= 3x",
        "bound": 3.0,
        "met": ratio <= 3,
    }
    return {"rows": [row]}


def _measure(site: SiteClient, node: NodeProcess, image: Bundle, bare: Path, rounds: int) -> tuple[float, float]:
    """Medians of both, in seconds; the runs alternate, and a first of each is not counted."""
    backend = Hypervisor.embedded(bare / "l", "bare", lambda *_: None)
    ours, peers = [], []
    for number in range(rounds + 1):
        began = time.perf_counter()
        machine = site.create(ORDER, str(uuid.uuid4())).machines[0].uuid
        _until(lambda machine=machine: site.machine(machine).state.value, "running")  # type: ignore[misc]
        took = time.perf_counter() - began
        spec = _record(node, machine).spec
        site.do(machine, "destroy")
        _until(lambda machine=machine: site.machine(machine).state.value, "ended")  # type: ignore[misc]
        assert spec is not None
        bare_took = _start(backend, again(spec, image, bare))
        if number:
            ours.append(took)
            peers.append(bare_took)
    backend.close()
    return statistics.median(ours), statistics.median(peers)


def _record(node: NodeProcess, machine: str) -> MachineRecord:
    with node.client() as client:
        return client.machine(machine)


def _start(backend: Hypervisor, spec: MachineSpec) -> float:
    began = time.perf_counter()
    backend.start(spec)
    took = time.perf_counter() - began
    backend.destroy(spec.uuid)
    return took


def _until(look: Callable[[], str], wanted: str) -> None:
    ends = time.monotonic() + PATIENCE
    while (found := look()) != wanted:
        assert found != "failed", "the machine failed"
        assert time.monotonic() < ends, f"it is {found}, and not {wanted}"
        time.sleep(LOOK_EVERY)
