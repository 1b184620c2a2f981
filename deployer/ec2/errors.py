"""Everything that can go wrong between a site and Amazon EC2. No message ever holds a credential."""

from deployer.errors import DeployerError
from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE


class AwsFailed(DeployerError, code="aws-failed", status=502):
    """AWS does not do what was asked; the message says what that was, and AWS's own reason.

    Attributes:
        fault: AWS's code for the reason ("InvalidAMIName.Duplicate"), or empty where there was no answer.
    """

    fault: str = ""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


class AwsMissing(AwsFailed, code="aws-missing", status=502):
    """AWS knows of no such thing, or not yet: what was just made may take seconds to be known everywhere."""


class AwsThrottled(AwsFailed, code="aws-throttled", status=503, exit_code=EXIT_UNAVAILABLE):
    """AWS goes on saying that there are too many requests, after every pause that we had patience for."""


class AwsUnreachable(AwsFailed, code="aws-unreachable", status=503, exit_code=EXIT_UNAVAILABLE):
    """AWS does not answer: no connection, no answer in time, or answers cut short, again and again."""


class AwsDenied(AwsFailed, code="aws-denied", status=502, exit_code=EXIT_REFUSED):
    """There are no credentials, or AWS does not accept them, or they do not allow what was asked."""


class SnapshotFailed(DeployerError, code="snapshot-failed", status=502):
    """A disk cannot be made a snapshot, or a snapshot is not what it should be."""


class SnapshotGone(SnapshotFailed, code="snapshot-gone"):
    """The snapshot that was being written is none that can be written any more; what was sent to it is lost."""


class Ec2RecordsUnusable(DeployerError, code="ec2-ledger-unusable", status=500):
    """What this site remembers of its snapshots cannot be read or written."""
