"""The commands `partita site rights check|explain`. They read files on this machine and query no service."""

from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import Misused
from deployer.errors import NotAuthenticated
from deployer.site.auth.grants import (
    CAPABILITIES,
    OWNER_ACTIONS,
    TOKEN_MEANS,
    SiteAction,
    SiteGrants,
    authorize,
    explain_denial,
    quota_of,
)
from deployer.site.model.principal import Capability, Principal
from deployer.site.model.quota import QuotaLimits
from deployer.site.settings import SiteSettings
from signer.documents import validate
from signer.errors import EXIT_REFUSED, DocumentError
from signer.runtime import terminal
from signer.runtime.clock import utc_now
from signer.runtime.units import duration_text, size_text

rights_app = typer.Typer(
    name="rights", no_args_is_help=True, help="Check and explain a site's grants: who may do what."
)

RightsFile = Annotated[
    Path | None,
    typer.Argument(help="The rights file; by default the one in the settings.", metavar="FILE", show_default=False),
]

MAX_FILE = 256 << 10
"""Bytes of a token's or a proxy's file."""

UNKNOWN_PRINCIPAL = Principal(issuer="another issuer", subject="another person", means="local")


@rights_app.command("check")
def rights_check(context: typer.Context, file: RightsFile = None) -> None:
    """Check a rights file, show its grants, and warn of probable mistakes."""
    rights = _load(context, file)
    warnings = rights.warnings()
    rows = [
        (grant.name, _who(grant.model_dump(exclude_none=True)), ", ".join(grant.actions), grant.over, _most(grant.each))
        for grant in rights.grant
    ]
    shown = terminal.table(("GRANT", "WHO", "MAY", "OVER", "EACH AT A TIME"), rows) if rows else "no grants"
    value = {"digest": rights.digest, "grants": len(rights.grant), "warnings": warnings}
    terminal.show(value, shown, *(terminal.printable(f"warning: {warning}") for warning in warnings))


@rights_app.command("explain")
def rights_explain(
    context: typer.Context,
    file: RightsFile = None,
    token: Annotated[Path | None, typer.Option(help="A token; it is not verified here.")] = None,
    proxy: Annotated[Path | None, typer.Option(help="A certificate or proxy (PEM); it is verified.")] = None,
    issuer: Annotated[str, typer.Option(help="Without a token or proxy: the issuer of the person.")] = "",
    subject: Annotated[str, typer.Option(help="Their name at the issuer.")] = "someone",
    vo: Annotated[str, typer.Option(help="Their VO; by default that of the first group.")] = "",
    groups: Annotated[
        list[str] | None, typer.Option("--group", "--groups", help="Their groups and roles; repeatable.")
    ] = None,
    capabilities: Annotated[
        list[Capability] | None, typer.Option("--capability", help="Their token's capabilities; repeatable.")
    ] = None,
    action: Annotated[
        SiteAction | None, typer.Option(help="Only this action, grant by grant; exits with 3 where it is denied.")
    ] = None,
) -> None:
    """Show what a person may do at the site, to whose machines, and with what quota."""
    rights = _load(context, file)
    settings = terminal.section(context, SiteSettings)
    if token is not None:
        who = _of_token(settings, _read(token))
    elif proxy is not None:
        who = _of_proxy(settings, _read(proxy))
    else:
        who = _described(issuer, subject, vo, tuple(groups or ()), capabilities)
    if action is not None:
        _one(rights, who, action)
        return
    same_vo = UNKNOWN_PRINCIPAL.model_copy(update={"vo": who.vo}) if who.vo else None
    rows = []
    for each in (each for each in SiteAction if each is not SiteAction.AGENT):
        own = authorize(rights, who, each, who).allowed
        ours = each in OWNER_ACTIONS and same_vo is not None and authorize(rights, who, each, same_vo).allowed
        everything = each in OWNER_ACTIONS and authorize(rights, who, each, UNKNOWN_PRINCIPAL).allowed
        rows.append((each.value, own, ours, everything))
    found = quota_of(rights, who)
    shares = [] if found.unlimited else [(each.grant, _most(each.each), _most(each.together)) for each in found.shares]
    value = {
        "principal": who.model_dump(mode="json", exclude_none=True),
        "actions": {name: {"own": own, "vo": ours, "all": every} for name, own, ours, every in rows},
        "shares": [{"grant": name, "each": each, "together": together} for name, each, together in shares],
    }
    lines = [f"{who.subject} of {who.issuer}, VO {who.vo or 'none'}, {', '.join(who.groups) or 'no groups'}"]
    if who.capabilities is not None:
        lines.append(f"capabilities: {', '.join(sorted(who.capabilities)) or 'none of use here'}; groups do not count")
    cells = [
        (name, _yes(own), _yes(ours) if name in OWNER_ACTIONS else "", _yes(every) if name in OWNER_ACTIONS else "")
        for name, own, ours, every in rows
    ]
    tables = [terminal.table(("MAY", "OWN", "THE VO'S", "ALL"), cells)]
    if shares:
        tables.append(terminal.table(("BY THE GRANT", "EACH AT A TIME", "THE VO TOGETHER"), shares))
    terminal.show(value, terminal.printable("\n".join(lines)), *tables)


def _one(rights: SiteGrants, who: Principal, action: SiteAction) -> None:
    answer = authorize(rights, who, action, who)
    rows = explain_denial(rights, who, action, who)
    value = {
        "allowed": answer.allowed,
        "by": answer.grant if answer.allowed else None,
        "reason": None if answer.allowed else answer.reason,
        "needs": CAPABILITIES.get(action) if who.capabilities is not None else None,
        "grants": [{"grant": name, "allows": not fault, "reason": fault} for name, fault in rows],
    }
    text = f"allowed by {answer.grant!r}" if answer.allowed else answer.reason
    cells = [(name, _yes(not fault), fault) for name, fault in rows]
    tables = [terminal.table(("GRANT", "ALLOWS IT", "WHY NOT"), cells)] if rows else []
    terminal.show(value, terminal.printable(text), *tables)
    if not answer.allowed:
        raise typer.Exit(EXIT_REFUSED)


def _load(context: typer.Context, file: Path | None) -> SiteGrants:
    path = file or terminal.section(context, SiteSettings).rights
    if not path.exists():
        raise Misused(f"{path}: no rights file there, so only the operator may do anything")
    return SiteGrants.load(path)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise Misused(f"{file}: cannot be read as ASCII text") from exc


def _described(
    issuer: str, subject: str, vo: str, groups: tuple[str, ...], capabilities: list[Capability] | None
) -> Principal:
    roots = [group.split("/")[1] for group in groups if group.startswith("/")]
    try:
        return validate(
            Principal,
            {
                "issuer": issuer or "an issuer",
                "subject": subject,
                "vo": vo or (roots[0] if roots else ""),
                "groups": groups,
                "capabilities": capabilities,
                "means": TOKEN_MEANS,
            },
            "the person",
        )
    except DocumentError as exc:
        raise Misused(str(exc)) from exc


def _of_token(settings: SiteSettings, text: str) -> Principal:
    from deployer.site.auth.claims import read_claims
    from deployer.site.auth.issuers import Issuers
    from deployer.site.auth.tokens import peek_token

    claims = peek_token(text).claims
    issuer = Issuers.load(settings.issuers).find(claims.get("iss"))
    if issuer is None:
        raise NotAuthenticated(f"{settings.issuers}: the token's issuer {claims.get('iss')!r} is not in this file")
    audience = settings.audience or settings.url.rstrip("/")
    if not audience:  # the site's name is not set here, so the audience is not checked
        issuer = issuer.model_copy(update={"audiences": _audiences(claims.get("aud"))})
    return read_claims(claims, issuer, audience, utc_now(), timely=False)


def _audiences(found: object) -> tuple[str, ...]:
    listed = found if isinstance(found, list) else [found]
    return tuple(each for each in listed if isinstance(each, str))


def _of_proxy(settings: SiteSettings, text: str) -> Principal:
    from deployer.site.auth.grid_identity import GridTrust, authenticate_chain, parse_pem_chain
    from deployer.site.auth.voms import VomsDirectory

    if settings.grid_certificates is None:
        raise Misused("site.grid_certificates is not set: this site does not accept people's certificates")
    trust = GridTrust(settings.grid_certificates, VomsDirectory(settings.vomsdir), settings.names)
    return authenticate_chain(parse_pem_chain(text.encode("ascii")), trust, utc_now())


def _who(grant: dict[str, object]) -> str:
    parts = []
    for name in ("issuer", "vo", "groups", "roles", "subjects"):
        value = grant.get(name)
        if value:
            parts.append(f"{name} {value if isinstance(value, str) else ', '.join(value)}")  # type: ignore[arg-type]
    return "; ".join(parts) + (" (or by capability)" if grant.get("capabilities") else "")


def _most(allowance: QuotaLimits | None) -> str:
    if allowance is None:
        return ""
    return (
        f"{allowance.machines} machines, {allowance.cores} cores, {size_text(allowance.memory)}, "
        f"{duration_text(allowance.lifetime)}"
    )


def _yes(value: object) -> str:
    return "yes" if value else "no"
