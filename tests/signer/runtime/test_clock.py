"""The system's clock."""

from datetime import UTC, datetime, timedelta

from signer.runtime.clock import current_second, utc_now


def test_the_time_is_that_of_the_system_in_utc() -> None:
    before, found, after = datetime.now(UTC), utc_now(), datetime.now(UTC)
    assert before <= found <= after
    assert found.utcoffset() == timedelta(0)


def test_documents_carry_whole_seconds() -> None:
    found = current_second()
    assert found.microsecond == 0
    assert timedelta(0) <= utc_now() - found < timedelta(seconds=10)
