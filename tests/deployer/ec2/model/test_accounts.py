"""Who has which account, and what machines there cost."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from deployer.ec2.model.accounts import Account, AccountRule, Accounts
from deployer.ec2.model.instance_types import InstanceType, choose_type
from deployer.ec2.model.pricing import Charge, Prices, check_cap, committed_cost, estimate_cost, machine_cost
from deployer.errors import CannotBoot, NoAccount, OverBudget, PolicyUnusable
from deployer.site.model.principal import Principal
from tests.support.aws.site_with_pool import accounts_file

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
GIB = 1 << 30
PRICES = Prices(per_hour={"t3.small": "0.02", "m5.large": "0.1"}, storage="0.73")
ACCOUNT = Account(
    name="burst",
    region="eu-central-1",
    profile="star",
    subnet="subnet-01234567",
    security_groups=("sg-01234567",),
    instance_types=("t3.small", "m5.large"),
    cap="10",
    prices=PRICES,
    cores=8,
    memory="64GiB",  # type: ignore[arg-type]  # as in a file
    disk="1TiB",  # type: ignore[arg-type]
)
OTHER = ACCOUNT.model_copy(update={"name": "pilots"})


def principal(vo: str, *groups: str) -> Principal:
    return Principal(issuer="https://issuer.example", subject="ann", vo=vo, groups=groups, means="token")


@pytest.mark.parametrize(
    ("what", "who", "account"),
    [
        ("the role in its group", principal("star", "/star/prod/Role=pilot"), "pilots"),
        ("the group alone", principal("star", "/star/prod"), "burst"),
        ("the role in another group", principal("star", "/star/test/Role=pilot"), None),
        ("a child of the group", principal("star", "/star/prod/sub"), None),
        ("a group of another VO, which counts for nothing", principal("cms", "/star/prod"), None),
        ("any member of a VO", principal("atlas", "/atlas"), "burst"),
        ("a VO without groups", principal("atlas"), "burst"),
        ("nobody's member", principal(""), None),
    ],
)
def test_rules_lead_to_accounts(tmp_path: Path, what: str, who: Principal, account: str | None) -> None:
    accounts = accounts_file(
        tmp_path / "ec2.toml",
        ACCOUNT,
        OTHER,
        rules=(
            {"vo": "star", "group": "/star/prod", "role": "pilot", "account": "pilots"},
            {"vo": "star", "group": "/star/prod", "account": "burst"},
            {"vo": "atlas", "account": "burst"},
        ),
    )
    if account is None:
        with pytest.raises(NoAccount, match="no rule of the site gives ann"):
            accounts.of(who)
    else:
        assert accounts.of(who).name == account
    assert accounts.named("pilots").model_dump() == OTHER.model_dump()
    with pytest.raises(NoAccount, match="the site has burst, pilots"):
        accounts.named("absent")


@pytest.mark.parametrize(
    ("what", "change", "says"),
    [
        ("a member that is not known", ('cap = "10"', 'cap = "10"\nsecret_key = "x"'), "is not known here"),
        ("an account without a cap", ('cap = "10"\n', ""), "is missing"),
        ("a cap that is a fraction of binary", ('cap = "10"', "cap = 10.5"), "cap"),
        ("no security group", ('security_groups = ["sg-01234567"]', "security_groups = []"), "security_groups"),
        ("a type without a price", ('"m5.large" = "0.1"', ""), "has no price"),
        ("an external ID without a role", ('external_id = ""', 'external_id = "abc"'), "no role_arn"),
        ("a role that is none", ('role_arn = ""', 'role_arn = "admin"'), "role_arn"),
        ("a rule that leads nowhere", ('account = "burst"', 'account = "absent"'), "which there is not"),
        ("no list of accounts", ("[[account]]", "[[accounts]]"), "$.account"),
    ],
)
def test_a_file_that_means_nothing_is_refused_whole(
    tmp_path: Path, what: str, change: tuple[str, str], says: str
) -> None:
    path = tmp_path / "ec2.toml"
    accounts_file(path, ACCOUNT, rules=({"vo": "star", "account": "burst"},))
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(PolicyUnusable, match=str(path)) as refused:
        Accounts.load(path)
    assert says in str(refused.value)


def test_two_accounts_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyUnusable, match="two accounts are called burst"):
        accounts_file(tmp_path / "ec2.toml", ACCOUNT, ACCOUNT)
    with pytest.raises(PolicyUnusable, match="cannot be read"):
        Accounts.load(tmp_path / "absent.toml")


def test_a_rule_for_a_role_in_any_group() -> None:
    rule = AccountRule(vo="star", role="pilot", account="burst")
    assert rule.matches(principal("star", "/star/anywhere/Role=pilot"))
    assert not rule.matches(principal("star", "/star/anywhere"))


def test_an_estimate_is_the_sum_of_hours_machines_and_storage() -> None:
    # 2 h x 3 x (0.02 + 10 GiB x 0.73 / 730 h)
    assert estimate_cost(PRICES, "t3.small", 10, 7200, 3) == Decimal("0.18")
    assert estimate_cost(PRICES, "t3.small", 0, 1, 1) == Decimal("0.01")  # rounded up, never to nothing
    with pytest.raises(OverBudget, match=r"x9\.huge has no price"):
        estimate_cost(PRICES, "x9.huge", 1, 1, 1)


def test_what_is_promised_counts_from_the_beginning_of_the_month_to_the_end() -> None:
    month = datetime(2026, 11, 1, tzinfo=UTC)
    spends = [
        Charge("t3.small", 0, month - timedelta(hours=5), month + timedelta(hours=10)),  # 10 h of it in this month
        Charge("m5.large", 0, NOW, NOW + timedelta(hours=2)),
        Charge("m5.large", 0, month - timedelta(hours=5), month - timedelta(hours=1)),  # last month's
    ]
    assert committed_cost(PRICES, spends, NOW) == Decimal("0.40")
    lost = [Charge("t2.gone", 0, NOW, NOW + timedelta(hours=1))]
    assert committed_cost(PRICES, lost, NOW) == Decimal("0.10")  # what lost its price counts at the dearest
    assert machine_cost(PRICES, Charge("t3.small", 0, NOW, NOW - timedelta(hours=1))) == 0


def test_the_cap_is_kept_to_the_cent() -> None:
    check_cap("burst", "10", Decimal("9.00"), Decimal("1.00"))
    with pytest.raises(OverBudget, match=r"estimated at 1\.01 USD, 9\.00 USD are spent .* the 10 USD"):
        check_cap("burst", "10", Decimal("9.00"), Decimal("1.01"))


TYPES = (
    InstanceType("t3.small", 2, 2 * GIB, frozenset({"x86_64"}), frozenset({"legacy-bios", "uefi"})),
    InstanceType("m5.large", 2, 8 * GIB, frozenset({"x86_64"}), frozenset({"legacy-bios"})),
    InstanceType("t4g.small", 2, 2 * GIB, frozenset({"arm64"}), frozenset({"uefi"})),
)


def test_the_cheapest_type_that_is_large_enough_is_chosen() -> None:
    assert choose_type(TYPES, PRICES, 1, GIB, "x86_64", "legacy-bios").name == "t3.small"
    assert choose_type(TYPES, PRICES, 2, 3 * GIB, "x86_64", "legacy-bios").name == "m5.large"


@pytest.mark.parametrize(
    ("what", "cores", "memory", "architecture", "mode", "says"),
    [
        ("more memory than any", 1, 16 * GIB, "x86_64", "legacy-bios", "has 1 cores and 16384 MiB"),
        ("more cores than any", 3, GIB, "x86_64", "legacy-bios", "has 3 cores"),
        ("a boot mode that the large one lacks", 1, 3 * GIB, "x86_64", "uefi", r"\(t3.small\)"),
        ("an architecture that boots otherwise", 1, GIB, "arm64", "legacy-bios", "runs arm64 images"),
        ("only one that has no price", 1, GIB, "arm64", "uefi", "has a price"),
    ],
)
def test_without_a_type_that_fits_the_reason_is_said(
    what: str, cores: int, memory: int, architecture: str, mode: str, says: str
) -> None:
    with pytest.raises(CannotBoot, match=says):
        choose_type(TYPES, PRICES, cores, memory, architecture, mode)  # type: ignore[arg-type]


def test_the_example_in_the_documents_is_a_file_of_accounts(tmp_path: Path) -> None:
    document = Path(__file__).resolve().parents[4] / "docs" / "ec2.md"
    example = document.read_text().split("```toml\n")[1].split("```")[0]
    (tmp_path / "ec2.toml").write_text(example)
    accounts = Accounts.load(tmp_path / "ec2.toml")
    assert accounts.of(principal("star", "/star/production/Role=pilot")).name == "burst"
