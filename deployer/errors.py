"""Everything that `deployer` raises for the world's faults.

Errors that cross the wire between a command and the node's service have a stable `code` (the end of their RFC 9457
problem type) and carry their data as plain attributes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_USAGE, PartitaError


class DeployerError(PartitaError):
    """Base of all errors of this package."""

    code = "deployment-failed"


class PolicyUnusable(DeployerError):
    """A policy cannot be read, or says something that no policy can mean; the message names its file and place."""

    exit_code = EXIT_USAGE
    code, status = "policy-unusable", 500


class UserDataRefused(DeployerError):
    """What a requester offers to a guest's first boot is not of a form that a node hands on."""

    exit_code = EXIT_REFUSED
    code, status = "user-data-refused", 422


class Refused(DeployerError):
    """The site's policy does not accept a deployment.

    Attributes:
        decision: the decision as JSON, every rule with its verdict, where one was reached.
    """

    exit_code = EXIT_REFUSED
    code, status = "refused", 403
    carried: ClassVar[Mapping[str, type]] = {"decision": dict}
    decision: Mapping[str, Any] | None = None

    def __init__(self, message: str, decision: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.decision = decision


class MachineNotFound(DeployerError):
    """There is no such machine on this node."""

    code, status = "machine-not-found", 404


class MachineConflict(DeployerError):
    """The machine is not in a state in which that can be done."""

    code, status = "machine-conflict", 409


class NoCapacity(DeployerError):
    """No node, or too few, have room for what was asked; the message says what is lacking."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "no-room", 409


class OverQuota(DeployerError):
    """Who asks would hold more than the site grants; the message says which quota, what is held, and what was asked."""

    exit_code = EXIT_REFUSED
    code, status = "over-quota", 403


class DeploymentNotFound(DeployerError):
    """There is no such deployment at this site."""

    code, status = "deployment-not-found", 404


class NodeNotFound(DeployerError):
    """There is no such node at this site."""

    code, status = "node-not-found", 404


class ClusterNotFound(DeployerError):
    """There is no such cluster at this site."""

    code, status = "cluster-not-found", 404


class JoinRefused(DeployerError):
    """A node may not join, or not any more: its token is unknown, used or too old, or the node has left."""

    exit_code = EXIT_REFUSED
    code, status = "join-refused", 403


class SiteUnavailable(DeployerError):
    """The site cannot be reached, or its database cannot be used now."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "site-unavailable", 503


class NotAuthenticated(DeployerError):
    """Nobody knows who asks. What is said of it helps no guesser: the reason is in the service's log alone.

    Attributes:
        challenge: what the answer's WWW-Authenticate says (RFC 6750, section 3).
    """

    exit_code = EXIT_REFUSED
    code, status = "not-authenticated", 401
    challenge: str = 'Bearer realm="partita"'

    def __init__(self, message: str, challenge: str = challenge) -> None:
        super().__init__(message)
        self.challenge = challenge

    @property
    def headers(self) -> Mapping[str, str]:
        """How to say who one is."""
        return {"WWW-Authenticate": self.challenge}


class Forbidden(DeployerError):
    """The site knows who asks, and its rights do not allow that; the message says which grants come near."""

    exit_code = EXIT_REFUSED
    code, status = "forbidden", 403


class TooManyRequests(DeployerError):
    """Somebody asks more often than a site answers.

    Attributes:
        retry_after: whole seconds after which the next request is answered.
    """

    exit_code = EXIT_UNAVAILABLE
    code, status = "too-many-requests", 429
    carried: ClassVar[Mapping[str, type]] = {"retry_after": int}
    retry_after: int = 1

    def __init__(self, message: str, retry_after: int = retry_after) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """When to ask again."""
        return {"Retry-After": str(self.retry_after)}


class FencingFailed(DeployerError):
    """The command that cuts a lost node off did not do so; the message says what came of it."""

    code, status = "fencing-failed", 500


class AssemblyFailed(DeployerError):
    """A machine's disks cannot be put together on this node."""

    code, status = "assembly-failed", 500


class BackendFailed(DeployerError):
    """The hypervisor cannot do what was asked; the message is its own reason."""

    code, status = "backend-failed", 502


class NodeUnavailable(DeployerError):
    """The node's service cannot be reached; the message says how to start it."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "node-unavailable", 503


class MigrationFailed(DeployerError):
    """A machine cannot be brought from another node; it rests where it was.

    Attributes:
        again: whether it may work when it is tried again.
    """

    code, status = "move-failed", 409
    carried: ClassVar[Mapping[str, type]] = {"again": bool}
    again: bool = False

    def __init__(self, message: str, *, again: bool = again) -> None:
        super().__init__(message)
        self.again = again


class Cancelled(DeployerError):
    """Whoever asked for a deployment went away; what was begun has been undone."""

    code, status = "cancelled", 499


class CannotBoot(DeployerError):
    """EC2 cannot boot the image, or has no machine that would fit; the message says why and what would help."""

    exit_code = EXIT_REFUSED
    code, status = "ec2-cannot-boot", 422


class NoAccount(DeployerError):
    """Nobody has given the requester an account at EC2, or there is none of that name."""

    exit_code = EXIT_REFUSED
    code, status = "ec2-no-account", 403


class OverBudget(DeployerError):
    """What was asked for would cost more than the account may spend, or nobody knows what it would cost."""

    exit_code = EXIT_REFUSED
    code, status = "ec2-over-budget", 403
