"""Scopes and paths of tokens become capabilities."""

import pytest

from deployer.site.auth.claims import capabilities, permits


@pytest.mark.parametrize(
    ("scopes", "operation", "path", "allowed"),
    [
        ("storage.create:/foo/bar", "storage.create", "/foo/bar", True),
        ("storage.create:/foo/bar", "storage.create", "/foo/bar/qux", True),
        ("storage.create:/foo/bar", "storage.create", "/foo/bargain", False),
        ("storage.create:/foo/bar", "storage.create", "/foo", False),
        ("storage.create:/foo/bar/", "storage.create", "/foo/bar", True),
        ("storage.create:/foo/bar", "storage.read", "/foo/bar", False),
        ("storage.read:/", "storage.read", "/anything/at/all", True),
        ("storage.read:/a storage.read:/b", "storage.read", "/b/c", True),
        ("storage.read:/foo", "storage.read", "/foo/../etc", False),
        ("storage.read:/foo", "storage.read", "/foo/%2e%2e/etc", False),
        ("storage.read:/foo", "storage.read", "/foo//bar", False),
        ("storage.read:/foo", "storage.read", "foo", False),
        ("storage.read:/foo", "storage.read", "xfoo", False),
        ("storage.read:xfoo", "storage.read", "/foo", False),
        ("storage.read:/foo/..", "storage.read", "/etc", False),
        ("storage.read", "storage.read", "/foo", False),
        ("read:/foo", "read", "/foo/bar", True),
    ],
)
def test_paths_are_compared_name_by_name(scopes: str, operation: str, path: str, *, allowed: bool) -> None:
    assert permits(scopes.split(), operation, path) is allowed


def test_no_scope_is_no_capability() -> None:
    assert capabilities([], "wlcg") is None
    assert capabilities([], "scitokens") == frozenset()
