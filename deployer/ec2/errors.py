"""Everything that can go wrong between a site and Amazon EC2. No message ever holds a credential."""

from deployer.errors import DeployerError
from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE


class AwsFailed(DeployerError):
    """AWS does not do what was asked; the message says what that was, and AWS's own reason.

    Attributes:
        fault: AWS's code for the reason ("InvalidAMIName.Duplicate"), or empty where there was no answer.
    """

    code, status = "aws-failed", 502
    fault: str = ""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


class AwsMissing(AwsFailed):
    """AWS knows of no such thing, or not yet: what was just made may take seconds to be known everywhere."""

    code, status = "aws-missing", 502


class AwsThrottled(AwsFailed):
    """AWS goes on saying that there are too many requests, after every pause that we had patience for."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "aws-throttled", 503


class AwsUnreachable(AwsFailed):
    """AWS does not answer: no connection, no answer in time, or answers cut short, again and again."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "aws-unreachable", 503


class AwsDenied(AwsFailed):
    """There are no credentials, or AWS does not accept them, or they do not allow what was asked."""

    exit_code = EXIT_REFUSED
    code, status = "aws-denied", 502


class SnapshotFailed(DeployerError):
    """A disk cannot be made a snapshot, or a snapshot is not what it should be."""

    code, status = "snapshot-failed", 502


class SnapshotGone(SnapshotFailed):
    """The snapshot that was being written is none that can be written any more; what was sent to it is lost."""

    code = "snapshot-gone"


class Ec2RecordsUnusable(DeployerError):
    """What this site remembers of its snapshots cannot be read or written."""

    code, status = "ec2-ledger-unusable", 500
