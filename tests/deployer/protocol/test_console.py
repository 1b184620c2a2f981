"""What a guest writes does not drive the terminal that shows it."""

import pytest

from deployer.protocol.console import sanitize_output

pytestmark = pytest.mark.guest


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"\x1b[1;32mok\x1b[0m\r\n", "ok\n"),
        (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\tb\n", "a\tb\n"),
        ("täglich\n".encode(), "täglich\n"),
    ],
)
def test_what_a_guest_writes_does_not_drive_the_terminal(written: bytes, shown: str) -> None:
    assert sanitize_output(written) == shown
