"""The commands `cache list|verify|evict|stage`, as a person and as a program use them."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from catalog.errors import Misused
from signer.runtime.settings import Settings, load_settings
from stager.cache.cache import Cache
from stager.cli.cache import cache_app
from stager.errors import CacheBusy, CacheUnusable, InUse, NotCached
from stager.factory import DEFAULT_QUOTA_SHARE, quota_bytes
from stager.settings import NodeSettings
from tests.support.catalog.service_process import first_root
from tests.support.commands import CliRunner
from tests.support.stager.caches import Served

Run = Callable[..., Result]


def settings_of(tmp_path: Path, *flags: str) -> Settings:
    given = [f"node.directory={tmp_path}/node", *flags]
    return load_settings({"node": NodeSettings}, file=tmp_path / "none", environ={}, flags=given)


@pytest.fixture
def run(tmp_path: Path, served: Served) -> Run:
    """Run a command as on the command line, but let our errors through."""

    def command(*arguments: str, fails: int = 0) -> Result:
        (tmp_path / "root.json").write_bytes(first_root(served.url))
        flags = [f"node.catalog={served.url}", f"node.tuf_root={tmp_path}/root.json", "node.cache_quota=200000000"]
        found = settings_of(tmp_path, *flags)
        result = CliRunner().invoke(cache_app, list(arguments), obj=found)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == fails, result.output
        return result

    return command


def test_an_image_is_staged_listed_verified_and_evicted(run: Run, served: Served) -> None:
    staged = json.loads(run("stage", "star/worker", "--json").stdout)
    assert staged["image"] == served.bundle.manifest.image_id
    assert staged["from_network"] > 0
    assert staged["blanks_made"] == 1
    again = run("stage", "star/worker@1.0").stdout
    assert "0 B from the network" in again
    listed = json.loads(run("list", "--json").stdout)
    assert {row["what"] for row in listed["entries"]} >= {str(one) for one in served.bundle.manifest.contents()}
    assert listed["allocated"] == sum(row["allocated"] for row in listed["entries"])
    shown = run("list").stdout
    for row in listed["entries"]:
        assert row["what"] in shown.replace("\\[", "[")
    assert json.loads(run("verify", "--full", "--json").stdout)["checked"] == len(listed["entries"])
    key = listed["entries"][0]["key"]
    assert json.loads(run("verify", key, "--json").stdout) == {"checked": 1, "full": False, "changed": []}
    assert json.loads(run("evict", key, "--json").stdout)["evicted"] == key
    assert len(json.loads(run("list", "--json").stdout)["entries"]) == len(listed["entries"]) - 1


def test_what_was_evicted_lies_in_the_trash_until_it_is_wanted_or_emptied(run: Run) -> None:
    run("stage", "star/worker")
    first, second = (row["key"] for row in json.loads(run("list", "--json").stdout)["entries"][:2])
    run("evict", first)
    run("evict", second)
    lying = json.loads(run("trash", "--json").stdout)["trash"]
    assert {one["name"] for one in lying} == {first, second}
    assert "was evicted by hand" in run("trash").stdout
    assert json.loads(run("list", "--json").stdout)["trash"] == sum(one["allocated"] for one in lying)
    assert "0 B from the network" in run("stage", "star/worker").stdout
    run("evict", first)
    assert json.loads(run("trash", "--empty", "--json").stdout)["removed"] == 1
    assert json.loads(run("trash", "--json").stdout)["trash"] == []


def test_verify_ends_with_4_and_names_what_changed(run: Run, served: Served, tmp_path: Path) -> None:
    run("stage", "star/worker")
    address = str(served.bundle.manifest.contents()[0])
    path = tmp_path / "node" / "cache" / "partitions" / address[:2] / address
    os.utime(path)
    result = json.loads(run("verify", "--json", fails=4).stdout)
    assert len(result["changed"]) == 1
    assert address in result["changed"][0]
    assert json.loads(run("verify", "--json").stdout)["changed"] == []


def test_a_lease_asked_for_holds(run: Run) -> None:
    run("stage", "star/worker", "--holder", "ann", "--ttl", "600")
    row = json.loads(run("list", "--json").stdout)["entries"][0]
    assert row["leases"][0]["holder"] == "ann"
    assert "ann" in run("list").stdout
    with pytest.raises(InUse, match="ann"):
        run("evict", row["key"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["evict", "0" * 64 + "-16384"], NotCached, "is not in the cache"),
        (["verify", "blank-0"], NotCached, "is not in the cache"),
        (["evict", "../../etc/passwd"], Misused, "is not an address"),
        (["stage", "no reference"], Misused, "is not a valid image reference"),
    ],
)
def test_what_is_not_there_is_told(run: Run, arguments: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(*arguments)


def test_a_running_owner_is_named(run: Run, tmp_path: Path) -> None:
    with Cache(tmp_path / "node" / "cache", 1 << 20, time.time):
        for command in (["list"], ["verify"], ["stage", "star/worker"]):
            with pytest.raises(CacheBusy, match=f"process {os.getpid()}"):
                run(*command)


# Settings


def test_the_default_quota_gives_way_to_a_small_filesystem_and_a_set_one_does_not(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    total = found.f_blocks * found.f_frsize
    assert quota_bytes(settings_of(tmp_path).section(NodeSettings)) == min(50 << 30, int(total * DEFAULT_QUOTA_SHARE))
    set_to = settings_of(tmp_path, f"node.cache_quota={total + 1}").section(NodeSettings)
    assert quota_bytes(set_to) == total + 1
    with pytest.raises(CacheUnusable, match=r"node\.cache_quota"):
        Cache(set_to.cache, quota_bytes(set_to), time.time)
