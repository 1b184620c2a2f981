"""The door to AWS: which failures are repeated, which errors they end in, and that no credential gets out of it."""

import logging
import secrets
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from pydantic import ValidationError

from deployer.ec2.aws.access import AwsAccess
from deployer.ec2.aws.client import AwsClient
from deployer.ec2.errors import AwsDenied, AwsFailed, AwsMissing, AwsUnreachable
from signer.runtime.retry import RetryPolicy
from tests.support.aws.fake_aws import QUICK, REGION, SECRET, AwsWorld

SHORT = RetryPolicy(attempts=3, base=0.001, max_pause=0.002)


def test_a_list_has_all_its_pages(world: AwsWorld, profile: str) -> None:
    aws = world.aws(profile)
    for number in range(3):
        aws.ec2("create_volume", Size=number + 1, AvailabilityZone=f"{REGION}a")
    pages = [one["Size"] for one in aws.ec2_list("describe_volumes", "Volumes", MaxResults=5)]
    assert sorted(pages) == [1, 2, 3]


def test_pages_are_followed_and_end() -> None:
    class Paged(AwsClient):
        """Three pages, or no end of them."""

        def __init__(self, pages: int) -> None:
            super().__init__(AwsAccess(region=REGION))
            self.asked: list[dict[str, Any]] = []
            self.count = pages

        def _send(self, service: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            assert (service, operation) == ("ec2", "describe_things")
            self.asked.append(parameters)
            number = len(self.asked)
            return {"Things": [{"n": number}]} | ({"NextToken": str(number)} if number < self.count else {})

    paged = Paged(3)
    assert [one["n"] for one in paged.ec2_list("describe_things", "Things", MaxResults=1)] == [1, 2, 3]
    assert paged.asked[1:] == [{"MaxResults": 1, "NextToken": "1"}, {"MaxResults": 1, "NextToken": "2"}]
    with pytest.raises(AwsFailed, match="does not end"):
        list(Paged(10**9).ec2_list("describe_things", "Things"))


def test_who_is_not_there_is_said() -> None:
    aws = AwsClient(AwsAccess(region=REGION), endpoint="http://127.0.0.1:1", patience=SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with pytest.raises(AwsUnreachable, match="check the network"):
            aws.ec2("describe_regions")


def test_an_answer_that_takes_too_long_is_given_up(world: AwsWorld) -> None:
    world.faults(rate=1.0, kinds=["slow"], slow=2.0)
    aws = AwsClient(
        world.access(),
        endpoint=world.url,
        patience=RetryPolicy(attempts=2, base=0.01, max_pause=0.01),
        read_timeout=0.2,
    )
    with pytest.raises(AwsUnreachable, match="incomplete answer"):
        aws.ec2("describe_regions")


def test_what_is_missing_is_said_and_may_be_waited_for(world: AwsWorld, profile: str) -> None:
    waited: list[float] = []
    aws = AwsClient(
        world.access(profile),
        endpoint=world.url,
        patience=RetryPolicy(attempts=3, base=0.2, max_pause=20.0),
        sleep=waited.append,
    )
    with pytest.raises(AwsMissing, match=r"InvalidSnapshot\.NotFound") as raised:
        aws.ec2("describe_snapshots", SnapshotIds=["snap-0123456789abcdef0"])
    assert raised.value.fault == "InvalidSnapshot.NotFound"
    assert waited == []
    with pytest.raises(AwsMissing):
        aws.ec2(
            "describe_snapshots", again=frozenset({"InvalidSnapshot.NotFound"}), SnapshotIds=["snap-0123456789abcdef0"]
        )
    assert len(waited) == 2


def test_aws_reasons_are_told_apart(world: AwsWorld, profile: str) -> None:
    """The EBS direct APIs have one code for all that is not valid, and a reason beside it."""
    aws = world.aws(profile)
    parent = "snap-0123456789abcdef0"
    with pytest.raises(AwsFailed, match="ValidationException: no such parent") as raised:
        aws.ebs("start_snapshot", VolumeSize=1, ParentSnapshotId=parent, ClientToken="x")
    assert raised.value.fault == "ValidationException.INVALID_SNAPSHOT_ID"


def test_what_boto_refuses_to_send_is_an_error_of_ours(world: AwsWorld) -> None:
    with pytest.raises(AwsFailed, match="Parameter validation failed"):
        world.aws().ec2("describe_snapshots", SnapshotIds=7)


# Who we are


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": ""},
        {"region": "somewhere"},
        {"region": REGION, "role_arn": "arn:aws:s3:::bucket"},
        {"region": REGION, "endpoint": "ftp://x"},
        {"region": REGION, "secret": "x"},
    ],
)
def test_an_access_that_means_nothing_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        AwsAccess(**wrong)


def test_profiles_are_accounts_of_their_own(world: AwsWorld) -> None:
    one, two = world.aws(world.profile()), world.aws(world.profile())
    assert one.call("sts", "get_caller_identity")["Account"] != two.call("sts", "get_caller_identity")["Account"]
    one.ec2("create_volume", Size=1, AvailabilityZone=f"{REGION}a")
    assert not list(two.ec2_list("describe_volumes", "Volumes"))


def test_a_role_is_assumed(world: AwsWorld) -> None:
    role = "arn:aws:iam::210987654321:role/partita"
    begun = world.asked()
    aws = AwsClient(world.access(role_arn=role, external_id="site-1"), endpoint=world.url, patience=QUICK)
    assert aws.call("sts", "get_caller_identity")["Account"] == "210987654321"
    aws.ec2("describe_regions")
    assert sum(line["operation"] == "AssumeRole" for line in world.log(begun)) == 1


def test_a_role_that_cannot_be_assumed_is_refused(world: AwsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails while a request is signed is one of our errors too."""
    aws = AwsClient(world.access(role_arn="arn:aws:iam::210987654321:role/partita"), endpoint=world.url, patience=SHORT)
    world.faults(rate=1.0, kinds=["error"], only=["AssumeRole"])
    with pytest.raises(AwsFailed, match="ec2 describe_regions"):
        aws.ec2("describe_regions")


def test_without_credentials_nothing_is_sent(world: AwsWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for access in (world.access(""), world.access("no-such-profile")):
        begun = world.asked()
        with pytest.raises(AwsDenied, match="no usable AWS credentials"):
            AwsClient(access, endpoint=world.url, patience=SHORT).ec2("describe_key_pairs")
        # Answers that earlier tests did not wait for may come into the log now, but none of them asked for this.
        assert [line for line in world.log(begun) if line["operation"] == "DescribeKeyPairs"] == []


def test_credentials_are_in_no_log_and_no_error(
    world: AwsWorld, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is logged, and whatever AWS says to a bad signature: it repeats what was signed, token and all."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger().setLevel(logging.DEBUG)
    aws = AwsClient(world.access(role_arn="arn:aws:iam::210987654321:role/partita"), endpoint=world.url, patience=SHORT)
    image = aws.ec2("register_image", Name=secrets.token_hex(8), RootDeviceName="/dev/xvda")["ImageId"]
    aws.ec2("run_instances", ImageId=image, MinCount=1, MaxCount=1, UserData="a secret of a user")
    keys = aws._session.get_credentials().get_frozen_credentials()  # type: ignore[union-attr]
    said = []
    for code in ("SignatureDoesNotMatch", "InvalidParameterValue", "AccessDenied"):
        response = {
            "Error": {"Code": code, "Message": f"you signed {keys.token} with {keys.secret_key}"},
            "ResponseMetadata": {"HTTPStatusCode": 403, "HTTPHeaders": {}},
        }

        def failing(*_: Any, response: dict[str, Any] = response) -> Any:
            raise botocore.exceptions.ClientError(response, "DescribeRegions")

        monkeypatch.setattr(aws, "_send", failing)
        with pytest.raises(AwsFailed) as raised:
            aws.ec2("describe_regions")
        said.append(str(raised.value))
        logging.getLogger().error("it failed", exc_info=raised.value)
    everything = caplog.text + "".join(said) + repr(aws) + repr(aws.access) + str(vars(aws.access))
    for secret in (keys.secret_key, keys.token, SECRET, "a secret of a user"):
        assert secret not in everything
    assert "you signed *** with ***" in said[1]
    assert said[0] == "ec2 describe_regions: SignatureDoesNotMatch"
