"""The guest's agent: the very script, run in small roots by the shells and tools that guests have, against a real broker."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from catalog.errors import Misused
from deployer.errors import UserDataRefused
from deployer.guest.context_agent import AGENT, PARAMETERS, seed_extras
from deployer.protocol.desired_state import BrokerAccess
from deployer.site.broker.rules import SESSION_LIFE
from deployer.site.db.machines import get_deployment, get_machine
from deployer.site.lifecycle.verb_rules import Verb, apply_verb
from deployer.site.model.records import SiteMachine
from deployer.site.store.changes import change_machine
from tests.support.guest_root import KEY, WATCHING, Root, ended, watcher
from tests.support.node.service_process import wait_for
from tests.support.site.context_broker import Guest, World, site

BLOB = " ".join(KEY.split(" ")[:2])

KINDS = ["busybox", "dash and curl", "bash and curl, TLS", "python, TLS"]
"""busybox alone, its ash and wget; a Debian guest; one that has been told to use TLS; one that has nothing but Python."""

Make = Callable[[SiteMachine], Guest]


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with nothing in it but busybox under all its names."""
    place = tmp_path_factory.mktemp("busybox")
    shutil.copy("/bin/busybox", place / "busybox")
    subprocess.run([place / "busybox", "--install", "-s", place], check=True)
    return place


@pytest.fixture(scope="module")
def python(busybox: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with Python instead of wget: a Debian with cloud-init and little else."""
    place = tmp_path_factory.mktemp("python")
    shutil.copytree(busybox, place, symlinks=True, dirs_exist_ok=True)
    (place / "wget").unlink()
    (place / "python3").symlink_to("/usr/bin/python3")
    return place


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Make]]:
    with site(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Make]]:
    with site(tmp_path_factory.mktemp("site"), tls=True) as found:
        yield found


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of guest: the smallest, unless a test asks for all."""
    return str(getattr(request, "param", KINDS[0]))


every_kind = pytest.mark.parametrize("kind", KINDS, indirect=True)


@pytest.fixture
def world(kind: str, request: pytest.FixtureRequest) -> World:
    """The site that a kind of guest speaks with."""
    return request.getfixturevalue("secure" if "TLS" in kind else "plain")[0]  # type: ignore[no-any-return]


@pytest.fixture
def make(kind: str, world: World, busybox: Path, python: Path, tmp_path: Path) -> Callable[[SiteMachine], Root]:
    """Makes the root of a machine of this kind."""

    def make(machine: SiteMachine) -> Root:
        small = {"busybox": busybox, "python, TLS": python}.get(kind)
        shell = "bash" if "bash" in kind else "dash"
        return Root(tmp_path / machine.hostname, world.context(machine), machine.uuid, small, shell)

    return make


@every_kind
def test_a_head_and_its_workers_find_each_other(kind: str, world: World, make: Callable[[SiteMachine], Root]) -> None:
    machines = world.star()
    for machine, address in zip(machines, ("10.0.0.1", "10.0.0.2", "10.0.0.3"), strict=True):
        world.observed(machine, address)
    head, one, two = (make(machine) for machine in machines)
    head.script("20-data", 'echo "key of $PARTITA_CLUSTER" | "$PARTITA_CONTEXT" put munge.key')
    for worker in (one, two):
        worker.script(
            "10-address", 'echo "$PARTITA_HOSTNAME is $PARTITA_ROLE at $PARTITA_ADDRESS" > "$PARTITA_ROOT/first"'
        )
        worker.script("20-data", 'cat "$PARTITA_DATA/star-head-1/munge.key" > "$PARTITA_ROOT/munge.key"')
        worker.script("30-restart", '"$PARTITA_CONTEXT" peers head > "$PARTITA_ROOT/peers"')
        worker.script("40-finalize", '"$PARTITA_CONTEXT" get star-head-1 munge.key > "$PARTITA_ROOT/again"')
    processes = [root.start() for root in (one, two, head)]
    for process in processes:
        code, said = ended(process)
        assert code == 0, said
    cluster = world.store.read(get_deployment, machines[0].deployment).cluster
    for number, worker in ((1, one), (2, two)):
        assert worker.text("etc/hosts") == (
            "127.0.0.1 localhost\n# partita begin\n"
            f"10.0.0.{number + 1} star-worker-{number}\n10.0.0.1 star-head-1\n# partita end\n"
        )
        assert worker.text("etc/ssh/ssh_known_hosts") == (
            f"# partita begin\nstar-head-1,10.0.0.1 {BLOB}\n# partita end\n"
        )
        assert worker.text("first") == f"star-worker-{number} is worker at 10.0.0.{number + 1}\n"
        assert worker.text("munge.key") == worker.text("again") == f"key of {cluster}\n"
        assert worker.text("peers") == "star-head-1 head ready 10.0.0.1\n"
        assert (worker.place / "var/lib/partita").stat().st_mode & 0o777 == 0o700
        assert (worker.place / "etc/hosts").stat().st_mode & 0o777 == 0o644
    for machine in machines:
        kept = world.store.read(get_machine, machine.uuid)
        assert (kept.ready, kept.host_keys) == ("ready", (BLOB,))
    certificate = head.place / "var/lib/partita/host.crt"
    assert certificate.exists() == ("curl" in kind)
    if certificate.exists():
        leaf = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["star-head-1"]


def test_a_script_that_fails_is_named_with_its_last_line(world: World, make: Callable[[SiteMachine], Root]) -> None:
    (machine,) = world.machines()
    root = make(machine)
    root.script("10-address", "echo fine")
    root.script("20-data", 'echo trying; echo "no \\"shared\\" storage: \\\\ $((1+1))" >&2; exit 3')
    root.script("30-restart", 'touch "$PARTITA_ROOT/ran"')
    code, said = root.run()
    assert code == 1
    assert "fine" in said
    assert (
        world.store.read(get_machine, machine.uuid).ready == 'failed: 20-data ended with 3: no "shared" storage: \\ 2'
    )
    assert not (root.place / "ran").exists()


def test_a_second_boot_goes_on_with_the_session_and_never_shows_the_secret_again(
    world: World, make: Callable[[SiteMachine], Root]
) -> None:
    (machine,) = world.machines()
    root = make(machine)
    assert root.run()[0] == 0
    root.script("10-address", 'touch "$PARTITA_ROOT/second"')
    code, said = root.run()
    assert (code, (root.place / "second").exists()) == (0, True), said
    assert root.text("etc/hosts").count("# partita begin") == 1
    before, world.now = world.now, world.now + SESSION_LIFE + timedelta(seconds=1)
    try:
        code, said = root.run()
    finally:
        world.now = before
    assert code == 0
    assert "session of an earlier boot is over" in said
    assert "alarm" not in [what for what, _ in world.told(machine)]
    assert root.run()[0] == 0


def test_a_machine_made_of_anothers_saved_disk_is_itself(world: World, make: Callable[[SiteMachine], Root]) -> None:
    first, second = world.machines(2)
    root = make(first)
    assert root.run()[0] == 0
    root.seed(world.context(second), second.uuid)
    assert root.run()[0] == 0
    assert world.store.read(get_machine, second.uuid).ready == "ready"
    assert root.text("var/lib/partita/machine") == second.uuid + "\n"


def test_peers_that_do_not_come_are_named(world: World, make: Callable[[SiteMachine], Root]) -> None:
    _, one, _ = world.star()
    code, _ = make(one).run(wait=2)
    assert code == 1
    ready = world.store.read(get_machine, one.uuid).ready
    assert ready == "failed: peers that it requires did not come within 2 s: head 1"


def test_a_secret_that_was_used_is_said_to_be_refused(world: World, make: Callable[[SiteMachine], Root]) -> None:
    (machine,) = world.machines()
    root = make(machine)
    assert root.run()[0] == 0
    shutil.rmtree(root.place / "var")
    code, said = root.run()
    assert code == 1
    assert "does not let this machine in" in said
    assert "alarm" in [what for what, _ in world.told(machine)]


@every_kind
def test_nothing_secret_is_said_or_left_where_others_read(world: World, make: Callable[[SiteMachine], Root]) -> None:
    (machine,) = world.machines()
    root = make(machine)
    context = world.context(machine)
    code, said = root.run()
    session = root.text("var/lib/partita/session").strip()
    assert (code, len(session)) == (0, 80)
    assert context.secret not in said
    assert session not in said
    state = root.place / "var/lib/partita"
    holds = [path.name for path in state.rglob("*") if path.is_file() and context.secret in path.read_text()]
    assert holds == []
    holds = [path.name for path in state.rglob("*") if path.is_file() and session in path.read_text()]
    assert holds == ["session"]
    assert [path.name for path in state.iterdir() if path.stat().st_mode & 0o077] == []


BAD_SEEDS = [
    ("no context in it", None, 0, "names no context broker"),
    ("no URL", "machine=x\nsecret=yyyy\n", 1, "has no url"),
    ("a URL of another kind", "url=file:///etc\nmachine=x\nsecret=yyyy\n", 1, "has no url"),
    ("a machine that is a path", "url=http://x\nmachine=../../x\nsecret=yyyy\n", 1, "is damaged"),
    ("a secret that is JSON", 'url=http://x\nmachine=x\nsecret=","a":"\n', 1, "is damaged"),
]


@pytest.mark.parametrize(("seed", "text", "code", "said"), BAD_SEEDS, ids=[row[0] for row in BAD_SEEDS])
def test_a_seed_that_is_damaged_is_not_used(
    plain: tuple[World, Make], tmp_path: Path, seed: str, text: str | None, code: int, said: str
) -> None:
    root = Root(tmp_path / "root", BrokerAccess(url="http://127.0.0.1:1", secret="x" * 20), "x", None)
    (root.place / "seed" / PARAMETERS).unlink()
    if text is not None:
        (root.place / "seed" / PARAMETERS).write_text(text)
    found = root.run(wait=1)
    assert found[0] == code
    assert said in found[1]


def test_a_broker_that_shows_another_certificate_is_not_spoken_with(
    secure: tuple[World, Make], tmp_path: Path, busybox: Path
) -> None:
    world, _ = secure
    (machine,) = world.machines()
    context = world.context(machine).model_copy(update={"fingerprint": "ab" * 32})
    code, said = Root(tmp_path / "root", context, machine.uuid, None).run(wait=1)
    assert code == 1
    assert "shows another certificate than the seed names" in said
    code, said = Root(tmp_path / "small", world.context(machine), machine.uuid, busybox).run(wait=1)
    assert code == 1
    assert "needs curl and openssl, or python3" in said
    world.store.read(get_machine, machine.uuid)
    assert [what for what, _ in world.told(machine)] == ["pending"]


def test_a_broker_that_comes_late_is_waited_for(tmp_path: Path, busybox: Path) -> None:
    place = tmp_path / "site"
    place.mkdir()
    with site(place) as (world, _):
        (machine,) = world.machines()
        context = world.context(machine)
    root = Root(tmp_path / "root", context, machine.uuid, busybox)
    process = root.start(wait=120)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        port = int(context.url.rpartition(":")[2])
        with site(place, port=port) as (world, _):
            code, said = ended(process)
            assert code == 0, said
            assert world.store.read(get_machine, machine.uuid).ready == "ready"
    finally:
        process.kill()
        process.wait()


# What a seed carries


def test_a_sites_own_vendor_data_stands_beside_the_agent() -> None:
    context = BrokerAccess(url="https://10.0.0.1:8/", secret="s" * 43, fingerprint="0" * 64)
    files, alone = seed_extras(context, "m")
    assert files[PARAMETERS] == b"url=https://10.0.0.1:8\nmachine=m\nsecret=%s\nfingerprint=%s\n" % (
        b"s" * 43,
        b"0" * 64,
    )
    assert alone == files[AGENT]
    assert alone.startswith(b"#!/bin/sh\n")
    _, both = seed_extras(context, "m", b"#cloud-config\ntimezone: UTC\n")
    assert both is not None
    assert both == seed_extras(context, "m", b"#cloud-config\ntimezone: UTC\n")[1]
    import email

    parts = email.message_from_bytes(both).get_payload()
    assert [part.get_content_type() for part in parts] == ["text/cloud-config", "text/x-shellscript"]  # type: ignore[union-attr]
    assert parts[1].get_payload(decode=True) == alone  # type: ignore[union-attr,index]
    assert seed_extras(None, "m", b"#!/bin/sh\n") == ({}, b"#!/bin/sh\n")
    assert seed_extras(None, "m") == ({}, None)


@pytest.mark.parametrize("vendor_data", [b"hello", b"#include\nhttp://x\n", "not base64!", b"#cloud-config\n- x\n"])
def test_vendor_data_that_no_guest_reads_is_refused(vendor_data: bytes | str) -> None:
    with pytest.raises((Misused, UserDataRefused)):
        seed_extras(None, "m", vendor_data)


HOOK = """\
echo "came $PARTITA_JOINED, left $PARTITA_LEFT, $(wc -l < "$PARTITA_PEERS") in all" >> "$PARTITA_ROOT/seen"
for host in $PARTITA_JOINED; do cat "$PARTITA_DATA/$host/slots" >> "$PARTITA_ROOT/slots"; done
[ ! -e "$PARTITA_ROOT/broken" ] || { rm "$PARTITA_ROOT/broken"; echo "no such queue"; exit 1; }
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])], indirect=True
)
def test_a_head_that_is_ready_is_told_of_workers_that_come_and_go(
    kind: str, world: World, make: Callable[[SiteMachine], Root]
) -> None:
    cluster = world.cluster(WATCHING).uuid
    (head,) = world.machines(1, cluster=cluster, role="head", hostname="star-head")
    workers = world.machines(2, cluster=cluster, role="worker", hostname="star-worker")
    for machine, address in zip((head, *workers), ("10.0.0.1", "10.0.0.2", "10.0.0.3"), strict=True):
        world.observed(machine, address)
    root = make(head)
    root.script("../peers.d/10-nodes", HOOK)
    code, said = root.run()
    assert code == 0, said
    assert world.store.read(get_machine, head.uuid).ready == "ready"  # it waits for nobody

    def seen(count: int) -> list[str]:
        wait_for(lambda: (root.place / "seen").exists() and len(root.text("seen").splitlines()) >= count, 60)
        return root.text("seen").splitlines()

    with watcher(root) as log:
        for machine in workers:
            worker = make(machine)
            worker.script("20-data", 'echo "slots of $PARTITA_HOSTNAME" | "$PARTITA_CONTEXT" put slots')
            assert worker.run()[0] == 0
            seen(1 + int(machine.hostname[-1] == "2"))
        assert seen(2) == ["came star-worker-1, left , 1 in all", "came star-worker-2, left , 2 in all"]
        assert root.text("slots") == "slots of star-worker-1\nslots of star-worker-2\n"
        wait_for(lambda: "10.0.0.3 star-worker-2" in root.text("etc/hosts"))
        assert root.run("peers")[1].count("ready 10.0.0.") == 2  # beside the one that watches
        (root.place / "broken").touch()
        world.store.write(
            change_machine, workers[0].uuid, lambda one: apply_verb(one, Verb.DESTROY, "scaled down", world.store.now())
        )
        world.bell.notify()
        assert seen(4)[2:] == ["came , left star-worker-1, 1 in all"] * 2  # what failed is told again
        wait_for(lambda: "peers: 1; came: none; left: star-worker-1" in log.read_text(), 60)
        assert "10.0.0.2" not in root.text("etc/hosts")
        assert not (root.place / "var/lib/partita/data/star-worker-1").exists()
        assert world.store.read(get_machine, head.uuid).ready == "ready"  # a hook's failure is the guest's own affair
        assert "no such queue" in log.read_text()
        session = root.text("var/lib/partita/session").strip()
        assert session not in log.read_text() + root.text("seen")
        assert root.run("watch")[1].strip().endswith("another one watches already")
    assert "alarm" not in [what for what, _ in world.told(head)]
