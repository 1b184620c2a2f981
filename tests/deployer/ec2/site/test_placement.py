"""Who is sent to EC2 and who is not, with the reason: values in, nodes and sentences out."""

from decimal import Decimal
from pathlib import Path

import pytest

from deployer.ec2.errors import AwsUnreachable
from deployer.ec2.model.accounts import Account, Accounts
from deployer.ec2.model.instance_types import InstanceType
from deployer.ec2.site.placement import ACCOUNT, CachedAccountInfo, Ec2Offer, Placer, burst_placer, find_offer
from deployer.errors import CannotBoot, DeployerError, NoAccount, NoCapacity, OverBudget
from deployer.machine.shape import MachineShape
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.model.principal import LOCAL_OPERATOR, Principal
from deployer.site.scheduling.placement import (
    EC2,
    NodeCapacity,
    Placement,
    PlacementRequest,
    place_machines,
    place_on_site,
)
from signer.documents import validate
from tests.support.aws.account_values import ACCOUNT as BURST
from tests.support.aws.account_values import OTHER, TYPES, principal
from tests.support.aws.site_with_pool import Images, accounts_file

GIB = 1 << 30
MIB = 1 << 20
HOME = NodeCapacity("home", "home", cores=1, memory=4 * GIB, disk=100 * GIB)
POOL = NodeCapacity("pool", "burst", 64, 256 * GIB, 4096 * GIB, {ACCOUNT: "burst"}, kind=EC2, architecture="")
PILOTS = NodeCapacity("pilots", "pilots", 64, 256 * GIB, 4096 * GIB, {ACCOUNT: "pilots"}, kind=EC2, architecture="")


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return accounts_file(tmp_path / "ec2.toml", BURST, OTHER, rules=({"vo": "star", "account": "burst"},))


def placing(
    accounts: Accounts,
    images: Images,
    where: str,
    *,
    who: Principal | None = None,
    spent: str = "0",
    types: tuple[InstanceType, ...] | DeployerError = TYPES,
    rooms: tuple[NodeCapacity, ...] = (HOME, POOL, PILOTS),
    count: int = 2,
    labels: dict[str, str] | None = None,
    memory: int = 64 * MIB,
) -> Placement:
    def described(_: Account) -> tuple[InstanceType, ...]:
        if isinstance(types, DeployerError):
            raise types
        return types

    wishes = {"where": where, "labels": labels or {}}
    document = {"image": "star/hello", "count": count, "placement_options": wishes}
    request = validate(DeploymentRequest, document, "request")
    known = CachedAccountInfo(described, lambda _account, _promised: Decimal(spent))
    manifest = images.hello.manifest

    def offer() -> Ec2Offer:
        return find_offer(accounts, known, who or principal("star", "/star"), manifest, request, 1, memory, 3600)

    way: Placer = burst_placer(place_machines, request, known, offer)
    return way(
        rooms, PlacementRequest(count, MachineShape.fixed(memory, 1), GIB, "x86_64", options=request.placement_options)
    )


def test_what_has_no_room_at_home_goes_to_the_requesters_account(accounts: Accounts, images: Images) -> None:
    found = placing(accounts, images, "local-then-ec2")
    assert found.nodes == ("home", "pool")
    said = " ".join(found.sentences)
    assert "capacity for 1 of 2 machines; the rest goes to EC2" in said
    assert "pilots is left out: the site's rules give the requester another account" in said
    assert "1 machine at EC2 as t3.small with 3 GiB are estimated at 0.03 USD until their end" in said


def test_at_home_costs_nothing_and_asks_nobody(accounts: Accounts, images: Images) -> None:
    broken = AwsUnreachable("nobody answers")
    assert placing(accounts, images, "local", types=broken, count=1).nodes == ("home",)
    found = placing(accounts, images, "local-then-ec2", types=broken, count=1)
    assert found.nodes == ("home",)
    assert not any("USD" in sentence for sentence in found.sentences)


@pytest.mark.parametrize(
    ("what", "changes", "error", "says"),
    [
        ("nobody's account", {"who": principal("atlas", "/atlas")}, NoAccount, "no rule of the site gives ann"),
        ("the cap would be passed", {"spent": "9.99"}, OverBudget, "more than the 10 USD"),
        ("no type is large enough", {"memory": 9 * GIB}, CannotBoot, "none of the allowed instance types"),
        ("EC2 does not answer", {"types": AwsUnreachable("nobody answers")}, AwsUnreachable, "nobody answers"),
    ],
)
def test_what_keeps_ec2_out_is_said(
    accounts: Accounts, images: Images, what: str, changes: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        placing(accounts, images, "ec2", **changes)  # type: ignore[arg-type]
    with pytest.raises(NoCapacity, match="and EC2 is left out: ") as refused:
        placing(accounts, images, "local-then-ec2", **changes)  # type: ignore[arg-type]
    assert says in str(refused.value)
    if "memory" not in changes:
        assert placing(accounts, images, "local-then-ec2", count=1, **changes).nodes == ("home",)  # type: ignore[arg-type]


def test_the_operator_has_every_account(accounts: Accounts, images: Images) -> None:
    assert placing(accounts, images, "ec2", who=LOCAL_OPERATOR).nodes == ("pool", "pool")
    named = placing(accounts, images, "ec2", who=LOCAL_OPERATOR, labels={ACCOUNT: "pilots"})
    assert named.nodes == ("pilots", "pilots")
    with pytest.raises(NoCapacity):  # somebody else names an account in vain
        placing(accounts, images, "ec2", labels={ACCOUNT: "pilots"})


def test_a_machine_that_lost_its_place_is_not_sent_to_ec2() -> None:
    ask = PlacementRequest(
        1,
        MachineShape.fixed(64 * MIB, 1),
        GIB,
        "x86_64",
        options=validate(
            DeploymentRequest, {"image": "x", "placement_options": {"where": "local-then-ec2"}}, "r"
        ).placement_options,
    )
    assert place_on_site(place_machines)((POOL, HOME), ask).nodes == ("home",)
    with pytest.raises(NoCapacity):
        place_on_site(place_machines)((POOL,), ask)


def test_types_are_asked_for_once(accounts: Accounts) -> None:
    asked: list[str] = []

    def types(account: Account) -> tuple[InstanceType, ...]:
        asked.append(account.name)
        return TYPES

    known = CachedAccountInfo(types, lambda _account, _promised: Decimal(0))
    for _ in range(3):
        known.types(accounts.named("burst"))
    known.types(accounts.named("pilots"))
    assert asked == ["burst", "pilots"]
