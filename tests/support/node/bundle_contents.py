"""Parts of images in plain directories: what the stager would hand out, without a cache."""

from dataclasses import dataclass
from pathlib import Path

from catalog.image.address import Address
from catalog.image.blanks import make_blank
from catalog.image.bundle import Bundle
from catalog.image.manifest import Blank


@dataclass(frozen=True)
class BundleContents:
    """The contents of an image directory, and blanks made on demand beside them."""

    bundle: Bundle
    blanks: Path

    def path(self, address: Address) -> Path:
        """The blob itself."""
        return self.bundle.content(address)

    def blank(self, blank: Blank) -> Path:
        """Made at the first call."""
        path = self.blanks / f"{blank.filesystem}-{blank.size}-{blank.label}"
        if not path.exists():
            self.blanks.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.truncate(blank.size)
            make_blank(blank, path)
        return path
