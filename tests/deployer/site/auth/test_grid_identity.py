"""Certificate chains of people: judged again after a while, and only so many remembered."""

from datetime import timedelta
from pathlib import Path

import pytest

from deployer.errors import NotAuthenticated
from deployer.site.auth.grid_identity import GridIdentities, GridTrust
from deployer.site.auth.voms import VomsDirectory
from tests.support.grid_ca import utc_now
from tests.support.site.voms_grid import ANN, GridWorld, der, other


def test_a_chain_is_judged_again_after_ten_seconds(tmp_path: Path) -> None:
    grid = GridWorld.make(tmp_path, utc_now())
    people = GridIdentities(GridTrust(grid.grid.path, VomsDirectory(grid.vomsdir)))
    shown = [der(grid.ann.certificate)]
    assert people.authenticate(shown, grid.now).subject == ANN
    grid.root.revoked.append(grid.ann.certificate.serial_number)
    grid.grid.publish_list(grid.root)
    for seconds in (0, 9):
        assert people.authenticate(shown, grid.now + timedelta(seconds=seconds)).subject == ANN
    for seconds in (10, -1, 10):
        with pytest.raises(NotAuthenticated, match="was revoked"):
            people.authenticate(shown, grid.now + timedelta(seconds=seconds))


def test_not_more_chains_are_remembered_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = GridWorld.make(tmp_path, utc_now())
    monkeypatch.setattr("deployer.site.auth.grid_identity.MOST", 2)
    people = GridIdentities(GridTrust(grid.grid.path, VomsDirectory(grid.vomsdir)))
    for number in range(4):
        proxy = grid.proxy(common=str(number))
        people.authenticate([der(proxy.certificate), der(grid.ann.certificate)], grid.now)
    assert len(people._known) == 2


def test_a_name_longer_than_anything_may_be(tmp_path: Path) -> None:
    grid = GridWorld.make(tmp_path, utc_now())
    long = other(grid, "/DC=org/DC=grid" + f"/OU={'x' * 60}" * 20)
    with pytest.raises(NotAuthenticated, match="too long"):
        GridIdentities(GridTrust(grid.grid.path, VomsDirectory(grid.vomsdir))).authenticate(
            [der(long.certificate)], grid.now
        )
