"""The settings section `site`: where a site keeps what it knows, where it listens, whom it asks, and how patient it is."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from catalog.settings import LISTEN_OR_NOT
from deployer.machine.network import Network
from signer.documents import Document
from signer.runtime.settings import default_file, state_directory
from signer.runtime.units import DurationText, parse_duration

OvercommitFactor = Annotated[float, Field(ge=0.1, le=64.0)]
"""How much of a node's cores or memory may be promised: 1.0 is what it has."""

PerSecond = Annotated[float, Field(gt=0, le=1e6)]

_NAME = re.compile(r"[A-Za-z0-9.:-]{1,253}")

LISTEN = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"


def _network(text: str) -> str:
    Network.parse(text)
    return text


def _names(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not texts:
        raise ValueError("is empty; a service has a name, such as that of its machine")
    for text in texts:
        if not _NAME.fullmatch(text):
            raise ValueError(f"{text[:80]!r} is neither a host name nor an address")
    return texts


def _whole_second(text: str) -> str:
    if parse_duration(text) < 1:
        raise ValueError("is less than a second")
    return text


class SiteSettings(Document):
    """Settings of the site's service, and of commands that talk to one.

    Attributes:
        directory: where the service keeps its database, its CA and its socket.
        listen: address and port for HTTPS; port 0 takes a free one.
        socket: where it listens for its operator; `site.sock` in the directory if not set.
        url: the site that commands talk to; empty for the one on this machine, through its socket.
        ca: the certificate of the site's CA, by which commands believe that URL; else what this system trusts.
        token: a file with the bearer token that commands show; else it is looked for as WLCG's bearer discovery says.
        client_certificate, client_key: PEM files of an X.509 certificate or proxy that commands show instead of a token.
        names: host names and addresses of the service, for the certificate that its own CA gives it.
        certificate, key: PEM files of a certificate from elsewhere, instead of that one.
        database: an SQLAlchemy URL; empty for SQLite in the directory.
        catalog: the URL of the catalog whose images may be deployed.
        mirrors: URLs of mirrors of it.
        tuf_root: the pinned root of its freshness metadata; else what `site trust-root` pinned.
        credential: a file with the site's credential for the catalog; without it the site sees what is public.
        policy: the acceptance policy's file; without one everything is refused.
        blocked: the site's block list; it need not be there.
        rights: who may ask for what; without it only the operator may.
        issuers: whose tokens are believed; without it no token is.
        issuers_ca: PEM file of the CAs by which token issuers' servers are believed, instead of those of this system.
        audience: what tokens must be made for; empty for the URL that the site calls itself.
        grid_certificates: directory of the CAs whose certificates and proxies people may show; none if not set.
        vomsdir: directory of the VOMS servers that are believed.
        person_rate, address_rate: requests each second that one person, and one address, may make in the long run.
        failure_rate: how many of those of one address that say nothing that counts are answered and logged one by one.
        network, lifetime: what machines get when nobody says.
        overcommit_cores, overcommit_memory: how much of a node's may be promised; 1.0 is what it has.
        lost_after: how long a node may be silent before it is lost.
        lost_machines: what then becomes of its machines: "wait" for it, "fail" them, or "replace" them elsewhere.
        fence_after: where lost machines are not waited for, how long a node that hears nothing of the site lets its machines
            run; nothing comes in their place before that.
        fence_margin: how much longer the site waits than the node, for what the node needs to pause or end them.
        fence_then: what the node then does to them: "pause" or "end".
        fence_command: instead, a program that makes sure that a lost node runs nothing any more, and its arguments; the
            node's name, its UUID and its labels (name=value) come after them. It ends with 0 when that is so.
        fence_timeout: how long that program may take.
        keep: how long what has ended is remembered after its time: machines, clusters, their stories, keys and tokens.
        keep_audit: how long what people did is remembered.
        warn_before: how long before its machines' end an owner is told.
        node_certificates: how long a node's certificate holds; it is renewed when a third is left.
        metrics: address and port where the service gives its figures to Prometheus; empty for none.
        broker_listen: address and port of the context broker as guests reach it; empty for none.
        broker_url: how guests reach it; empty for what `broker_listen` says.
    """

    directory: Path = Field(default_factory=lambda: state_directory("site"))
    listen: Annotated[str, Field(pattern=LISTEN)] = "127.0.0.1:7443"
    socket: Path | None = None
    url: Annotated[str, Field(pattern=r"^(https?://.*)?$")] = ""
    ca: Path | None = None
    token: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    names: Annotated[tuple[str, ...], AfterValidator(_names)] = ("localhost", "127.0.0.1")
    certificate: Path | None = None
    key: Path | None = None
    database: str = ""
    catalog: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:7070"
    mirrors: tuple[Annotated[str, Field(pattern=r"^https?://")], ...] = ()
    tuf_root: Path | None = None
    credential: Path | None = None
    policy: Path = Field(default_factory=lambda: default_file().parent / "policy.toml")
    blocked: Path = Field(default_factory=lambda: default_file().parent / "blocked.toml")
    rights: Path = Field(default_factory=lambda: default_file().parent / "rights.toml")
    issuers: Path = Field(default_factory=lambda: default_file().parent / "issuers.toml")
    issuers_ca: Path | None = None
    audience: str = ""
    grid_certificates: Path | None = None
    vomsdir: Path = Path("/etc/grid-security/vomsdir")
    person_rate: PerSecond = 20.0
    address_rate: PerSecond = 100.0
    failure_rate: PerSecond = 0.5
    network: Annotated[str, AfterValidator(_network)] = "user"
    lifetime: DurationText = "1h"
    overcommit_cores: OvercommitFactor = 1.0
    overcommit_memory: OvercommitFactor = 1.0
    lost_after: DurationText = "2m"
    lost_machines: Literal["wait", "fail", "replace"] = "wait"
    fence_after: Annotated[DurationText, AfterValidator(_whole_second)] = "1m"
    fence_margin: DurationText = "30s"
    fence_then: Literal["pause", "end"] = "pause"
    fence_command: tuple[str, ...] = ()
    fence_timeout: DurationText = "1m"
    keep: DurationText = "90d"
    keep_audit: DurationText = "730d"
    warn_before: DurationText = "10m"
    node_certificates: DurationText = "90d"
    metrics: Annotated[str, Field(pattern=LISTEN_OR_NOT)] = ""
    broker_listen: Annotated[str, Field(pattern=rf"{LISTEN[:-1]}$|^$")] = ""
    broker_url: Annotated[str, Field(pattern=r"^(https?://.*)?$")] = ""

    @property
    def database_url(self) -> str:
        """The database as SQLAlchemy is told of it."""
        return self.database or f"sqlite:///{(self.directory / 'site.db').absolute()}"

    @property
    def pinned_root(self) -> Path:
        """The file with the root that this site believes its catalog by."""
        return self.tuf_root or self.freshness / "root.json"

    @property
    def freshness(self) -> Path:
        """The directory of what was verified to be current."""
        return self.directory / "freshness"
