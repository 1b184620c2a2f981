"""Orders and what comes of them: bytes moved, rules listed, contents compared, everything undone."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.errors import Misused, NotFound
from deployer.errors import PolicyUnusable, Refused, UserDataRefused
from deployer.machine.state import MachineState
from deployer.node.schema.orders import DeploymentResult
from signer.errors import DocumentError
from stager.errors import EntryChanged, StagerError
from tests.deployer.node.test_node import holders
from tests.support.node.boot_sector_guest import SAID
from tests.support.node.community import Community
from tests.support.node.service_process import NodeProcess, order, policy, wait_for

pytestmark = pytest.mark.guest

MIB = 1 << 20


def nothing_is_left(node: NodeProcess) -> None:
    """No record, directory, lease or guest."""
    assert node.records() == []
    assert list(node.machines.iterdir()) == []
    assert holders(node) == set()
    wait_for(lambda: not node.guests())


def cached(node: NodeProcess) -> list[Path]:
    """The files of the cache that hold content."""
    return sorted((node.directory / "n" / "cache" / "partitions").rglob("*-*"))


def test_the_second_machine_moves_no_bytes_and_copies_none(node: NodeProcess, community: Community) -> None:
    size = sum(address.size for address in community.hello.manifest.contents())
    first, second = node.deploy().machines[0], node.deploy().machines[0]
    assert first.from_network >= size * 3 // 4 - 3 * MIB  # a quarter is holes
    assert first.from_cache == 0
    assert second.from_network == 0
    assert second.from_cache > 0
    assert second.written <= first.written < MIB
    assert {path.stat().st_nlink for path in cached(node)} == {1}
    for machine in (first, second):
        node.said(machine.uuid, SAID[-1])


def test_several_machines_of_one_order_have_names_of_their_own(node: NodeProcess) -> None:
    result = node.deploy(count=2, hostname="worker", cores=2, memory=48 * MIB, lifetime=600)
    assert [machine.hostname for machine in result.machines] == ["worker-1", "worker-2"]
    assert len({machine.uuid for machine in result.machines}) == 2
    assert {(m.cores, m.memory) for m in result.machines} == {(2, 48 * MIB)}
    assert [machine.from_network > 0 for machine in result.machines] == [True, False]
    assert len(node.guests()) == 2


def test_what_guests_write_stays_with_them(node: NodeProcess) -> None:
    before = {path: path.read_bytes() for path in cached(node)} or None
    machine = node.deploy().machines[0]
    assert before is None
    after_staging = {path: path.stat() for path in cached(node)}
    node.said(machine.uuid, SAID[-1])  # it has written a sector by now
    for path, status in after_staging.items():
        assert path.stat().st_mtime_ns == status.st_mtime_ns
    second = node.deploy().machines[0]
    assert b"content of the first partition" in node.said(second.uuid, SAID[-1])


def test_an_image_that_nobody_trusted_vouches_for_is_refused_with_every_rule(quiet: NodeProcess) -> None:
    with pytest.raises(Refused, match="no endorser is trusted for VO rogue") as refused:
        quiet.deploy("rogue/hello")
    decision = refused.value.decision
    assert decision is not None
    assert decision["accepted"] is False
    names = [rule["name"] for rule in decision["rules"]]
    assert {"anchors", "endorsements", "limit-memory", "network"} <= set(names)
    assert cached(quiet) == []
    nothing_is_left(quiet)


@pytest.mark.parametrize(
    ("what", "values", "expected", "says"),
    [
        ("an unknown image", {"image": "star/absent"}, NotFound, "absent"),
        ("an unknown version", {"image": "star/hello@9"}, NotFound, "9"),
        ("no reference at all", {"image": "hello"}, Exception, "is not a valid image reference"),
        ("more memory than allowed", {"memory": 2 << 30}, Refused, "limits.memory"),
        ("less memory than needed", {"memory": 16 * MIB}, Refused, "needs 32MiB"),
        ("more machines than allowed", {"count": 9}, Refused, "limits.machines"),
        ("longer than allowed", {"lifetime": 13 * 3600}, Refused, "limits.lifetime"),
        ("a network that is not allowed", {"network": "bridge:br0"}, Refused, "networks.allow"),
        ("a network that is none", {"network": "wifi"}, DocumentError, "is not a valid network"),
        ("a host name that is none", {"hostname": "no_underscores"}, Misused, "is not a valid host name"),
        ("user-data that includes", {"user_data": "I2luY2x1ZGUgaHR0cDovL3gK"}, Refused, "user_data.allow"),
        ("user-data that is nothing", {"user_data": "aGVsbG8="}, UserDataRefused, "user-data"),
        ("a public key that is none", {"public_keys": ["ssh-rsa nonsense"]}, Misused, "public key"),
    ],
)
def test_orders_that_come_to_nothing_leave_nothing(
    quiet: NodeProcess, what: str, values: dict[str, object], expected: type[Exception], says: str
) -> None:
    with pytest.raises(expected) as failed:
        quiet.deploy(**{"image": "star/hello@1.0"} | values)  # type: ignore[arg-type]
    assert says in str(failed.value)
    nothing_is_left(quiet)


def test_without_a_policy_everything_is_refused(make_node: Callable[..., NodeProcess]) -> None:
    node = make_node()
    node.policy.unlink()
    with pytest.raises(PolicyUnusable, match="acceptance policy not found, so nothing is accepted"):
        node.deploy()
    with node.client() as client:
        assert "acceptance policy not found" in (client.status().policy_problem or "")


def test_a_policy_is_read_afresh_for_each_order(node: NodeProcess, community: Community) -> None:
    node.deploy()
    node.policy.write_text(policy(community.star.anchor(), threshold=2))
    with pytest.raises(Refused, match="1 of 2 endorsers"):
        node.deploy()
    node.policy.write_text("[anchors")
    with pytest.raises(Refused, match="1 of 2 endorsers"):  # the last good one stays in force
        node.deploy()
    with node.client() as client:
        assert "is not TOML" in (client.status().policy_problem or "")
    node.policy.unlink()
    with pytest.raises(PolicyUnusable, match="acceptance policy not found"):
        node.deploy()
    assert len(node.records()) == 1


def test_a_dry_run_decides_and_does_nothing(quiet: NodeProcess) -> None:
    with quiet.client() as client:
        assert client.decide(order("star/hello@1.0"))["accepted"] is True
        assert client.decide(order("rogue/hello@1.0"))["accepted"] is False
    assert cached(quiet) == []
    nothing_is_left(quiet)


def test_two_orders_at_once_stage_once_and_never_share_the_last_place(
    make_node: Callable[..., NodeProcess], community: Community
) -> None:
    node = make_node(policy(community.star.anchor(), machines=2))
    results: list[DeploymentResult | Exception] = []

    def one() -> None:
        try:
            results.append(node.deploy())
        except Refused as exc:
            results.append(exc)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ran = [result for result in results if isinstance(result, DeploymentResult)]
    assert len(results) == 4
    assert len(ran) == 2
    assert all("limits.machines" in str(result) for result in results if isinstance(result, Refused))
    machines = [result.machines[0] for result in ran]
    # Each part moved once, for whichever of the two came first to it.
    assert sum(machine.from_network for machine in machines) == machines[0].from_network + machines[0].from_cache
    assert len(node.guests()) == 2


def flip(path: Path, offset: int) -> None:
    """Change one bit of a cached file, and leave its times as they were."""
    status = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("what", "tamper", "verify"),
    [
        ("a file with other times", lambda path: os.utime(path), "sample"),
        ("a file of another size", lambda path: os.truncate(path, path.stat().st_size - 512), "sample"),
        ("its first byte, times restored", lambda path: flip(path, 0), "sample"),
        ("its last byte, times restored", lambda path: flip(path, path.stat().st_size - 1), "sample"),
        ("any one bit, times restored", lambda path: flip(path, 1_234_567), "full"),
    ],
)
def test_contents_that_are_no_longer_what_was_verified_are_not_booted(
    node: NodeProcess, what: str, tamper: Callable[[Path], object], verify: str
) -> None:
    machine = node.deploy().machines[0]
    with node.client() as client:
        client.destroy(machine.uuid)
    largest = max(cached(node), key=lambda path: path.stat().st_size)
    tamper(largest)
    with pytest.raises(EntryChanged, match="entry dropped, stage the image again"):
        node.deploy(verify=verify)
    nothing_is_left(node)
    again = node.deploy(verify="full").machines[0]  # dropped, so it is fetched again
    assert again.from_network > 0
    node.said(again.uuid, SAID[-1])


def test_a_machine_that_does_not_start_is_undone(make_node: Callable[..., NodeProcess]) -> None:
    node = make_node(network="network:absent")
    node.policy.write_text(node.policy.read_text().replace('allow = ["user"]', 'allow = ["network:*"]'))
    with pytest.raises(Exception, match=r"machine hello-[0-9a-f]{8} does not start: "):
        node.deploy(count=2)
    nothing_is_left(node)


def test_a_requester_who_goes_away_cancels(node: NodeProcess) -> None:
    class Gone(Exception):
        """The command was interrupted."""

    def leave(step: object) -> None:
        raise Gone

    with node.client() as client, pytest.raises(Gone):
        client.deploy(order("star/hello@1.0", count=4), leave)
    wait_for(lambda: "client disconnected" in node.log.read_text(), 60)
    nothing_is_left(node)


def test_a_node_that_ends_undoes_what_it_was_deploying(node: NodeProcess) -> None:
    running = node.deploy().machines[0]
    failures: list[Exception] = []
    begun = threading.Event()

    def deploy() -> None:
        with node.client() as client:
            try:
                client.deploy(order("star/hello@2.0", count=6), lambda _step: begun.set())
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is looked at below
                failures.append(exc)

    thread = threading.Thread(target=deploy)
    thread.start()
    assert begun.wait(20)
    assert node.stop() == 0
    thread.join(20)
    assert len(failures) == 1
    assert [path.name for path in node.machines.iterdir()] == [running.uuid]
    assert len(node.guests()) == 1
    node.start()
    assert node.state(running.uuid) is MachineState.RUNNING


def test_staging_that_cannot_finish_is_undone(make_node: Callable[..., NodeProcess]) -> None:
    node = make_node(cache_quota=2 * MIB)
    with pytest.raises(StagerError, match="quota"):
        node.deploy()
    nothing_is_left(node)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"image": "x", "image": "y"}', b'{"image": 1}', b'{"image":"a","x":1}'])
def test_malformed_orders_are_refused_with_their_place(quiet: NodeProcess, body: bytes) -> None:
    with quiet.client() as client, pytest.raises(DocumentError, match=r"order: \$"):
        client._ask("POST", "deployments", content=body)


def test_an_order_without_end_is_refused(quiet: NodeProcess) -> None:
    with quiet.client() as client, pytest.raises(Misused, match="more than the 65536 bytes"):
        client._ask("POST", "deployments", content=b'{"image": "' + b"x" * 100_000)
