"""Machines and deployments as the API shows them.

A view has the fields that it shares with what the site stores (`DeployedMachine`), and none of those that the site alone
keeps (`SiteMachine`). Secrets are not shown: a machine's for the context broker never, and user-data, which may hold
passwords, to the deployment's owner alone.
"""

from typing import Any, Self

from pydantic import BaseModel

from deployer.machine.state import MachineState
from deployer.site.model.principal import Principal
from deployer.site.model.records import DeployedMachine, Deployment, MachineMigration, MachineSave, SiteMachine


class MachineView(DeployedMachine):
    """A machine.

    Attributes:
        saves: the last ones, the oldest first.
        migration: its last migration; None where no other node has anything of it.
        migrating: whether that is under way.
    """

    saves: tuple[MachineSave, ...] = ()
    migration: MachineMigration | None = None
    migrating: bool = False

    @classmethod
    def of(cls, machine: SiteMachine) -> Self:
        """A machine as every principal sees it who may see it at all."""
        return cls(
            **(_shared(DeployedMachine, machine) | {"held": machine.withheld}),
            saves=tuple(MachineSave(**_shared(MachineSave, one)) for one in machine.saves),
            migration=machine.migration and MachineMigration(**_shared(MachineMigration, machine.migration)),
            migrating=machine.migrating is not None,
        )

    @property
    def known(self) -> tuple[str, ...]:
        """Its addresses for people: as its node sees them, else as its guest publishes them. No certificate names the latter."""
        return self.addresses or (self.guest_addresses if self.state is MachineState.RUNNING else ())


class DeploymentView(Deployment):
    """A deployment as a principal sees it: `request` without user-data unless the principal is the owner."""

    @classmethod
    def of(cls, deployment: Deployment, who: Principal) -> Self:
        """A deployment as a principal sees it."""
        request = deployment.request
        if who.identity != deployment.owner.identity:
            request = request.model_copy(update={"user_data": None})
        return cls(**(_shared(cls, deployment) | {"request": request}))


def _shared(shown: type[BaseModel], kept: BaseModel) -> dict[str, Any]:
    """The values of a stored document for the fields of what is shown of it."""
    return {name: getattr(kept, name) for name in shown.model_fields}
