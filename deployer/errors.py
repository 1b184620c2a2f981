"""Everything that `deployer` raises for the world's faults.

Errors that cross the wire between a command and the node's service have a stable `code` (the end of their RFC 9457
problem type) and carry their data as plain attributes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from signer.errors import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_USAGE, PartitaError


class DeployerError(PartitaError, code="deployment-failed"):
    """Base of all errors of this package."""


class PolicyUnusable(DeployerError, code="policy-unusable", status=500, exit_code=EXIT_USAGE):
    """A policy cannot be read, or says something that no policy can mean; the message names its file and place."""


class UserDataRefused(DeployerError, code="user-data-refused", status=422, exit_code=EXIT_REFUSED):
    """What a requester offers to a guest's first boot is not of a form that a node hands on."""


class Refused(DeployerError, code="refused", status=403, exit_code=EXIT_REFUSED):
    """The site's policy does not accept a deployment.

    Attributes:
        decision: the decision as JSON, every rule with its verdict, where one was reached.
    """

    carried: ClassVar[Mapping[str, type]] = {"decision": dict}
    decision: Mapping[str, Any] | None = None

    def __init__(self, message: str, decision: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.decision = decision


class MachineNotFound(DeployerError, code="machine-not-found", status=404):
    """There is no such machine on this node."""


class MachineConflict(DeployerError, code="machine-conflict", status=409):
    """The machine is not in a state in which that can be done."""


class NoCapacity(DeployerError, code="no-capacity", status=409, exit_code=EXIT_UNAVAILABLE):
    """No node, or too few, have capacity for what was asked; the message says what is lacking."""


class OverQuota(DeployerError, code="over-quota", status=403, exit_code=EXIT_REFUSED):
    """The requester would hold more than the site grants; the message says which quota, what is held, and what was asked."""


class DeploymentNotFound(DeployerError, code="deployment-not-found", status=404):
    """There is no such deployment at this site."""


class NodeNotFound(DeployerError, code="node-not-found", status=404):
    """There is no such node at this site."""


class ClusterNotFound(DeployerError, code="cluster-not-found", status=404):
    """There is no such cluster at this site."""


class JoinRefused(DeployerError, code="join-refused", status=403, exit_code=EXIT_REFUSED):
    """A node may not join, or not any more: its token is unknown, used or too old, or the node has left."""


class SiteUnavailable(DeployerError, code="site-unavailable", status=503, exit_code=EXIT_UNAVAILABLE):
    """The site cannot be reached, or its database cannot be used now."""


class NotAuthenticated(DeployerError, code="not-authenticated", status=401, exit_code=EXIT_REFUSED):
    """The requester is not authenticated. The message gives no hints to attackers: the reason is in the service's log alone.

    Attributes:
        challenge: what the answer's WWW-Authenticate says (RFC 6750, section 3).
    """

    challenge: str = 'Bearer realm="partita"'

    def __init__(self, message: str, challenge: str = challenge) -> None:
        super().__init__(message)
        self.challenge = challenge

    @property
    def headers(self) -> Mapping[str, str]:
        """How to say who one is."""
        return {"WWW-Authenticate": self.challenge}


class Forbidden(DeployerError, code="forbidden", status=403, exit_code=EXIT_REFUSED):
    """The site knows who asks, and its rights do not allow that; the message says which grants come near."""


class TooManyRequests(DeployerError, code="too-many-requests", status=429, exit_code=EXIT_UNAVAILABLE):
    """A requester sends more requests than the site allows.

    Attributes:
        retry_after: whole seconds after which the next request is answered.
    """

    carried: ClassVar[Mapping[str, type]] = {"retry_after": int}
    retry_after: int = 1

    def __init__(self, message: str, retry_after: int = retry_after) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """When to ask again."""
        return {"Retry-After": str(self.retry_after)}


class FencingFailed(DeployerError, code="fencing-failed", status=500):
    """The command that cuts a lost node off did not do so; the message says what came of it."""


class AssemblyFailed(DeployerError, code="assembly-failed", status=500):
    """A machine's disks cannot be put together on this node."""


class BackendFailed(DeployerError, code="backend-failed", status=502):
    """The hypervisor cannot do what was asked; the message is its own reason."""


class NodeUnavailable(DeployerError, code="node-unavailable", status=503, exit_code=EXIT_UNAVAILABLE):
    """The node's service cannot be reached; the message says how to start it."""


class MigrationFailed(DeployerError, code="migration-failed", status=409):
    """A machine cannot be brought from another node; it rests where it was.

    Attributes:
        again: whether it may work when it is tried again.
    """

    carried: ClassVar[Mapping[str, type]] = {"again": bool}
    again: bool = False

    def __init__(self, message: str, *, again: bool = again) -> None:
        super().__init__(message)
        self.again = again


class Cancelled(DeployerError, code="cancelled", status=499):
    """The requester of a deployment has disconnected; all steps so far were undone."""


class CannotBoot(DeployerError, code="ec2-cannot-boot", status=422, exit_code=EXIT_REFUSED):
    """EC2 cannot boot the image, or has no machine that would fit; the message says why and what would help."""


class NoAccount(DeployerError, code="ec2-no-account", status=403, exit_code=EXIT_REFUSED):
    """No rule gives the requester an account at EC2, or no account has that name."""


class OverBudget(DeployerError, code="ec2-over-budget", status=403, exit_code=EXIT_REFUSED):
    """What was asked for would cost more than the account may spend, or its cost is not known."""
