"""Errors between a site and Amazon EC2. Their messages never hold a credential."""

from deployer.errors import DeployerError
from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE


class AwsFailed(DeployerError, code="aws-failed", status=502):
    """AWS refused or failed a request; the message names the request and AWS's reason.

    Attributes:
        fault: AWS's code for the reason ("InvalidAMIName.Duplicate"), or empty without an answer.
    """

    fault: str = ""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


class AwsMissing(AwsFailed, code="aws-missing", status=502):
    """AWS does not know the resource, or not yet: a new one may take seconds to be known everywhere."""


class AwsThrottled(AwsFailed, code="aws-throttled", status=503, exit_code=EXIT_UNAVAILABLE):
    """AWS still throttles requests after all retries."""


class AwsUnreachable(AwsFailed, code="aws-unreachable", status=503, exit_code=EXIT_UNAVAILABLE):
    """AWS does not answer after all retries: connections fail, or answers are late or truncated."""


class AwsDenied(AwsFailed, code="aws-denied", status=502, exit_code=EXIT_REFUSED):
    """Credentials are missing, AWS does not accept them, or they do not allow the request."""


class SnapshotFailed(DeployerError, code="snapshot-failed", status=502):
    """A disk cannot become a snapshot, or a snapshot differs from the expected one."""


class SnapshotGone(SnapshotFailed, code="snapshot-gone"):
    """The snapshot that was being uploaded can no longer be written; its uploaded blocks are lost."""


class Ec2RecordsUnusable(DeployerError, code="ec2-ledger-unusable", status=500):
    """The site's records of its resources at EC2 cannot be read or written."""
