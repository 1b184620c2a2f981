"""Grants: which principal may do which action to whose objects at a site. Pure.

TOML, strict, default deny: what no grant allows is refused, and an empty file lets in only the operator. A grant
names people by what was proved of them (issuer, VO, groups, roles, subject), what they may do, and to whose machines.
A token that carries capabilities allows no more than these, and then its groups do not count (WLCG Common JWT
Profile, "Capability based authorization": a token's capabilities come before its groups).
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from catalog.image.manifest import Manifest, Vo
from deployer.policy.patterns import ImagePattern, matches_image, pattern_validator
from deployer.policy.policy_files import PolicyFile
from deployer.site.model.principal import Capability, Principal
from deployer.site.model.quota import UNLIMITED, Quota, QuotaLimits, QuotaShare
from signer.documents import Document, canonical

MAX_RIGHTS = 1 << 20
"""Bytes of a rights file: a thousand grants."""

MAX_GRANTS = 1024
MAX_ENTRIES = 256
"""Grants of a file, and entries of one list in it: more belongs into the VO's own groups."""

LOCAL_MEANS = "local"
NODE_MEANS = "node"
TOKEN_MEANS = "token"  # noqa: S105 - a way of authentication
CERTIFICATE_MEANS = "certificate"
LIMITED_MEANS = "limited-proxy"
"""Values of a principal's `means`. A limited proxy (Globus) allows its holder to read, and to start or change nothing."""


class SiteAction(StrEnum):
    """An action at a site. Every route of the site's interface is one of these."""

    DEPLOY = "deploy"
    """Create machines or a cluster, or dry-run that; scale a cluster up."""
    READ = "read"
    """See deployments, machines, clusters, and their events."""
    MODIFY = "modify"
    """Resume, reactivate, reboot, resize, extend or shorten; scale down; replace a member."""
    HOLD = "hold"
    """Pause or suspend: nothing is lost, and nothing runs."""
    CANCEL = "cancel"
    """Shut down, destroy."""
    SAVE = "save"
    """Save what a machine changed as a new version of its image."""
    CONSOLE = "console"
    """Read what a guest writes to its console."""
    NODES = "nodes"
    """See the nodes: their free capacity and their caches."""
    MANAGE_NODES = "manage-nodes"
    """Let nodes join, drain them, remove them."""
    AUDIT = "audit"
    """Read the site's audit log, of all people."""
    AGENT = "agent"
    """Act as a node. No grant gives this: a node's own certificate does, and allows nothing else."""


OWNER_ACTIONS = frozenset(
    {SiteAction.READ, SiteAction.MODIFY, SiteAction.HOLD, SiteAction.CANCEL, SiteAction.SAVE, SiteAction.CONSOLE}
)
"""Actions on machines of an owner."""

CAPABILITIES = {
    SiteAction.DEPLOY: Capability.CREATE,
    SiteAction.READ: Capability.READ,
    SiteAction.CONSOLE: Capability.READ,
    SiteAction.MODIFY: Capability.MODIFY,
    SiteAction.HOLD: Capability.MODIFY,
    SiteAction.CANCEL: Capability.CANCEL,
}
"""The capability that each action needs of a token that carries any; other actions are refused to such a token."""

_GROUP = re.compile(r"(/[a-zA-Z0-9*?][a-zA-Z0-9_.*?-]*)+")
_ROLE = re.compile(r"[a-zA-Z0-9*?][a-zA-Z0-9_.*?-]*")

GroupPattern = Annotated[
    str,
    Field(max_length=255),
    pattern_validator(_GROUP, "a group such as /vo/group, in which * stands for anything within one name"),
]
RolePattern = Annotated[
    str, Field(max_length=255), pattern_validator(_ROLE, "a role's name, in which * stands for anything")
]
SubjectName = Annotated[str, Field(min_length=1, max_length=1024)]


def _grantable(action: SiteAction) -> SiteAction:
    if action is SiteAction.AGENT:
        raise ValueError("agent cannot be granted: a node authenticates by its own certificate")
    return action


class Grant(Document):
    """One row: who may do what, to whose machines, and how much of it. All its conditions on "who" must hold.

    Attributes:
        name: for people; refusals and explanations name it.
        issuer: of the token, or the CA of the certificate as `openssl x509 -issuer -nameopt compat` writes it.
        vo: that the issuer speaks for.
        groups: any of these. A group is not the groups below it: write /vo/* for those.
        roles: any of these in one of the groups (or in any group): /vo/Role=NAME of VOMS; in tokens, which have no roles,
            the group /vo/NAME.
        subjects: any of these names with that issuer.
        capabilities: a token with capabilities counts too, without the groups and roles; it may do what its capabilities
            and this row both allow.
        actions: allowed to them.
        over: whose machines: their own, those of people of their VO, or all.
        images: that they may deploy.
        each, together: the quota of each of them, and of all people of the VO together, at a time.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    issuer: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    vo: Vo | None = None
    groups: Annotated[tuple[GroupPattern, ...], Field(max_length=MAX_ENTRIES)] = ()
    roles: Annotated[tuple[RolePattern, ...], Field(max_length=MAX_ENTRIES)] = ()
    subjects: Annotated[tuple[SubjectName, ...], Field(max_length=MAX_ENTRIES)] = ()
    capabilities: bool = False
    actions: Annotated[
        tuple[Annotated[SiteAction, AfterValidator(_grantable)], ...], Field(min_length=1, max_length=16)
    ]
    over: Literal["own", "vo", "all"] = "own"
    images: Annotated[tuple[ImagePattern, ...], Field(min_length=1, max_length=MAX_ENTRIES)] = ("*/*",)
    each: QuotaLimits | None = None
    together: QuotaLimits | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.issuer is None and self.vo is None and not self.groups:
            raise ValueError(f"the grant {self.name!r} does not say whom it is for; give it an issuer, a vo or groups")
        if self.subjects and self.issuer is None:
            raise ValueError(f"the grant {self.name!r} names subjects without their issuer; add issuer")
        if SiteAction.DEPLOY in self.actions and self.each is None:
            raise ValueError(f"the grant {self.name!r} allows deploy without a quota; add [grant.each]")
        if SiteAction.DEPLOY not in self.actions and (self.each or self.together):
            raise ValueError(f"the grant {self.name!r} has a quota but does not allow deploy")
        return self

    def fault(self, principal: Principal, action: SiteAction, owner: Principal | None) -> str:
        """Why the grant does not allow that to a principal; empty if it does."""
        if action not in self.actions:
            return f"is not about {action}"
        return self._stranger(principal) or self._foreign(principal, action, owner)

    def _stranger(self, principal: Principal) -> str:
        """Why a principal is not among those whom the grant names."""
        if self.issuer is not None and principal.issuer != self.issuer:
            return f"is for people of {self.issuer}"
        if self.vo is not None and principal.vo != self.vo:
            return f"is for the VO {self.vo}"
        if self.subjects and principal.subject not in self.subjects:
            return "is for other subjects of that issuer"
        if not (self.groups or self.roles):
            return ""
        if principal.capabilities is not None:
            return "" if self.capabilities else "is for groups, which do not count for a token with capabilities"
        if any(_belongs(principal, group, self.groups, self.roles) for group in principal.groups):
            return ""
        roles = f"the role {' or '.join(self.roles)}" if self.roles else ""
        return f"is for {' in '.join(filter(None, (roles, ' or '.join(self.groups))))}"

    def _foreign(self, principal: Principal, action: SiteAction, owner: Principal | None) -> str:
        """Why the grant does not cover the owner's machines, or the token lacks the capability."""
        if principal.capabilities is not None and CAPABILITIES.get(action) not in principal.capabilities:
            needed = CAPABILITIES.get(action)
            return f"allows it, but the token lacks {needed}" if needed else "cannot be used with capabilities"
        if action not in OWNER_ACTIONS or owner is None or self.over == "all" or owner.identity == principal.identity:
            return ""
        if self.over == "vo":
            return "" if principal.vo and owner.vo == principal.vo else "covers only machines of one's own VO"
        return "covers only one's own machines"


class SiteGrants(PolicyFile):
    """All grants of a site."""

    file_kind, max_bytes = "rights", MAX_RIGHTS

    grant: Annotated[tuple[Grant, ...], Field(max_length=MAX_GRANTS)] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [grant.name for grant in self.grant]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two grants are named {twice!r}; give each its own name")
        return self

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits over the canonical form."""
        return "sha256:" + hashlib.sha256(canonical(self)).hexdigest()

    def warnings(self) -> list[str]:
        """What is valid in the file but probably not meant, a sentence each."""
        found = [] if self.grant else ["the file has no [[grant]]: only the operator may do anything"]
        for grant in self.grant:
            found += [
                f"{grant.name}: {name}.{field} is 0: nothing can be deployed"
                for name in ("each", "together")
                if (limits := getattr(grant, name)) is not None
                for field in ("machines", "cores", "memory", "lifetime")
                if not getattr(limits, field)
            ]
            if grant.together is not None and grant.vo is None and not grant.groups:
                found.append(f"{grant.name}: together counts by VO, but the grant names no VO")
            if grant.over == "all" and not (grant.subjects or grant.groups or grant.roles):
                found.append(f"{grant.name}: every member of {grant.vo or grant.issuer} has access to all machines")
            if grant.over == "own" and not OWNER_ACTIONS & set(grant.actions) and SiteAction.DEPLOY in grant.actions:
                found.append(f"{grant.name}: people who deploy by it cannot see or delete their own deployments")
        return found


@dataclass(frozen=True)
class Allowed:
    """Allowed, by the grant of that name."""

    grant: str
    allowed: Literal[True] = True


@dataclass(frozen=True)
class Denied:
    """Denied, with the reason in a sentence."""

    reason: str
    allowed: Literal[False] = False


@dataclass(frozen=True)
class Reach:
    """The owners whose machines an action covers: what a list is filtered by.

    Attributes:
        everything: those of all owners.
        vos: those of people of these VOs.
        owner: those of the principal with this identity; empty for none.
    """

    everything: bool = False
    vos: frozenset[str] = frozenset()
    owner: str = ""

    def covers(self, owner: Principal) -> bool:
        """Whether an owner's machines are among them."""
        return self.everything or owner.identity == self.owner or (bool(owner.vo) and owner.vo in self.vos)


def authorize(
    rights: SiteGrants, principal: Principal, action: SiteAction, owner: Principal | None = None
) -> Allowed | Denied:
    """Whether a principal may do something.

    Args:
        rights: of the site.
        principal: authenticated.
        action: to be done.
        owner: of the machine or deployment it would be done to; None where there is no owner, or it is not known yet (a
            list is then filtered by `reach_of`).
    """
    if fault := _by_means(principal, action):
        return Denied(fault)
    if principal.means in {LOCAL_MEANS, NODE_MEANS}:
        return Allowed(principal.means)
    faults = []
    for grant in rights.grant:
        if not (fault := grant.fault(principal, action, owner)):
            return Allowed(grant.name)
        if action in grant.actions:
            faults.append(f"{grant.name!r} {fault}")
    nearest = "; ".join(faults[:8])
    return Denied(f"no grant of this site lets {principal.subject} {_done(action)}{nearest and ': ' + nearest}")


def explain_denial(
    rights: SiteGrants, principal: Principal, action: SiteAction, owner: Principal | None = None
) -> Sequence[tuple[str, str]]:
    """Each grant's name, and why it does not allow that to the principal (empty where it does)."""
    by_means = _by_means(principal, action)
    return [(grant.name, by_means or grant.fault(principal, action, owner)) for grant in rights.grant]


def reach_of(rights: SiteGrants, principal: Principal, action: SiteAction) -> Reach:
    """The owners to whose machines a principal may do something."""
    if _by_means(principal, action):
        return Reach()
    if principal.means in {LOCAL_MEANS, NODE_MEANS}:
        return Reach(everything=principal.means == LOCAL_MEANS)
    over = {grant.over for grant in rights.grant if not grant.fault(principal, action, None)}
    return Reach(
        everything="all" in over,
        vos=frozenset({principal.vo} if "vo" in over and principal.vo else ()),
        owner=principal.identity if over else "",
    )


def quota_of(rights: SiteGrants, principal: Principal, manifest: Manifest | None = None) -> Quota:
    """The quota of a principal: how much they may have running at a time.

    Args:
        rights: of the site.
        principal: the owner.
        manifest: of the image to run; None where it does not matter any more (an extension, say).
    """
    denied = authorize(rights, principal, SiteAction.DEPLOY)
    if isinstance(denied, Denied):
        return Quota(reason=denied.reason)
    if principal.means == LOCAL_MEANS:
        return UNLIMITED
    shares = tuple(
        QuotaShare(grant.name, grant.each, grant.together)
        for grant in rights.grant
        if grant.each is not None
        and not grant.fault(principal, SiteAction.DEPLOY, None)
        and (manifest is None or matches_image(grant.images, manifest))
    )
    what = "an image" if manifest is None else f"{manifest.vo}/{manifest.name}@{manifest.version}"
    return Quota(shares, reason=f"no grant of this site lets {principal.subject} deploy {what}")


def _by_means(principal: Principal, action: SiteAction) -> str:
    """Why the way in which a principal authenticated rules the action out, whatever grants say; empty if it does not."""
    if action is SiteAction.AGENT:
        return "" if principal.means == NODE_MEANS else "only a node may do that, with its own certificate"
    if principal.means == NODE_MEANS:
        return "a node's certificate is valid only for the node's own requests"
    if principal.means == LIMITED_MEANS and action is not SiteAction.READ:
        return "a limited proxy allows only reading; make a full one"
    return ""


def _belongs(principal: Principal, group: str, groups: tuple[str, ...], roles: tuple[str, ...]) -> bool:
    """Whether one of a principal's groups is one that a grant names, with one of the roles if it names any."""
    path, _, role = group.partition("/Role=")
    if not roles:
        return any(_matches(path, pattern) for pattern in groups)
    if not role and principal.means == TOKEN_MEANS:
        # Tokens have no roles: WLCG's profile has optional groups in their place, /vo/production for /vo/Role=production.
        path, _, role = path.rpartition("/")
    return (
        bool(path and role)
        and (not groups or any(_matches(path, pattern) for pattern in groups))
        and any(fnmatchcase(role, pattern) for pattern in roles)
    )


def _matches(path: str, pattern: str) -> bool:
    """Whether a group is named, name by name: /vo/* is every group right below /vo, and not /vo itself."""
    names, wanted = path.split("/"), pattern.split("/")
    return len(names) == len(wanted) and all(map(fnmatchcase, names, wanted))


def _done(action: SiteAction) -> str:
    match action:
        case SiteAction.NODES:
            return "see its nodes"
        case SiteAction.MANAGE_NODES:
            return "manage its nodes"
        case SiteAction.AUDIT:
            return "read its audit"
        case SiteAction.READ | SiteAction.CONSOLE:
            return f"{action} that object"
        case _:
            return f"{action} there" if action is SiteAction.DEPLOY else f"{action} that machine"
