"""A signed HEPiX image list with its source and its subscriptions, in one grid."""

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.hepix.image_list import ImageList, ListedImage, NamedEndorser, write_list
from catalog.hepix.importer import ImportRequest, open_list
from catalog.hepix.subscriptions import ListEndorser, Subscription, Subscriptions
from signer.verification.smime import sign_message
from tests.support.grid_ca import DAY, Authority, Grid, Holder, utc_now

ANN_DN, CA_DN = "/DC=org/DC=grid/CN=Ann", "/DC=org/DC=grid/CN=CA"


ONE, TWO, OTHER = (f"0000000{digit}-0000-4000-8000-000000000000" for digit in "123")


@dataclass
class World:
    """A grid with two CAs, Ann who endorses lists, Bob who does not, and Ann's namesake at the other CA."""

    grid: Grid
    ca: Authority
    ann: Holder
    bob: Holder
    namesake: Holder
    revoked: Holder

    def image(self, **changes: object) -> ListedImage:
        """An image in a list."""
        made = ListedImage(
            identifier=ONE, title="Scientific Linux", description="", version="1.2", uri="http://127.0.0.1:9/disk",
            size=5, sha512="ab" * 64, architecture="x86_64", os="SL", os_version="6.4", comments="",
            hypervisor="kvm", format="RAW",
        )  # fmt: skip
        return made.model_copy(update=changes)

    def list(self, *images: ListedImage, dn: str = ANN_DN, **changes: object) -> ImageList:
        """A list that Ann endorses, made an hour ago."""
        made = ImageList(
            identifier=OTHER, title="Images", description="All", source="vo", uri="https://vo.example/list",
            version="2.0", created=self.grid.now - timedelta(hours=1), expires=self.grid.now + 7 * DAY,
            endorser=NamedEndorser(dn=dn, ca=CA_DN, email="ann@vo.example", creator="Ann"),
            images=images or (self.image(),), vo="vo",
        )  # fmt: skip
        return made.model_copy(update=changes)

    def sign(self, found: ImageList, by: Holder | None = None) -> bytes:
        """The signed message."""
        return sign_message((by or self.ann).signer(), write_list(found), self.grid.now)

    def open(self, message: bytes, root: Path, **changes: object) -> tuple[ImageList, Subscription]:
        """What a site that believes Ann does with a message."""
        order = replace(ImportRequest("site", ListEndorser(ANN_DN, CA_DN), every=True), **changes)  # type: ignore[arg-type]
        return open_list(message, Subscriptions(root), order, self.grid.rules, self.grid.now)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built once."""
    grid = Grid(tmp_path_factory.mktemp("grid"), utc_now())
    ca, other = grid.root(CA_DN), grid.root("/DC=org/DC=other/CN=CA")
    people = {name: grid.person(ca, f"/DC=org/DC=grid/CN={name}") for name in ("Ann", "Bob", "Gone")}
    ca.revoked.append(people["Gone"].certificate.serial_number)
    grid.install(ca, "/DC=org/DC=grid/*")
    grid.install(other, "/DC=org/*")
    return World(grid, ca, people["Ann"], people["Bob"], grid.person(other, ANN_DN), people["Gone"])
