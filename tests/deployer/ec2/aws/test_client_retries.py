"""Which failures of AWS are repeated, how often and how long."""

import secrets

import pytest

from deployer.ec2.aws.client import AwsClient
from deployer.ec2.errors import AwsFailed, AwsThrottled, AwsUnreachable
from signer.runtime.retry import RetryPolicy
from tests.support.aws.fake_aws import AwsWorld

SHORT = RetryPolicy(attempts=3, base=0.001, max_pause=0.002)


@pytest.mark.parametrize("kind", ["throttle", "error", "done-error", "cut", "no-answer", "cut-request"])
def test_what_may_help_is_repeated(world: AwsWorld, kind: str) -> None:
    """A third of all requests fail, and none of the callers notices."""
    world.faults(rate=0.34, kinds=[kind], seed=7)
    for _ in range(6):
        assert world.aws().ec2("describe_regions")["Regions"]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("throttle", AwsThrottled),
        ("error", AwsFailed),
        ("cut", AwsUnreachable),
        ("no-answer", AwsUnreachable),
        ("cut-request", AwsUnreachable),
    ],
)
def test_what_never_ends_is_an_error_after_so_many_attempts(world: AwsWorld, kind: str, error: type[AwsFailed]) -> None:
    world.faults(rate=1.0, kinds=[kind])
    begun, heard, waited = world.asked(), list[int](), list[float]()
    aws = AwsClient(
        world.access(),
        endpoint=world.url,
        patience=RetryPolicy(attempts=3, base=0.2, max_pause=20.0),
        sleep=waited.append,
        chance=lambda: 0.5,
    )
    with pytest.raises(error, match="ebs start_snapshot: ") as raised:
        aws.ebs("start_snapshot", throttled=lambda: heard.append(1), VolumeSize=1, ClientToken=secrets.token_hex(8))
    assert type(raised.value) is error
    assert world.asked() - begun == 3
    assert waited == [0.1, 0.2]
    assert len(heard) == (3 if kind == "throttle" else 0)
