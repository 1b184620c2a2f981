"""The record of requests: bounded, with numbers that go on, and readable where it was damaged."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from deployer.policy.revocations import BlockList
from deployer.trials.request_log import (
    EncodedStatement,
    RequestLog,
    encode_revocations,
    find_request,
    read_requests,
)
from tests.support.node.tried_policy import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def numbers(path: Path) -> Sequence[int]:
    return [one.number for one in read_requests(path)]


def test_the_record_is_bounded_and_its_numbers_go_on(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    sample = read_requests(site.root / "requests.jsonl")[0]
    log = RequestLog(path, kept=5)
    for _ in range(23):
        log.append(sample)
        assert len(read_requests(path)) <= 10
    assert numbers(path)[-1] == 23
    assert RequestLog(path, kept=5).append(sample) == 24
    assert find_request(path, 24) is not None
    assert find_request(path, 1) is None


def test_damaged_lines_are_left_out(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    sample = read_requests(site.root / "requests.jsonl")[0]
    RequestLog(path).append(sample)
    with path.open("ab") as file:
        file.write(b"nonsense\n" + path.read_bytes()[:100])  # and a line that a kill tore
    log = RequestLog(path)
    log.append(sample)
    assert numbers(path) == [1, 2]
    assert read_requests(tmp_path / "none") == []


def test_a_record_that_cannot_be_written_stops_nothing(site: Site, tmp_path: Path) -> None:
    sample = read_requests(site.root / "requests.jsonl")[0]
    log = RequestLog(tmp_path / "requests.jsonl")
    (tmp_path / "requests.jsonl").mkdir()
    assert log.append(sample) == 1


def test_what_was_revoked_or_blocked_then_is_so_when_it_is_tried_again(site: Site, tmp_path: Path) -> None:
    sample = read_requests(site.root / "requests.jsonl")[0]
    blocked = sample.model_copy(update={"blocks": BlockList(images=(sample.image,))})
    RequestLog(tmp_path / "requests.jsonl").append(blocked)
    arguments = ("--requests", tmp_path / "requests.jsonl")

    assert "0 of the last 1 requests" in site.output("diff", site.policy, site.policy, *arguments)
    told = site.output("explain", site.policy, "--request", 1, *arguments, code=3)
    assert "What no change of the request itself helps against: the site's block list has 'sha256:" in told


def test_revocations_are_kept_with_a_request_while_they_are_few() -> None:
    assert encode_revocations([(b"a", b"b")]) == (EncodedStatement.of((b"a", b"b")),)
    assert encode_revocations([(b"a" * 1000, b"b")] * 300) is None
