"""A node's directory that an earlier release wrote is read by this one; one of a later release is left alone."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from catalog.image.manifest import Blank
from deployer.errors import NodeUnavailable
from deployer.machine.network import Network
from deployer.machine.state import MachineState
from deployer.records.machine_store import RECORD, MachineStore
from deployer.trials.request_log import RequestLog, read_requests

BEFORE = Path(__file__).parents[2] / "vectors" / "state_of_5e5eede" / "node"
"""Machines and requests of a node, as commit 5e5eede wrote them."""

FIXED, GROWS, FAILED = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
MIB, GIB = 1 << 20, 1 << 30
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    """The directory of the machines."""
    return Path(shutil.copytree(BEFORE / "machines", tmp_path / "machines"))


def test_every_machine_is_found_again(machines: Path) -> None:
    """None is taken for a directory without a record, which would be removed."""
    store = MachineStore(machines)
    assert store.broken == ()
    assert {record.uuid: record.state for record in store.all()} == {
        FIXED: MachineState.RUNNING,
        GROWS: MachineState.SUSPENDED,
        FAILED: MachineState.FAILED,
    }


def test_a_machine_that_could_grow_still_can(machines: Path) -> None:
    """Its record, and what the hypervisor was told."""
    record = MachineStore(machines).get(GROWS)
    assert (record.memory, record.cores, record.max_memory, record.max_cores) == (2 * GIB, 2, 4 * GIB, 4)
    assert record.network == Network.parse("network:grid")
    assert record.blanks == (Blank(size=64 * MIB, filesystem="ext4", label="scratch"),)
    assert record.user_data == "cloud-config"
    assert (record.created, record.expires) == (NOW, NOW + timedelta(hours=1))
    assert record.spec is not None
    assert (record.spec.memory, record.spec.max_memory, record.spec.max_cores) == (GIB, 4 * GIB, 4)
    assert record.spec.network == record.network


def test_a_machine_that_could_not_grow_cannot(machines: Path) -> None:
    """The earlier release left out what it might grow to."""
    record = MachineStore(machines).get(FIXED)
    assert (record.memory, record.max_memory, record.cores, record.max_cores) == (GIB, GIB, 1, 1)
    assert record.spec is not None
    assert (record.spec.max_memory, record.spec.max_cores) == (record.spec.memory, record.spec.cores)


def test_members_have_their_earlier_names_until_they_are_written(machines: Path) -> None:
    """Format 2 said when a machine ends, that the node holds it, what is wanted, and between which nodes it moves."""
    path = machines / GROWS / RECORD
    fresh = json.loads(path.read_bytes())
    given = {"number": 4, "to": FIXED}
    old = {"held": "the policy", "wanted": "suspended", "giving": given, "arriving": 3}
    path.write_text(json.dumps(fresh | old))
    store = MachineStore(machines)
    record = store.get(GROWS)
    assert (record.pause_reason, record.desired, record.incoming) == ("the policy", "suspended", 3)
    assert record.expires.isoformat().replace("+00:00", "Z") == fresh["ends"]
    assert record.outgoing is not None
    assert record.outgoing.model_dump() == given
    store.save(record)
    written = json.loads(path.read_bytes())
    assert not {"ends", *old} & written.keys()
    earlier = dict(zip(("pause_reason", "desired", "outgoing", "incoming"), old, strict=True))
    path.write_text(json.dumps({earlier.get(name, name): value for name, value in written.items()} | {"format": 2}))
    assert MachineStore(machines).get(GROWS) == record


def test_what_is_written_says_its_format(machines: Path) -> None:
    """And is read again as it is."""
    store = MachineStore(machines)
    record = store.get(GROWS)
    store.save(record)
    assert json.loads((machines / GROWS / RECORD).read_bytes())["format"] == 3
    assert MachineStore(machines).get(GROWS) == record


def test_what_a_later_release_wrote_is_left_alone(machines: Path) -> None:
    """The service does not start, since it would remove machines that it cannot read."""
    later = json.loads((machines / FIXED / RECORD).read_bytes()) | {"format": 4, "gpus": 1}
    (machines / FIXED / RECORD).write_text(json.dumps(later))
    with pytest.raises(NodeUnavailable, match=r"written by a newer release \(format 4\); update this node's software"):
        MachineStore(machines)
    assert (machines / FIXED / RECORD).exists()


def test_what_has_no_record_is_still_told_apart(machines: Path) -> None:
    """A record that was never finished, and one that is something else."""
    (machines / FIXED / RECORD).write_bytes(b"[]")
    (machines / FAILED / RECORD).write_bytes(b'{"uuid":')
    store = MachineStore(machines)
    assert store.broken == (FIXED, FAILED)
    assert [record.uuid for record in store.all()] == [GROWS]


def test_requests_of_before_are_tried_on_other_policies(tmp_path: Path) -> None:
    """What counted was how far a machine might grow, and that was all that was kept."""
    path = Path(shutil.copy(BEFORE / "requests.jsonl", tmp_path))
    (record,) = read_requests(path)
    request = record.asked
    assert (request.count, request.lifetime, request.user_data) == (2, 3600, "cloud-config")
    assert (request.max_memory, request.max_cores) == (4 * GIB, 4)
    assert (str(request.network), len(request.blanks)) == ("user", 1)
    assert RequestLog(path).append(record) == 2
    assert [one.asked for one in read_requests(path)] == [record.asked, record.asked]
