"""What all tests share: the slow switch, a scrubbed environment, and a CI that does not let skips hide.

A test skips only when a machine truly lacks something, and says what. Where CI runs, nothing that a test may ask for is
lacking but what EXCUSED names, so any other skip fails the run there.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test asserts on time: a busy machine is no defect of what is tested.
settings.register_profile("partita", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("partita")

EXCUSED = ("KVM does not run guests here",)
"""Beginnings of the reasons for which a test may be skipped even in CI."""

_skipped: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --slow."""
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the slow ones unless asked for: they are not skipped, they are another run. Let long ones begin first."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow and not config.getoption("--slow"):
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    items[:] = _long_ones_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


LONG_ONES = (
    "test_the_demo_ends_with",
    "test_commands_of_a_document[README.md]",
    "test_commands_of_a_document[docs/operations.md]",
    "test_killed_stagings_lose_nothing",
    "test_killing_service_and_client_loses_nothing",
    "test_a_cluster_of_real_guests",
    "test_kills_at_any_instant_double",
    "test_a_map_that_lies",
    "test_killed_at_random_points_it_ends_as_desired",
    "test_two_guests_find_each_other",
    "test_a_service_dies_at_every_sync",
    "test_thirty_kills",
)
"""What takes longest: begun last, it would run alone at the end while the other workers have nothing to do."""


def _long_ones_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The long ones at the beginning of each worker's share; all workers must come to the same order."""
    order = {item: place for item in items for place, name in enumerate(LONG_ONES) if item.name.startswith(name)}
    long = sorted(order, key=lambda item: (order[item], item.nodeid))
    rest = [item for item in items if item not in order]
    share = -(-len(items) // workers)
    found = []
    for worker in range(workers):
        own = long[worker::workers]
        found += own + rest[: share - len(own)]
        del rest[: share - len(own)]
    return found + rest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what was skipped, and why."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(EXCUSED):
            _skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip without an excuse is a failure."""
    if os.environ.get("CI") and _skipped and not hasattr(session.config, "workerinput"):
        print("\nskipped where they should have run:", *_skipped, sep="\n  ")  # noqa: T201 - for the log of CI
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


LONG = 4096
"""Bytes from which a comparison is explained by its first difference: a full one of some MiB takes minutes."""


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say where long bytes begin to differ."""
    if op != "==" or not (isinstance(left, bytes) and isinstance(right, bytes)) or max(len(left), len(right)) <= LONG:
        return None
    end = min(len(left), len(right))
    first = next((index for index in range(end) if left[index] != right[index]), end)
    return [f"{len(left)} bytes == {len(right)} bytes", f"They differ first at byte {first}."]


@pytest.fixture(autouse=True)
def _scrubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings, keys or tokens of whoever runs it."""
    for name in os.environ:
        if name.startswith("PARTITA_") or name in {"GNUPGHOME", "BEARER_TOKEN", "BEARER_TOKEN_FILE"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("PARTITA_CONFIG", str(tmp_path / "no-settings.toml"))


CORPORA = {
    "signature corpus, agreeing with sqv": "signer/openpgp/test_signature_corpus",
    "attack table": "journeys/test_attacks",
    "hostile and good disks": "catalog/disk/test_inspector",
    "bombs and path tricks": "catalog/builder/test_bombs",
    "user-data injection": "deployer/machine/test_user_data",
    "image lists": "catalog/hepix/",
    "freshness attacks": "catalog/client/test_trusted",
    "certificates": "signer/x509/",
    "tokens": "deployer/site/auth/test_tokens",
    "VOMS attributes and proxies": "deployer/site/auth/test_voms",
    "role and endpoint": "deployer/site/api/test_authorization_matrix",
}
"""What is counted at the end of a run, and the module that holds it."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases of each corpus passed."""
    passed = [report.nodeid for report in terminalreporter.stats.get("passed", [])]
    counts = {
        title: sum(nodeid.startswith(f"tests/{module}") for nodeid in passed) for title, module in CORPORA.items()
    }
    if any(counts.values()):
        terminalreporter.section("corpora")
        for title, count in counts.items():
            terminalreporter.write_line(f"{title}: {count} passed")
