"""An account at EC2, opened: its client, books, snapshots and operations.

DIR/site-id                  distinguishes this site's resources at EC2 from those of others
DIR/books.db                 images and machines
DIR/cache, DIR/freshness     the cache that is uploaded from, and how current the catalog is
DIR/uploads/NUMBER           the same for commands beside the site's service (see `deployer.ec2.images.upload_cache`)
DIR/accounts/NAME/snapshots  the records of snapshots, and uploads under way
DIR/accounts/NAME/...        audit log, receipts and key of the account's pool (see `deployer.records.recorder`)
"""

import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deployer.ec2.account.ami_registrar import AmiRegistrar
from deployer.ec2.account.bookkeeping import Bookkeeping
from deployer.ec2.account.instance_operations import Ec2Machines
from deployer.ec2.aws.client import AwsClient
from deployer.ec2.aws.tags import Owner
from deployer.ec2.errors import Ec2RecordsUnusable
from deployer.ec2.model.accounts import Account
from deployer.ec2.settings import Ec2Settings
from deployer.ec2.snapshots.buffer_pool import BufferPool
from deployer.ec2.snapshots.record_store import SnapshotRecords
from deployer.ec2.snapshots.snapshots import Snapshots
from deployer.site.settings import SiteSettings
from signer.runtime import files
from stager.settings import NodeSettings


@dataclass(frozen=True)
class OpenAccount:
    """An account, ready to be used."""

    account: Account
    owner: Owner
    directory: Path
    aws: AwsClient
    books: Bookkeeping
    ledger: SnapshotRecords
    snapshots: Snapshots
    registrar: AmiRegistrar
    machines: Ec2Machines


@contextmanager
def open_account(
    settings: Ec2Settings,
    account: Account,
    clock: Callable[[], datetime],
    aws: AwsClient | None = None,
    buffers: BufferPool | None = None,
) -> Iterator[OpenAccount]:
    """Open an account, without a request to AWS yet; Ec2RecordsUnusable if the site's books cannot be used.

    Args:
        settings: of the site.
        account: which.
        clock: the present, UTC.
        aws: a client of the account, if there is one already.
        buffers: for uploaded blocks, shared by all accounts of a process.
    """
    owner = Owner(site_id(settings.directory), account.name)
    directory = settings.directory / "accounts" / account.name
    aws = aws or AwsClient(account, endpoint=settings.endpoint, connections=settings.workers)
    ledger = SnapshotRecords(directory / "snapshots")
    books = Bookkeeping(settings.directory / "books.db", account.name)
    try:
        yield OpenAccount(
            account=account,
            owner=owner,
            directory=directory,
            aws=aws,
            books=books,
            ledger=ledger,
            snapshots=Snapshots(aws, ledger, workers=settings.workers, buffers=buffers),
            registrar=AmiRegistrar(aws, books, owner, clock, lambda: secrets.token_hex(16)),
            machines=Ec2Machines(aws, owner),
        )
    finally:
        books.close()


def site_id(directory: Path) -> str:
    """The UUID of a site at EC2, made at the first call; Ec2RecordsUnusable if it cannot be stored."""
    path = directory / "site-id"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with suppress(FileExistsError):  # another process was first: its identity counts
                files.create(path, f"{uuid.uuid4()}\n")
        return str(uuid.UUID(path.read_text().strip()))
    except (OSError, ValueError) as exc:
        raise Ec2RecordsUnusable(f"{path}: the site's identity at EC2 cannot be read or stored: {exc}") from exc


def staging_settings(settings: Ec2Settings, site: SiteSettings) -> NodeSettings:
    """The settings for staging uploads on the site's host: from the site's catalog into a separate cache, over HTTP."""
    return NodeSettings(
        directory=settings.directory,
        cache_quota=settings.cache_quota,
        catalog=site.catalog,
        mirrors=site.mirrors,
        tuf_root=site.pinned_root,
        credential=site.credential,
        swarm=False,
    )
