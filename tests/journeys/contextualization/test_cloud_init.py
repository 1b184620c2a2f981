"""A real Debian with cloud-init contextualizes itself with nothing but what its seed carries: the agent as vendor-data."""

import subprocess
import time
from pathlib import Path

import pytest
import yaml

from deployer.guest.context_agent import seed_extras
from deployer.guest.nocloud_seed import build_seed, instance_id
from deployer.site.db.machines import get_machine
from examples.debian.build import build
from tests.support.site.context_broker import site

SCRIPT = """\
#!/bin/sh
echo "partita-guest: $PARTITA_HOSTNAME has nobody but itself: $(wc -l < "$PARTITA_PEERS") peers" > /dev/ttyS0
"""

USER_DATA = {
    "write_files": [{"path": "/etc/partita/context.d/20-data", "permissions": "0755", "content": SCRIPT}],
    "runcmd": ["echo partita-guest: after $(ls /var/lib/partita/identity) > /dev/ttyS0"],
    "ssh_deletekeys": True,
}
"""Lists that would replace those of a vendor's cloud-config."""


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("own", [None, b"#cloud-config\nlocale_configfile: /etc/site-was-here\nlocale: C.UTF-8\n"])
def test_a_debian_says_that_it_is_ready(debian: Path, tmp_path: Path, own: bytes | None) -> None:
    with site(tmp_path) as (world, _):
        (machine,) = world.machines(hostname="deb")
        context = world.context(machine)
        port = context.url.rpartition(":")[2]
        seen = context.model_copy(update={"url": f"http://10.0.2.2:{port}"})
        extras, vendor_data = seed_extras(seen, machine.uuid, own)
        user_data = b"#cloud-config\n" + yaml.safe_dump(USER_DATA).encode()
        seed = tmp_path / "seed.iso"
        seed.write_bytes(
            build_seed(instance_id(machine.uuid), machine.hostname, user_data, vendor_data=vendor_data, extras=extras)
        )
        log, errors = tmp_path / "console.log", tmp_path / "errors"
        with errors.open("wb") as err:
            guest = subprocess.Popen(
                [
                    *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "512", "-nodefaults", "-nographic"),
                    *("-no-reboot", "-snapshot", "-serial", f"file:{log}"),
                    *("-drive", f"file={debian},format=raw,if=virtio"),
                    *("-drive", f"file={seed},format=raw,if=virtio,readonly=on"),
                    *("-netdev", "user,id=out", "-device", "virtio-net-pci,netdev=out"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        try:
            until = time.monotonic() + 700
            while world.store.read(
                get_machine, machine.uuid
            ).ready is None or "partita-guest: after" not in log.read_text(errors="replace"):
                assert guest.poll() is None, errors.read_text()
                assert time.monotonic() < until, log.read_text(errors="replace")[-6000:]
                time.sleep(0.5)
        finally:
            guest.kill()
            guest.wait()
        said = log.read_text(errors="replace")
        assert world.store.read(get_machine, machine.uuid).ready == "ready", said[-4000:]
        assert "partita-guest: deb-1 has nobody but itself: 0 peers" in said
        assert "partita-guest: after /var/lib/partita/identity" in said  # vendor-data ran before runcmd
        assert context.secret not in said


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian 12 with cloud-init, its disk as it is built."""
    disk = tmp_path_factory.mktemp("debian") / "disk.raw"
    build(disk)
    return disk
