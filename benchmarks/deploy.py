"""A warm deployment, from the order over HTTP to the running domain, against a bare virDomainCreateXML of its machine.

Ours looks the image up in a catalog, verifies signatures, decides, leases, compares the cache with what was verified,
assembles disks and seed, and starts the domain. The peer starts the same domain on disks that lie there already.
"""

import shutil
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from catalog.client import transfer
from catalog.image.bundle import Bundle
from deployer.guest.nocloud_seed import build_seed, write_seed
from deployer.hypervisor.disks import assemble_disks
from deployer.hypervisor.libvirt import Hypervisor
from deployer.machine.spec import MachineSpec
from signer.openpgp.keyring import Keyring
from tests.support.catalog.service_process import Service, Vo
from tests.support.node.boot_sector_guest import boot_sector_image
from tests.support.node.bundle_contents import BundleContents
from tests.support.node.service_process import NodeProcess, policy

ROUNDS = 15


def run(workdir: Path, rounds: int = ROUNDS) -> dict[str, list[dict[str, Any]]]:
    """Measure; see benchmarks.__main__ for the form of a row."""
    keyring = Keyring(workdir / "keys")
    star = Vo(keyring, "star", keyring.generate("Star <star@example.org>"))
    image = star.endorse(boot_sector_image(workdir / "image"))
    bare = Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
    try:
        with Service(workdir) as catalog:
            catalog.register(star.anchor())
            with catalog.client() as client:
                transfer.publish_image(client, image)
            with NodeProcess(catalog.url, policy(star.anchor())) as node:
                ours, peer = _measure(node, image, bare, rounds)
    finally:
        shutil.rmtree(bare)
    ratio = ours / peer
    row = {
        "name": "warm deployment, order to running domain, against a bare virDomainCreateXML",
        "ours": ours * 1000,
        "peer": peer * 1000,
        "unit": "ms",
        "ratio": ratio,
        "target": "<= 2x",
        "bound": 2.0,
        "met": ratio <= 2,
    }
    return {"rows": [row]}


def _measure(node: NodeProcess, image: Bundle, bare: Path, rounds: int) -> tuple[float, float]:
    """Medians of both, in seconds; the runs alternate, and a first of each is not counted."""
    backend = Hypervisor.embedded(bare / "l", "bare", lambda *_: None)
    ours, peers = [], []
    with node.client() as client:
        for number in range(rounds + 1):
            began = time.perf_counter()
            machine = node.deploy().machines[0]
            took = time.perf_counter() - began
            spec = machine.spec
            client.destroy(machine.uuid)
            assert spec is not None
            other = again(spec, image, bare)
            began = time.perf_counter()
            backend.start(other)
            bare_took = time.perf_counter() - began
            backend.destroy(other.uuid)
            if number:
                ours.append(took)
                peers.append(bare_took)
    backend.close()
    return statistics.median(ours), statistics.median(peers)


def again(spec: MachineSpec, image: Bundle, bare: Path) -> MachineSpec:
    """The same machine with another identity, on disks of its own that are ready."""
    identity = str(uuid.uuid4())
    directory = bare / identity
    directory.mkdir()
    made = assemble_disks(image.manifest, BundleContents(image, bare / "blanks"), directory)
    write_seed(directory / "seed.iso", build_seed(f"iid-{identity}", "bare"))
    changes = {
        "uuid": identity,
        "name": f"bare-{identity[:8]}",
        "disks": made.disks,
        "boot": made.boot,
        "seed": directory / "seed.iso",
        "console": directory / "console.log",
        "tag": spec.tag.model_copy(update={"owner": "bare"}),
    }
    return spec.model_copy(update=changes)
