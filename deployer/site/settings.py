"""The settings section `site`: directories, addresses, credentials, trust, defaults and timeouts of a site."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from catalog.settings import LISTEN_OR_NOT
from deployer.machine.network import NetworkSetting
from signer.documents import Document
from signer.runtime.settings import default_file, state_directory
from signer.runtime.units import DurationText, parse_duration

OvercommitFactor = Annotated[float, Field(ge=0.1, le=64.0)]
"""Factor of a node's cores or memory that may be allocated: 1.0 for what it has."""

PerSecond = Annotated[float, Field(gt=0, le=1e6)]

_NAME = re.compile(r"[A-Za-z0-9.:-]{1,253}")

LISTEN = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"


def _names(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not texts:
        raise ValueError("is empty; give the service a name, such as that of its machine")
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
        socket: the Unix socket of its operator; `site.sock` in the directory if not set.
        url: the site that commands talk to; empty for the one on this machine, through its socket.
        ca: CA bundle for `url`; else the CAs that this system trusts.
        token: a file with the bearer token of commands; else found by WLCG's bearer token discovery.
        client_certificate, client_key: PEM files of an X.509 certificate or proxy that commands use instead of a token.
        names: host names and addresses of the service, for the certificate that its own CA gives it.
        certificate, key: PEM files of a certificate from another CA, instead of that one.
        database: an SQLAlchemy URL; empty for SQLite in the directory.
        catalog: the URL of the catalog whose images may be deployed.
        mirrors: URLs of mirrors of it.
        tuf_root: the pinned root of its TUF metadata; else the one that `site trust-root` pinned.
        credential: a file with the site's credential for the catalog; without it the site sees only what is public.
        policy: the acceptance policy's file; without one everything is refused.
        blocked: the site's block list; the file is optional.
        rights: the file of grants; without it only the operator may do anything.
        issuers: the file of trusted token issuers; without it every token is refused.
        issuers_ca: PEM file of the CAs that token issuers' servers are verified against, instead of those of this system.
        audience: that tokens must be made for; empty for the site's URL.
        grid_certificates: directory of the CAs of people's certificates and proxies; without it they are refused.
        vomsdir: directory of the trusted VOMS servers.
        person_rate, address_rate: requests each second that one person, and one address, may make in the long run.
        failure_rate: requests each second of one address without valid credentials that are answered and logged one by one.
        network, lifetime: defaults of machines.
        overcommit_cores, overcommit_memory: factor of a node's that may be allocated; 1.0 for what it has.
        lost_after: how long a node may be silent before it is lost.
        lost_machines: what to do with its machines then: "wait" for it, "fail" them, or "replace" them elsewhere.
        fence_after: unless lost machines are waited for, how long a node without contact to the site lets its machines
            run; they are not replaced before that.
        fence_margin: how much longer the site waits than the node, which needs time to pause or end them.
        fence_then: what the node then does to them: "pause" or "end".
        fence_command: instead, a program that ensures that a lost node runs nothing any more, and its arguments; the
            node's name, its UUID and its labels (name=value) are appended. It exits with 0 on success.
        fence_timeout: how long that program may take.
        keep: how long ended objects are kept after their end: machines, clusters, their events, keys and tokens.
        keep_audit: how long the audit log is kept.
        warn_before: how long before a machine expires its owner is warned.
        node_certificates: validity of a node's certificate; it is renewed when a third is left.
        metrics: address and port of the metrics for Prometheus; empty for none.
        broker_listen: address and port of the context broker for guests; empty for none.
        broker_url: the broker's URL for guests; empty for that of `broker_listen`.
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
    network: NetworkSetting = "user"
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
        """The database's SQLAlchemy URL."""
        return self.database or f"sqlite:///{(self.directory / 'site.db').absolute()}"

    @property
    def pinned_root(self) -> Path:
        """The file with the pinned TUF root of the catalog."""
        return self.tuf_root or self.freshness / "root.json"

    @property
    def freshness(self) -> Path:
        """The directory of the verified TUF metadata."""
        return self.directory / "freshness"
