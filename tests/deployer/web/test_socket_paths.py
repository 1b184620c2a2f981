"""Where sockets lie when their directory's name is long."""

from pathlib import Path

import pytest

import deployer.ec2.errors  # noqa: F401 - its errors cross too, and are known once they are loaded
from deployer.web.socket_paths import MAX_SOCKET, short_socket_path


@pytest.mark.parametrize("length", [20, 95, 96, 200])
def test_sockets_lie_in_the_directory_or_always_in_the_same_short_place(length: int) -> None:
    directory = Path("/" + "d" * (length - 1))
    place = short_socket_path(directory, "node.sock", MAX_SOCKET)
    assert len(bytes(place)) <= MAX_SOCKET
    assert (place.parent == directory) == (length + len("/node.sock") <= MAX_SOCKET)
    assert place == short_socket_path(directory, "node.sock", MAX_SOCKET)
    assert place != short_socket_path(directory / "other", "node.sock", MAX_SOCKET)
