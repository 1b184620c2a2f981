"""The commands `partita ec2`: list a site's images and machines at EC2, estimate costs, upload ahead, and clean up.

Machines themselves are ordered at the site (`partita deploy --site`), which manages its accounts by itself.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.errors import Misused
from catalog.image.reference import Reference
from deployer.cli.arguments import CoresOption, CountOption, ImageArgument, MemoryOption, optional_amount, parse_amount
from deployer.ec2.model.accounts import Accounts
from deployer.ec2.model.boot_mapping import map_boot
from deployer.ec2.model.hibernation import add_memory_space, hibernation_obstacle
from deployer.ec2.model.pricing import estimate_cost
from deployer.ec2.settings import Ec2Settings
from deployer.policy.store import PolicyStore
from deployer.site.settings import SiteSettings
from signer.runtime import terminal
from signer.runtime.clock import utc_now
from signer.runtime.units import parse_duration, parse_size

if TYPE_CHECKING:  # they load the AWS library, which slows other commands down
    from deployer.ec2.account.cleanup import Removal
    from deployer.ec2.account.open_account import OpenAccount
    from deployer.ec2.images.image_upload import ImageUploader
    from deployer.ec2.pool.deployment import Ec2Deployer

ec2_app = typer.Typer(name="ec2", no_args_is_help=True, help="Manage a site's images and machines at Amazon EC2.")

AccountName = Annotated[
    str | None, typer.Option("--account", help="One account of the site's file; by default all.", metavar="NAME")
]


def _clock() -> datetime:
    return utc_now()


@contextmanager
def _accounts(context: typer.Context, name: str | None) -> Iterator["list[OpenAccount]"]:
    from deployer.ec2.account.open_account import open_account

    settings = terminal.section(context, Ec2Settings)
    accounts = Accounts.load(settings.accounts)
    chosen = accounts.account if name is None else (accounts.named(name),)
    with ExitStack() as stack:
        yield [stack.enter_context(open_account(settings, account, _clock)) for account in chosen]


@contextmanager
def _deployer(context: typer.Context, name: str | None) -> Iterator["tuple[Ec2Deployer, ImageUploader, OpenAccount]"]:
    """The deployer and uploader of one account, without a pool; the site's service may be running."""
    from deployer.ec2.account.open_account import staging_settings
    from deployer.ec2.images.image_upload import ImageUploader
    from deployer.ec2.images.upload_cache import UploadCache
    from deployer.ec2.pool.deployment import Ec2Deployer
    from deployer.site.operations.revocations import RevocationService
    from stager.factory import open_catalog

    settings, site = terminal.section(context, Ec2Settings), terminal.section(context, SiteSettings)
    with _accounts(context, name) as accounts, ExitStack() as stack:
        if len(accounts) != 1:
            names = ", ".join(each.account.name for each in accounts)
            raise Misused(f"the site has the accounts {names}; choose one with --account")
        found = accounts[0]
        host = staging_settings(settings, site)
        catalog = stack.enter_context(open_catalog(host, lambda: _clock().timestamp()))
        beside = stack.enter_context(UploadCache(host, catalog, lambda: _clock().timestamp()))
        rules = PolicyStore(site.policy).current
        withdrawing = RevocationService(catalog, settings.directory, site.blocked, rules, _clock)
        imaging = ImageUploader(found, beside)
        yield Ec2Deployer(found, catalog, imaging, None, rules, withdrawing.current, _clock), imaging, found


@ec2_app.command("images")
def ec2_images(context: typer.Context, account: AccountName = None) -> None:
    """List the images that the site has registered, the most recently used first."""
    with _accounts(context, account) as accounts:
        found = [(each.account.name, entry) for each in accounts for entry in each.books.images()]
    found.sort(key=lambda pair: pair[1].used, reverse=True)
    terminal.show(
        [{"account": name, **entry.model_dump(mode="json")} for name, entry in found],
        terminal.table(
            ("AMI", "IMAGE", "ACCOUNT", "VOLUMES", "USED"),
            [(entry.ami or "-", entry.title, name, len(entry.contents), entry.used) for name, entry in found],
        ),
    )


@ec2_app.command("machines")
def ec2_machines(context: typer.Context, account: AccountName = None) -> None:
    """List the site's machines at EC2, with their states there."""
    with _accounts(context, account) as accounts:
        found = [(each.account.name, instance) for each in accounts for instance in each.machines.all()]
    rows = [
        {
            "account": name,
            "machine": one.machine,
            "instance": one.instance,
            "state": one.state,
            "type": one.instance_type,
            "ami": one.ami,
            "addresses": list(one.addresses),
            "image": one.tags.get("partita:catalog", ""),
            "expires": one.tags.get("partita:ends", ""),
        }
        for name, one in found
    ]
    columns = ("machine", "state", "instance", "type", "image", "addresses", "expires", "account")
    terminal.show(
        rows,
        terminal.table(
            [column.upper() for column in columns],
            [[", ".join(row[c]) if isinstance(row[c], list) else row[c] for c in columns] for row in rows],
        ),
    )


@ec2_app.command("upload")
def ec2_upload(
    context: typer.Context,
    image: ImageArgument,
    account: AccountName = None,
    ignore_drivers: Annotated[
        bool, typer.Option("--ignore-drivers", help="Upload an image without drivers for EC2's disks or network, too.")
    ] = False,
) -> None:
    """Make an image's snapshots and AMI ahead of its first machine. The policy must accept the image."""
    from deployer.ec2.images.image_upload import MachineProgress

    with _deployer(context, account) as (deployer, imaging, found):
        manifest = deployer.accepted(Reference.parse(image))
        progress = MachineProgress()
        entry, snapshots = imaging.image(
            manifest, map_boot(manifest), progress, drivers=found.account.drivers and not ignore_drivers
        )
    result = {
        "image": manifest.image_id,
        "title": manifest.title,
        "account": found.account.name,
        "ami": entry.ami,
        "blocks_sent": progress.sent,
        "drivers": str(progress.drivers) if progress.drivers is not None else "",
        "snapshots": {device: snapshot.snapshot_id for device, snapshot in snapshots.items()},
    }
    text = f"{manifest.title} is {entry.ami} in {found.account.name}; blocks of 512 KiB sent: {progress.sent}"
    if progress.drivers is not None and progress.drivers.answer != "yes":
        text += f"\ndrivers for EC2's disks and network: {progress.drivers}"
    terminal.show(result, text)


@ec2_app.command("estimate")
def ec2_estimate(
    context: typer.Context,
    image: ImageArgument,
    account: AccountName = None,
    count: CountOption = 1,
    memory: MemoryOption = None,
    cores: CoresOption = None,
    lifetime: Annotated[str, typer.Option(help="Lifetime of each, such as 12h.")] = "1h",
) -> None:
    """Show the instance type that machines would get, and their cost by the site's own table. Nothing is ordered."""
    size = optional_amount(memory, parse_size, "--memory")
    seconds = parse_amount(lifetime, parse_duration, "--lifetime")
    with _deployer(context, account) as (deployer, _, found):
        manifest = deployer.accepted(Reference.parse(image))
        boots = map_boot(manifest)
        kind = deployer.choose(cores or manifest.needs.cores, size or manifest.needs.memory, boots)
        volumes = (
            boots.volumes
            if hibernation_obstacle(found.account, kind, boots)
            else add_memory_space(boots.volumes, kind.memory)
        )
        gib = sum(volume.size for volume in volumes)
        dollars = estimate_cost(found.account.prices, kind.name, gib, seconds, count)
    result = {"type": kind.name, "gib": gib, "usd": str(dollars), "count": count, "seconds": seconds}
    text = f"{count} x {kind.name} with {gib} GiB for {lifetime}: {dollars} USD by the table of {found.account.name}"
    terminal.show(result, text)


@ec2_app.command("clean")
def ec2_clean(
    context: typer.Context,
    account: AccountName = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Remove the unused resources instead of only showing them.")
    ] = False,
    older_than: Annotated[
        str | None, typer.Option(help="Only resources unused for so long, such as 12h; by default ec2.keep.")
    ] = None,
) -> None:
    """Show, and with --apply remove, the site's unused resources at EC2; the oldest first."""
    from deployer.ec2.account.cleanup import list_resources, plan_cleanup, remove_resources

    settings = terminal.section(context, Ec2Settings)
    age = timedelta(seconds=parse_amount(older_than or settings.keep, parse_duration, "--older-than"))
    rows: list[dict[str, str]] = []
    with _accounts(context, account) as accounts:
        for found in accounts:
            removals = plan_cleanup(list_resources(found.aws, found.owner, found.books), found.owner, _clock(), age)

            def tell(removal: "Removal", became: str, name: str = found.account.name) -> None:
                since = removal.thing.since.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
                thing = {"kind": removal.thing.kind.value, "id": removal.thing.id, "title": removal.thing.title}
                rows.append(thing | {"since": since, "reason": removal.reason, "account": name, "became": became})

            if apply:
                remove_resources(removals, found.aws, found.books, found.ledger, tell)
            else:
                for removal in removals:
                    tell(removal, "would be removed")
    columns = ("kind", "id", "title", "since", "reason", "account", "became")
    terminal.show(
        rows,
        terminal.table([column.upper() for column in columns], [[row[column] for column in columns] for row in rows])
        if rows
        else "no unused resources",
    )
