"""The accounts file of a site: it maps VO, group and role of a requester to an account at EC2. Pure.

TOML, strict: an unknown name refuses the whole file. Default deny: a requester who matches no rule has no account. An account
says how to reach it (a profile of the AWS configuration, or a role that is assumed), where its machines go, which types
they may have, and the most that they may cost. The file holds no credentials: they stay where the AWS SDK keeps them.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from catalog.image.manifest import Vo
from deployer.ec2.aws.access import AwsAccess
from deployer.ec2.model.pricing import Dollars, Prices
from deployer.errors import NoAccount, PolicyUnusable
from deployer.policy.policy_files import PolicyFile
from deployer.site.model.principal import Group, Principal
from signer.documents import Document
from signer.runtime.files import read_file
from signer.runtime.reloaded_files import FileReader
from signer.runtime.units import Size

MAX_ACCOUNTS_FILE = 1 << 20
"""Bytes: some thousand rules."""

MAX_TYPES = 100
"""Instance types of one account: as many as DescribeInstanceTypes answers in one request."""

AccountName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Account(AwsAccess):
    """An account at EC2, as a site uses it.

    Attributes:
        name: for people; also the name of the pool, and of its node in lists.
        subnet, security_groups: where machines go.
        instance_types: the types that machines may have.
        cap: USD that all its machines together may cost in a month.
        prices: for the estimate of the cost.
        cores, memory, disk: the most that its machines may take at one time; memory and disk in bytes.
        hibernation: its machines are started so that EC2 can hibernate them, with an encrypted root volume that has room
            for their memory; without it they cannot be paused or suspended.
        drivers: refuse images that certainly lack the drivers for EC2 (nvme and ena).
    """

    name: AccountName
    subnet: Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")]
    security_groups: Annotated[
        tuple[Annotated[str, Field(pattern=r"^sg-[0-9a-f]{8,17}$")], ...], Field(min_length=1, max_length=5)
    ]
    instance_types: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")], ...],
        Field(min_length=1, max_length=MAX_TYPES),
    ]
    cap: Dollars
    prices: Prices
    cores: Annotated[int, Field(ge=1)]
    memory: Size
    disk: Size
    hibernation: bool = False
    drivers: bool = True

    @property
    def reached(self) -> tuple[str, str, str, str]:
        """Region and credentials: with another of these it counts as another account."""
        return self.region, self.profile, self.role_arn, self.external_id

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.external_id and not self.role_arn:
            raise ValueError(f"the account {self.name} has an external_id but no role_arn to use it with")
        missing = [name for name in self.instance_types if name not in self.prices.per_hour]
        if missing:
            raise ValueError(f"the account {self.name} allows {', '.join(missing)} but has no price for it")
        return self


class AccountRule(Document):
    """A rule that gives requesters an account.

    Attributes:
        vo: of the requester.
        group: `/vo/group` of which the requester must be a member; empty for any. Members of a child group do not count.
        role: the role that the requester must have in that group, or in any; empty for any.
        account: the account's name.
    """

    vo: Vo
    group: Annotated[str, Field(pattern=r"^((/[a-zA-Z0-9][a-zA-Z0-9_.-]*)+)?$")] = ""
    role: Annotated[str, Field(pattern=r"^([a-zA-Z0-9][a-zA-Z0-9_.-]*)?$")] = ""
    account: AccountName

    def matches(self, who: Principal) -> bool:
        """Whether the rule matches a requester."""
        if who.vo != self.vo:
            return False
        if not self.group and not self.role:
            return True
        return any(
            (not self.group or path == self.group) and (not self.role or role == self.role)
            for path, role in map(_split, who.groups)
        )


class Accounts(PolicyFile):
    """The whole file: accounts, and the rules that lead to them; the first rule that matches counts."""

    file_kind, max_bytes = "accounts", MAX_ACCOUNTS_FILE

    account: Annotated[tuple[Account, ...], Field(min_length=1, max_length=1000)]
    rule: Annotated[tuple[AccountRule, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [account.name for account in self.account]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two accounts are called {min(twice)}")
        if lost := {rule.account for rule in self.rule} - set(names):
            raise ValueError(f"a rule leads to the unknown account {min(lost)}")
        return self

    @classmethod
    def load(cls, path: Path, read: FileReader = read_file) -> Self:
        """Read the file; PolicyUnusable with the place if it is invalid or missing."""
        if (found := cls.load_present(path, read)) is None:
            raise PolicyUnusable(f"accounts {path}: cannot be read: no such file")
        return found

    def named(self, name: str) -> Account:
        """The account of that name; NoAccount if it is unknown."""
        for account in self.account:
            if account.name == name:
                return account
        known = ", ".join(account.name for account in self.account)
        raise NoAccount(f"unknown account {name!r}; the site has {known}")

    def of(self, who: Principal) -> Account:
        """The account of a requester; NoAccount if no rule matches."""
        for rule in self.rule:
            if rule.matches(who):
                return self.named(rule.account)
        raise NoAccount(
            f"no rule of the site gives {who.subject} of the VO {who.vo or '(none)'} an account at EC2; "
            "ask for local machines, or ask the site for a rule"
        )


def _split(group: Group) -> tuple[str, str]:
    """Split `/vo/group/Role=name` into path and role; the role may be empty."""
    path, _, role = group.partition("/Role=")
    return path, role
