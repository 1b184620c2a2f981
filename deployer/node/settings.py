"""The settings section `deploy`: by which rules, on what, and the defaults of machines."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from catalog.settings import LISTEN_OR_NOT
from deployer.machine.network import NetworkSetting
from deployer.web.socket_paths import MAX_SOCKET, short_socket_path
from signer.documents import Document
from signer.runtime.settings import default_file
from signer.runtime.units import ByteSetting, DurationText
from stager.settings import NodeSettings


class DeploySettings(Document):
    """How a node deploys.

    Attributes:
        policy: the acceptance policy's file; without one everything is refused.
        libvirt: a libvirt URI; empty for the driver inside the node's own process.
        accelerator: "auto" takes KVM where a guest really runs under it, "kvm" insists, "tcg" never tries.
        network: the default for machines: none, user, network:NAME or bridge:NAME.
        lifetime: the default lifetime of machines.
        grace: how long a guest may take to power off when its time has come, before it is ended.
        blocked: the site's block list; it need not be there.
        revocations_every: how often revocations are fetched, and running machines looked at for them.
        cores: that machines of a site may have in all; those that this process may use if not set.
        memory: bytes that they may have; what this computer has, less the reserve, if not set.
        reserve: bytes that are left to the computer itself.
        metrics: address and port where the node gives its figures to Prometheus; empty for none.
        socket: where the node's service listens; `node.sock` in the node's directory if not set.
        migration_listen: address and port where the node gives its site's machines to other nodes; empty for none.
        migration_url: how other nodes reach that; empty for what `migration_listen` says.
    """

    policy: Path = Field(default_factory=lambda: default_file().parent / "policy.toml")
    libvirt: str = ""
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    network: NetworkSetting = "user"
    lifetime: DurationText = "1h"
    grace: DurationText = "30s"
    metrics: Annotated[str, Field(pattern=LISTEN_OR_NOT)] = ""
    socket: Path | None = None
    blocked: Path = Field(default_factory=lambda: default_file().parent / "blocked.toml")
    revocations_every: DurationText = "1m"
    cores: Annotated[int, Field(ge=0)] | None = None
    memory: ByteSetting | None = None
    reserve: ByteSetting = 512 << 20
    migration_listen: Annotated[str, Field(pattern=LISTEN_OR_NOT)] = ""
    migration_url: Annotated[str, Field(pattern=r"^(https://.*)?$")] = ""

    def socket_path(self, settings: NodeSettings) -> Path:
        """Where a node with these settings listens, and where commands look for it."""
        return self.socket or short_socket_path(settings.directory, "node.sock", MAX_SOCKET)
