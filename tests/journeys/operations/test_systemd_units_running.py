"""The systemd units, run by a real systemd: each service works within its confinement, ends in time, and comes back."""

import json
import os
import shutil
import time
from collections.abc import Iterator

import pytest

from examples.demo import PACKAGES as GUEST_PACKAGES
from examples.demo import Demo, policy
from examples.guest import write_recipe
from examples.guest_system import kernel_tree
from tests.support.systemd_container import CHECKOUT, INTERPRETER, PATIENCE, Container, installed

UNITS = {"partita-catalog": 30, "partita-site": 30, "partita-node": 60}
"""Each with the seconds that it has to end."""

READY = {
    "partita-catalog": ("http://127.0.0.1:7070/readyz",),
    "partita-site": ("--insecure", "https://127.0.0.1:7443/readyz"),
    "partita-node": ("--unix-socket", "/var/lib/partita/node/node.sock", "http://node/v2/status"),
}

SETTINGS = """
[catalog]
directory = "/var/lib/partita/catalog"

[node]
tuf_root = "/etc/partita/root.json"

[site]
policy = "/etc/partita/policy.toml"
tuf_root = "/etc/partita/root.json"

[deploy]
policy = "/etc/partita/policy.toml"
accelerator = "tcg"
"""


class Machine(Container):
    """A container with Partita and its units, an image that is endorsed, and a policy that trusts who did."""

    def partita(self, *arguments: str, user: str = "root") -> str:
        """A command that an operator types."""
        settings = ("env", "PARTITA_CONFIG=/etc/partita/partita.toml")
        whose = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
        return self.run(*whose, *settings, "/opt/partita/.venv/bin/partita", *arguments)

    def answers(self, unit: str) -> bool:
        """Whether a unit is active and its service says that it is ready."""
        active = self.run("systemctl", "is-active", unit, check=False) == "active"
        return active and bool(self.run("curl", "--silent", "--fail", *READY[unit], check=False))

    def start(self, *units: str) -> None:
        """Start, and wait until they answer."""
        self.run("systemctl", "start", *units)
        for unit in units:
            self.wait(lambda unit=unit: self.answers(unit), unit)  # type: ignore[misc]

    def said(self, unit: str) -> str:
        """What a unit has written."""
        return self.run("journalctl", "-o", "cat", "-u", unit, "--no-pager")

    def guests(self) -> list[str]:
        """Process numbers of hypervisors."""
        return self.run("pgrep", "qemu-system", check=False).split()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """It boots once; tests go on where the one before ended."""
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn (of the package systemd-container) and root are needed to boot systemd")
    if not INTERPRETER.exists():
        pytest.skip(f"services see none of this machine but /usr, and there is no {INTERPRETER}")
    root = tmp_path_factory.mktemp("u")
    kernel_tree(GUEST_PACKAGES)
    demo = Demo(root)
    recipe = write_recipe(root / "guest", packages=GUEST_PACKAGES)
    demo.shown("image", "build", str(recipe), "-o", str(root / "worker"))
    fingerprint = demo.asked("key", "new", "STAR <images@star.example>")["fingerprint"]
    demo.shown("key", "export", fingerprint, "-o", str(root / "star.asc"))
    demo.shown("endorse", str(root / "worker"), "--key", fingerprint)
    policy(root, fingerprint)
    (root / "settings").write_text(SETTINGS)
    (root / "hypervisor").write_text('u libvirt-qemu - "Libvirt QEMU" /var/lib/libvirt\n')  # as `./dev setup` makes it
    operations = CHECKOUT / "docs" / "operations"
    bound = {
        **installed(root / "opt"),
        **{f"/etc/systemd/system/{unit}.service": operations / f"{unit}.service" for unit in UNITS},
        "/etc/sysusers.d/partita.conf": operations / "partita.sysusers.conf",
        "/etc/sysusers.d/hypervisor.conf": root / "hypervisor",
        "/etc/partita/partita.toml": root / "settings",
        "/etc/partita/policy.toml": root / "policy.toml",
        "/etc/partita/star.asc": root / "star.asc",
        "/srv/worker": root / "worker",
    }
    for name in ("settings", "policy.toml", "star.asc"):
        (root / name).chmod(0o644)
    with Machine(root / "container", bound) as found:
        yield found


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(900)
def test_the_units_carry_a_machine_from_its_order_to_its_end(machine: Machine) -> None:
    """Everything that services do, they can do confined; a guest outlives the service that started it."""
    machine.start("partita-catalog")
    machine.run("install", "-m", "644", "/var/lib/partita/catalog/tuf/root.json", "/etc/partita/root.json")
    machine.start("partita-site", "partita-node")
    machine.partita("vo", "register", "star", "--key", "/etc/partita/star.asc", user="partita-catalog")
    machine.partita("publish", "/srv/worker")
    token = json.loads(machine.partita("site", "token", "--json"))["token"]
    machine.partita("node", "join", "https://localhost:7443", token, "--name", "node-1")

    def room() -> bool:
        nodes = json.loads(machine.partita("site", "nodes", "--json"))
        return bool(nodes and nodes[0]["capacity"]["cores"] and not nodes[0].get("problem"))

    machine.wait(room, "the node")
    ordered = json.loads(
        machine.partita("deployment", "create", "star/worker@1.0", "--memory", "256MiB", "--lifetime", "1h", "--json")
    )
    uuid = ordered["machines"][0]["uuid"]

    def ready() -> bool:
        here = [one for one in json.loads(machine.partita("machine", "list", "--json")) if one["uuid"] == uuid]
        assert not here or here[0]["state"] != "failed", f"{here[0]['reason']}: {machine.said('partita-node')}"
        return bool(
            here
            and here[0]["state"] == "running"
            and "partita-guest: ready" in machine.partita("machine", "console", uuid)
        )

    machine.wait(ready, "the guest")
    guests = machine.guests()
    assert len(guests) == 1
    machine.run("systemctl", "restart", "partita-node")
    machine.wait(lambda: machine.answers("partita-node"), "the node")
    assert machine.guests() == guests
    machine.partita("deployment", "destroy", ordered["deployment"]["uuid"])
    machine.wait(lambda: machine.guests() == [], "the guest's end")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_services_that_are_killed_come_back(machine: Machine) -> None:
    """With what they knew: kill -9 of all of them at once."""
    machine.start(*UNITS)
    before = {unit: machine.shown(unit, "MainPID") for unit in UNITS}
    for unit in UNITS:
        machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", unit)
    for unit in UNITS:
        machine.wait(lambda unit=unit: machine.answers(unit) and machine.shown(unit, "NRestarts") == "1", unit)  # type: ignore[misc]
        assert machine.shown(unit, "MainPID") != before[unit]
    assert "node-1" in machine.partita("site", "nodes")
    assert "star/worker" in machine.partita("image", "list")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("unit", UNITS)
def test_services_end_in_time_when_told_to(machine: Machine, unit: str) -> None:
    """By themselves and well, whether they serve or have only begun; none has to be killed."""
    machine.start(unit)
    for starting in (False, True):
        if starting:
            machine.run("systemctl", "start", unit)
        began = time.monotonic()
        machine.run("systemctl", "stop", unit)
        assert time.monotonic() - began < min(UNITS[unit], PATIENCE)
        assert (machine.shown(unit, "Result"), machine.shown(unit, "ActiveState")) == ("success", "inactive"), (
            unit, starting, machine.said(unit),
        )  # fmt: skip
    said = machine.said(unit)
    assert "ready at" in said
    for wrong in ("Traceback", "Permission denied", "Operation not permitted", "code=dumped"):
        assert wrong not in said, said
