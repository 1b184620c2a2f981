"""The settings section `ec2`: a site's accounts at EC2, its directory for their records, and how fast it uploads."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from signer.documents import Document
from signer.runtime.settings import default_file, state_directory
from signer.runtime.units import ByteSetting, DurationText


class Ec2Settings(Document):
    """How a site uses EC2.

    Attributes:
        accounts: the file with accounts and rules; without it the site has no machines at EC2.
        directory: where the site keeps its books, records and uploads, and the cache that it uploads from.
        cache_quota: bytes that this cache may allocate.
        workers: blocks that are uploaded at one time.
        endpoint: URL of a substitute for AWS; empty for AWS.
        keep: how long `partita ec2 clean` keeps unused resources.
    """

    accounts: Path = Field(default_factory=lambda: default_file().parent / "ec2.toml")
    directory: Path = Field(default_factory=lambda: state_directory("ec2"))
    cache_quota: Annotated[ByteSetting, Field(ge=1 << 20)] = 50 << 30
    workers: Annotated[int, Field(ge=1, le=256)] = 64
    endpoint: Annotated[str, Field(pattern=r"^(https?://.*)?$")] = ""
    keep: DurationText = "7d"
