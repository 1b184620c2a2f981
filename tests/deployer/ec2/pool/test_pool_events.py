"""A pool when machines end, when AWS fails, and when an image is revoked."""

import logging
from datetime import timedelta

import pytest

from deployer.machine.state import MachineState
from deployer.policy.revocations import BlockList, RevocationState
from deployer.protocol.desired_state import DesiredStatus
from tests.support.aws.site_with_pool import Ec2Site, Images
from tests.support.node.service_process import policy


@pytest.mark.slow
def test_a_machine_ends_when_its_time_is_over(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        uuid = host.want(images.hello)
        site.settle()
        host.clock.ahead += timedelta(hours=1)
        site.settle()
        assert (site.state(uuid), site.seen(uuid).reason) == (MachineState.ENDED, "it expired")
        assert site.live() == []


@pytest.mark.slow
def test_an_older_wish_is_not_acted_upon(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        before = host.desired
        uuid = host.want(images.hello)
        site.settle()
        now, host.desired = host.desired, before
        report = site.look()
        assert (report.complete, report.revision) == (False, now.revision)
        host.desired = now
        site.settle()
        assert site.state(uuid) is MachineState.RUNNING


@pytest.mark.slow
def test_a_machine_that_is_cancelled_while_it_is_made_leaves_nothing(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        host.world.faults(latency=0.2)
        uuid = host.want(images.hello)
        site.look()
        host.change(uuid, desired=DesiredStatus.ENDED)
        site.settle()
        host.world.faults()
        site.settle()
        assert site.state(uuid) is MachineState.ENDED
        assert site.live() == []


@pytest.mark.slow
def test_five_percent_faults_are_survived(host: Ec2Site, images: Images) -> None:
    with host.open() as site:
        host.world.faults(rate=0.05, seed=11)
        uuids = [host.want(bundle) for bundle in (images.hello, images.direct, images.update)]
        site.settle()
        for uuid in uuids:
            host.change(uuid, desired=DesiredStatus.STOPPED)
        site.settle()
        for uuid in uuids:
            host.change(uuid, desired=DesiredStatus.RUNNING, reboots=1)
        site.settle(6)
        host.world.faults()
        site.settle()
        assert [site.state(uuid) for uuid in uuids] == [MachineState.RUNNING] * 3
        assert sorted(one.machine for one in site.live()) == sorted(uuids)


def test_no_credential_is_in_any_report_log_or_record(
    host: Ec2Site, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with host.open() as site:
        uuid = host.want(images.hello)
        host.world.faults(rate=0.1, seed=4)
        report = site.settle()
        host.world.faults()
        site.settle()
        bad = host.want(images.rogue)
        report = site.settle()
        assert site.state(uuid) is MachineState.RUNNING
        assert site.state(bad) is MachineState.FAILED
        secrets = [
            line.partition("=")[2].strip()
            for line in host.world.credentials.read_text().splitlines()
            if line.startswith(("aws_secret", "aws_session"))
        ]
        assert secrets
        texts = [caplog.text, report.model_dump_json()]
        texts += [
            path.read_text(errors="replace")
            for path in host.directory.rglob("*")
            if path.suffix in {".json", ".jsonl", ".toml", ".db"}
        ]
        for text in texts:
            assert [secret for secret in secrets if secret in text] == []


@pytest.mark.parametrize(
    ("action", "state"),
    [
        ("destroy", MachineState.ENDED),
        pytest.param("pause", MachineState.STOPPED, marks=pytest.mark.slow),
        pytest.param("notify", MachineState.RUNNING, marks=pytest.mark.slow),
    ],
)
def test_what_is_withdrawn_while_it_runs_is_dealt_with_as_the_policy_says(
    host: Ec2Site, images: Images, action: str, state: MachineState
) -> None:
    host.policy_text = policy(images.star.anchor(), machines=20) + f'[revocations]\nrunning = "{action}"\n'
    with host.open() as site:
        uuid, other = host.want(images.hello), host.want(images.direct)
        site.settle()
        site.withdrawn = RevocationState((), BlockList(images=("star/hello",)))
        site.settle()
        assert site.state(uuid) is MachineState.RUNNING  # it is looked at once a minute
        host.clock.ahead += timedelta(minutes=2)
        site.settle()
        assert (site.state(uuid), site.state(other)) == (state, MachineState.RUNNING)
        host.clock.ahead += timedelta(minutes=20)
        site.settle()
        assert site.state(uuid) is state
        if action != "notify":
            assert "block list" in site.seen(uuid).reason
        audit = (site.opened.directory / "audit.jsonl").read_text()
        assert audit.count('"kind":"exposure"') == 1
