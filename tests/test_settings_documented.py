"""docs/operations.md names every setting, and no setting that does not exist."""

import re
from pathlib import Path

from partita import SECTIONS

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "operations.md"


def test_every_setting_is_documented() -> None:
    """The table of settings is the settings."""
    documented = set(
        re.findall(
            r"^\| `((?:signer|catalog|node|deploy|site|ec2|log)\.[a-z0-9_]+)` \|", DOCUMENT.read_text(), re.MULTILINE
        )
    )
    existing = {f"{section}.{field}" for section, model in SECTIONS.items() for field in model.model_fields}
    assert documented == existing
