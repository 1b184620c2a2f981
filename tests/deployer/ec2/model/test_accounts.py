"""Who has which account, and what machines there cost."""

from pathlib import Path

import pytest

from deployer.ec2.model.accounts import AccountRule, Accounts
from deployer.errors import NoAccount, PolicyUnusable
from deployer.site.model.principal import Principal
from tests.support.aws.account_values import ACCOUNT, OTHER, principal
from tests.support.aws.site_with_pool import accounts_file


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
        ("a rule that leads nowhere", ('account = "burst"', 'account = "absent"'), "unknown account"),
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


def test_the_example_in_the_documents_is_a_file_of_accounts(tmp_path: Path) -> None:
    document = Path(__file__).resolve().parents[4] / "docs" / "ec2.md"
    example = document.read_text().split("```toml\n")[1].split("```")[0]
    (tmp_path / "ec2.toml").write_text(example)
    accounts = Accounts.load(tmp_path / "ec2.toml")
    assert accounts.of(principal("star", "/star/production/Role=pilot")).name == "burst"
