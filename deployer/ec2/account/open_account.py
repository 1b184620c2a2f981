"""An account put together: everything that a site has, and knows, of one account at EC2.

DIR/site-id                  by what this site's things at EC2 are told from others'
DIR/books.db                 images and machines
DIR/cache, DIR/freshness     what is uploaded from, and what is known to be current
DIR/uploads/NUMBER           the same for commands beside the site's service (see `beside`)
DIR/accounts/NAME/snapshots  the ledger of snapshots, and uploads under way
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
from deployer.ec2.aws.client import AwsAccess, AwsClient
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
    """Open an account; nothing is asked of AWS yet. LedgerUnusable if the site's books cannot be used.

    Args:
        settings: of the site.
        account: which.
        clock: the present, UTC.
        aws: the way there, if whoever opens it has one.
        buffers: what holds blocks that are uploaded, for all accounts of a process.
    """
    owner = Owner(site_id(settings.directory), account.name)
    directory = settings.directory / "accounts" / account.name
    access = AwsAccess(
        region=account.region,
        profile=account.profile,
        role=account.role_arn,
        external_id=account.external_id,
        endpoint=settings.endpoint,
    )
    aws = aws or AwsClient(access, connections=settings.workers)
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
    """The UUID of a site at EC2, made when it is first asked for; LedgerUnusable if it cannot be kept."""
    path = directory / "site-id"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with suppress(FileExistsError):  # another process was first: then its identity it is
                files.create(path, f"{uuid.uuid4()}\n")
        return str(uuid.UUID(path.read_text().strip()))
    except (OSError, ValueError) as exc:
        raise Ec2RecordsUnusable(f"{path}: the site's identity at EC2 cannot be kept: {exc}") from exc


def staging_settings(settings: Ec2Settings, site: SiteSettings) -> NodeSettings:
    """How the site's host stages what it uploads: from the site's catalog, into a cache of its own, over HTTP."""
    return NodeSettings(
        directory=settings.directory,
        cache_quota=settings.cache_quota,
        catalog=site.catalog,
        mirrors=site.mirrors,
        tuf_root=site.pinned_root,
        credential=site.credential,
        swarm=False,
    )
