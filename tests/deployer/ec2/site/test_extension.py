"""The site's file of accounts while the service runs: what is changed counts, what is wrong does not and is said."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.ec2.site.extension import AccountSupervisor
from deployer.errors import DeployerError, PolicyUnusable
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.db.nodes import list_nodes
from deployer.site.model.principal import LOCAL_OPERATOR
from deployer.site.service.site import Site
from deployer.site.store.changes import add_node
from signer.documents import validate
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.site_with_pool import Ec2Site, Images, account, accounts_file
from tests.support.node.service_process import policy, wait_for

QUICK = 0.1
"""Seconds between two looks at the file."""


@pytest.fixture
def host(images: Images, world: AwsWorld, profile: str, tmp_path: Path) -> Ec2Site:
    found = Ec2Site(images, world, tmp_path / "host", account(world, profile))
    found.site.policy.write_text(policy(images.star.anchor(), memory=4 << 30))
    return found


@pytest.fixture
def accounts(host: Ec2Site) -> AccountSupervisor:
    return AccountSupervisor(host.settings, every=QUICK)


@pytest.fixture
def site(host: Ec2Site, accounts: AccountSupervisor) -> Iterator[Site]:
    """What the service is made of, without the sockets."""
    opened = Site.open(host.site, "https://site.example:1", lambda: datetime.now(UTC), accounts)
    yield opened
    opened.close()


def told(site: Site, where: str = "ec2") -> str:
    """What would come of an order."""
    document = {"image": "star/hello@1.0", "placement_options": {"where": where}}
    try:
        trial = site.admission.try_out(validate(DeploymentRequest, document, "request"), LOCAL_OPERATOR)
    except DeployerError as exc:
        return str(exc)
    return f"{trial.placed}: {' '.join(trial.placement)}"


def says(site: Site, wanted: str) -> Callable[[], bool]:
    return lambda: any(wanted in problem for problem in site.status().problems)


def pools(site: Site) -> list[str]:
    """The accounts that work."""
    return [node.name for node in site.store.read(list_nodes) if node.kind == "ec2" and node.reported is not None]


@pytest.mark.timeout(240)
def test_the_file_is_followed_while_the_service_runs(
    host: Ec2Site, site: Site, accounts: AccountSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    path, burst = host.settings.accounts, host.account
    with accounts.run(site):
        assert told(site) == "the site has no accounts at EC2 now"
        assert site.status().problems == ()

        accounts_file(path, burst)
        wait_for(lambda: pools(site) == ["burst"], 60)
        assert told(site).startswith("True: ")

        accounts_file(path, burst.model_copy(update={"cap": "0.001"}), burst.model_copy(update={"name": "more"}))
        assert "than the 0.001 USD" in told(site)  # at once
        wait_for(lambda: pools(site) == ["burst", "more"], 60)

        path.write_text("[[account]]\nname = 7\n")
        assert says(site, "changes of the EC2 accounts file are not in force: accounts ")()
        assert "than the 0.001 USD" in told(site)
        assert "the last good version stays in force" in caplog.text

        accounts_file(path, burst.model_copy(update={"region": "us-east-1"}))
        wait_for(says(site, "the account burst has another region"), 60)
        accounts_file(path, burst)
        wait_for(lambda: site.status().problems == (), 60)
        assert told(site).startswith("True: ")

        path.unlink()
        assert "the site has no accounts at EC2 now" in told(site)
        assert "the site has no accounts at EC2 now" in told(site, "local-then-ec2")
        assert site.status().problems == ()


def test_an_account_that_cannot_be_worked_is_told_of_and_the_others_go_on(
    host: Ec2Site, site: Site, accounts: AccountSupervisor
) -> None:
    site.store.write(add_node, "taken", {})
    accounts_file(host.settings.accounts, host.account.model_copy(update={"name": "taken"}), host.account)
    with accounts.run(site):
        wait_for(lambda: pools(site) == ["burst"], 60)
        assert says(site, "account name taken is already a node's name; choose another name")()


def test_a_service_does_not_begin_with_a_file_that_it_cannot_use(
    host: Ec2Site, site: Site, accounts: AccountSupervisor
) -> None:
    host.settings.accounts.write_text("nonsense")
    with pytest.raises(PolicyUnusable, match="accounts "), accounts.run(site):
        time.sleep(0)
