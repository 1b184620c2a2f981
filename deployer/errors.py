"""Everything that `deployer` raises for the world's faults.

Errors that cross the wire between a command and the node's service have a stable `code` (the end of their RFC 9457
problem type) and carry their data as plain attributes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from signer.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_USAGE


class DeployerError(Exception):
    """Base of all errors of this package."""

    exit_code: ClassVar[int] = EXIT_FAILED
    code: ClassVar[str] = "deployment-failed"
    status: ClassVar[int] = 500
    """The HTTP status that a node answers with."""


class Misused(DeployerError):
    """The command or request does not make sense as given."""

    exit_code = EXIT_USAGE
    code, status = "deployment-misused", 400


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

    def __init__(self, message: str, decision: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.decision = decision


class MachineNotFound(DeployerError):
    """There is no such machine on this node."""

    code, status = "machine-not-found", 404


class MachineConflict(DeployerError):
    """The machine is not in a state in which that can be done."""

    code, status = "machine-conflict", 409


class NoRoom(DeployerError):
    """No node, or too few, have room for what was asked; the message says what is lacking."""

    exit_code = EXIT_UNAVAILABLE
    code, status = "no-room", 409


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


class Cancelled(DeployerError):
    """Whoever asked for a deployment went away; what was begun has been undone."""

    code, status = "cancelled", 499
