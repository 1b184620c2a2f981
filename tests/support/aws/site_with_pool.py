"""A site with machines at EC2, of real parts: a catalog, policy, stager, books, and an account in the stand-in for AWS."""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from catalog.client import transfer
from catalog.client.trusted import TrustedCatalog
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import MANIFEST_TYPE, Manifest
from deployer.ec2.account.open_account import OpenAccount, open_account, staging_settings
from deployer.ec2.images.image_upload import ImageUploader
from deployer.ec2.model.accounts import Account, Accounts
from deployer.ec2.model.instances import Instance
from deployer.ec2.pool.deployment import Ec2Deployer
from deployer.ec2.pool.pool import Ec2Pool
from deployer.ec2.settings import Ec2Settings
from deployer.machine.state import MachineState
from deployer.policy.revocations import RevocationState
from deployer.policy.store import PolicyStore
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus, NodeReport, ObservedMachine
from deployer.records.recorder import Recorder
from deployer.site.settings import SiteSettings
from signer.documents import canonical, validate
from signer.openpgp.keyring import Keyring
from stager.factory import open_stager
from stager.staging import Stager
from tests.support.aws.fake_aws import REGION, AwsWorld
from tests.support.catalog.service_process import Service, Vo, first_root
from tests.support.factories import content
from tests.support.forkserver import PROCESSES
from tests.support.node.boot_sector_guest import boot_sector_image
from tests.support.node.service_process import policy

MIB = 1 << 20
DEADLINE = 60.0

PRICES = {
    "per_hour": {"t3.micro": "0.01", "t3.small": "0.02", "m5.large": "0.10", "t4g.small": "0.02"},
    "storage": "0.10",
}
"""Invented."""


@dataclass(frozen=True)
class Images:
    """A catalog with star/hello 1.0 and 2.0 (BIOS, one partition differs), star/direct (kernel, no boot loader), and
    rogue/hello, which nobody trusts."""

    service: Service
    star: Vo
    hello: Bundle
    update: Bundle
    direct: Bundle
    rogue: Bundle


def direct_image(root: Path, *, cmdline: str = "console=ttyS0 root=PARTLABEL=base", name: str = "direct") -> Bundle:
    """A kernel (of noise), an initrd, a bare content and a bare blank."""
    blobs = root / "blobs"
    blobs.mkdir(parents=True)
    addresses: list[Address] = []
    for number, size in enumerate((MIB + 100, 3000, 2 * MIB)):
        fresh = blobs / f"new{number}"
        addresses.append(content(fresh, size, seed=900 + number))
        fresh.rename(blobs / str(addresses[-1]))

    def bare(number: int, **source: object) -> dict[str, object]:
        partition = {
            "label": f"part{number}",
            "type": "linux-generic",
            "uuid": f"00000000-0000-4000-8000-{number:012x}",
            "access": "copy-on-write",
            **source,
        }
        return {"table": "none", "partition": partition}

    document = {
        "type": MANIFEST_TYPE,
        "vo": "star",
        "name": name,
        "version": "1.0",
        "architecture": "x86_64",
        "os": {"id": "debian", "version": "12"},
        "disks": [
            bare(1, content=str(addresses[2])),
            bare(2, blank={"size": 64 * MIB, "filesystem": "ext4", "label": "scratch"}),
        ],
        "boot": {"mode": "direct", "kernel": str(addresses[0]), "initrd": str(addresses[1]), "cmdline": cmdline},
        "needs": {"memory": 64 * MIB, "cores": 1},
        "contextualization": "nocloud",
    }
    return Bundle.create(root, validate(Manifest, document, "manifest"))


def changed_image(root: Path, base: Bundle) -> Bundle:
    """An update: the same but for the third partition."""
    shutil.copytree(base.root / "blobs", root / "blobs")
    document = json.loads(base.manifest.canonical())
    fresh = root / "blobs" / "new"
    address = content(fresh, MIB, seed=777)
    fresh.rename(root / "blobs" / str(address))
    document["version"] = "2.0"
    document["disks"][0]["partitions"][2]["content"] = str(address)
    return Bundle.create(root, validate(Manifest, document, "manifest"))


@contextmanager
def catalog_of_images() -> Iterator[Images]:
    """The catalog, as a process."""
    place = Path(tempfile.mkdtemp(prefix="pe-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        keyring = Keyring(place / "keys")
        star = Vo(keyring, "star", keyring.generate("Star <star@example.org>"))
        rogue = Vo(keyring, "rogue", keyring.generate("Rogue <rogue@example.org>"))
        service = stack.enter_context(Service(place))
        service.register(star.anchor(), rogue.anchor())
        hello = star.endorse(boot_sector_image(place / "hello"))
        update = star.endorse(changed_image(place / "update", hello))
        direct = star.endorse(direct_image(place / "direct"))
        forged = rogue.endorse(boot_sector_image(place / "forged", vo="rogue", seed=200))
        with service.client() as client:
            for bundle in (hello, update, direct, forged):
                transfer.publish_image(client, bundle)
        yield Images(service, star, hello, update, direct, forged)


def account(world: AwsWorld, profile: str, name: str = "burst", **changes: object) -> Account:
    """An account of the site's file that leads to a profile."""
    aws = world.aws(profile)
    document = {
        "name": name,
        "region": REGION,
        "profile": profile,
        "subnet": aws.ec2("describe_subnets")["Subnets"][0]["SubnetId"],
        "security_groups": [aws.ec2("describe_security_groups")["SecurityGroups"][0]["GroupId"]],
        "instance_types": ["t3.micro", "t3.small", "m5.large"],
        "cap": "100",
        "prices": PRICES,
        "cores": 64,
        "memory": "256GiB",
        "disk": "4TiB",
    }
    return validate(Account, document | changes, "account")


@dataclass
class Clock:
    """The present, and what a test adds to it."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        """Now."""
        return datetime.now(UTC) + self.ahead


@dataclass(frozen=True)
class _Address:
    url: str


@dataclass(frozen=True)
class _Elsewhere:
    """What a process of its own knows of the images."""

    service: _Address


@dataclass
class Ec2Site:
    """One site host's part in EC2: the pool of one account, worked by `look` until it is closed.

    Attributes:
        desired: what should be; a test changes it by `want`, `change` and `drop`.
    """

    images: Images
    world: AwsWorld
    directory: Path
    account: Account
    clock: Clock = field(default_factory=Clock)
    node: str = field(default_factory=lambda: str(uuid.uuid4()))
    desired: DesiredState = DesiredState(revision=0)  # noqa: RUF009 - frozen
    policy_text: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """For a process of its own, which needs no more of the images than where the catalog is and whom to trust."""
        self.site  # noqa: B018 - pins the catalog's root while the catalog is at hand
        text = self.policy_text or self._policy()
        changed = {
            "images": _Elsewhere(_Address(self.images.service.url)),
            "world": AwsWorld(self.world.url, self.world.moto, self.world.credentials),
            "policy_text": text,
        }
        return self.__dict__ | changed

    def _policy(self) -> str:
        return policy(self.images.star.anchor(), machines=20, memory=4 << 30)

    @property
    def settings(self) -> Ec2Settings:
        """Of the section `ec2`."""
        return Ec2Settings(
            accounts=self.directory / "ec2.toml",
            directory=self.directory / "ec2",
            endpoint=self.world.url,
            workers=8,
            cache_quota=1 << 30,
        )

    @property
    def site(self) -> SiteSettings:
        """Of the section `site`."""
        root = self.directory / "root.json"
        if not root.exists():
            root.parent.mkdir(parents=True, exist_ok=True)
            root.write_bytes(first_root(self.images.service.url))
        return SiteSettings(
            directory=self.directory / "site",
            catalog=self.images.service.url,
            tuf_root=root,
            policy=self.directory / "policy.toml",
            blocked=self.directory / "blocked.toml",
        )

    def open(self) -> "OpenSite":
        """Begin to work; close it when done."""
        text = self.policy_text or self._policy()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.site.policy.write_text(text)
        return OpenSite(self)

    def want(self, bundle: Bundle, **values: object) -> str:
        """A machine should be; returns its UUID."""
        fresh = str(uuid.uuid4())
        needs = bundle.manifest.needs
        document = {
            "uuid": fresh,
            "deployment": str(uuid.uuid4()),
            "desired": DesiredStatus.RUNNING.value,
            "image_id": bundle.manifest.image_id,
            "hostname": f"w-{fresh[:8]}",
            "network": "user",
            "memory": needs.memory,
            "cores": needs.cores,
            "max_memory": needs.memory,
            "max_cores": needs.cores,
            "expires": (self.clock() + timedelta(hours=1)).replace(microsecond=0).isoformat().replace("+00:00", "Z"),
        }
        machine = validate(DesiredMachine, document | values, "machine")
        self._next((*self.desired.machines, machine))
        return fresh

    def change(self, uuid: str, **values: object) -> None:
        """Something else is wanted of a machine."""
        self._next(tuple(one.model_copy(update=values) if one.uuid == uuid else one for one in self.desired.machines))

    def drop(self, uuid: str) -> None:
        """The site has forgotten a machine."""
        self._next(tuple(one for one in self.desired.machines if one.uuid != uuid))

    def _next(self, machines: tuple[DesiredMachine, ...]) -> None:
        self.desired = DesiredState(revision=self.desired.revision + 1, machines=machines)


class OpenSite:
    """A host at work."""

    def __init__(self, host: Ec2Site) -> None:
        self.host = host
        self._closing = ExitStack()
        enter, clock = self._closing.enter_context, host.clock
        catalog: TrustedCatalog
        stager: Stager
        stager, catalog = enter(open_stager(staging_settings(host.settings, host.site), lambda: clock().timestamp()))
        self.opened: OpenAccount = enter(
            open_account(host.settings, host.account, clock, host.world.aws(host.account.profile))
        )
        self.policies = PolicyStore(host.site.policy)
        self.records = Recorder(self.opened.directory, host.node, clock)
        self._closing.callback(self.records.close)
        self.withdrawn = RevocationState()
        self.imaging = ImageUploader(self.opened, stager)
        self.makes = Ec2Deployer(
            self.opened, catalog, self.imaging, self.records, self.policies.current, lambda: self.withdrawn, clock
        )
        self.pool = Ec2Pool(host.account, self.opened.machines, self.opened.books, self.makes, clock)
        self.last: NodeReport | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        self._closing.close()

    def look(self) -> NodeReport:
        """One look."""
        self.last = self.pool.look(self.host.desired)
        return self.last

    def settle(self, looks: int = 3) -> NodeReport:
        """Look until nothing is being made, and some times more."""
        until = datetime.now(UTC) + timedelta(seconds=DEADLINE)
        self.look()
        while self.pool.busy(0.2):
            assert datetime.now(UTC) < until, self.last
            self.look()
        for _ in range(looks):
            self.look()
        assert self.last is not None
        return self.last

    def seen(self, uuid: str) -> ObservedMachine:
        """A machine in the last report."""
        assert self.last is not None
        found = [machine for machine in self.last.machines if machine.uuid == uuid]
        assert found, f"{uuid} is not reported: {self.last}"
        return found[0]

    def state(self, uuid: str) -> MachineState:
        """Its state there."""
        return self.seen(uuid).state

    def instance(self, uuid: str) -> Instance:
        """The one live instance of a machine, as EC2 describes it."""
        found = [one for one in self.opened.machines.all() if one.machine == uuid and one.live]
        assert len(found) == 1, found
        return found[0]

    def live(self) -> list[Instance]:
        """All live instances."""
        return [one for one in self.opened.machines.all() if one.live]

    def calls(self, operation: str, since: int = 0) -> list[dict[str, Any]]:
        """What was asked of AWS, by whoever."""
        return [one for one in self.host.world.log(since) if one["operation"] == operation]


def _work(host: Ec2Site, begun: Any, leave: Any) -> None:
    """A host as a process: looks until everything is as it should be, and goes on having what it has until it may leave."""
    os.environ.update(host.world.variables())
    with host.open() as site:
        begun.set()
        site.settle()
        leave.wait()


@contextmanager
def working(host: Ec2Site, *, stays: bool = False) -> Iterator[Any]:
    """A host that works in a process of its own; yields the process once it has begun. It is killed in the end.

    Args:
        stays: also when all is as it should be; else it ends then.
    """
    begun, leave = PROCESSES.Event(), PROCESSES.Event()
    if not stays:
        leave.set()
    process = PROCESSES.Process(target=_work, args=(host, begun, leave), daemon=True)
    process.start()
    try:
        assert begun.wait(DEADLINE)
        yield process
    finally:
        process.kill()
        process.join()


def accounts_file(path: Path, *accounts: Account, rules: tuple[dict[str, str], ...] = ()) -> Accounts:
    """Write a site's file of accounts, and read it."""
    lines: list[str] = []
    for one in accounts:
        document = json.loads(canonical(one))
        prices = document.pop("prices")
        lines.append("[[account]]")
        for name, value in document.items():
            text = f"{value}B" if name in {"memory", "disk"} else value
            lines.append(f"{name} = {json.dumps(text)}")
        lines += ["[account.prices]", f"storage = {json.dumps(prices['storage'])}", "[account.prices.per_hour]"]
        lines += [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in prices["per_hour"].items()]
    for rule in rules:
        lines += ["[[rule]]", *(f"{name} = {json.dumps(value)}" for name, value in rule.items())]
    path.write_text("\n".join(lines) + "\n")
    return Accounts.load(path)
