"""The operator's commands on access, on the machine where the catalog runs: sites, restrict, open."""

import hashlib
import re
import secrets
from pathlib import Path
from typing import Annotated

import typer

from catalog.access.rules import SECRET_BYTES, SITE_PATTERN, AccessRule, ImageScope, RegisteredSite, format_credential
from catalog.cli.options import Directory, writing
from catalog.client.credential_file import write_credential
from catalog.errors import Misused, NotFound
from catalog.swarm.announce_keys import ORIGIN
from signer.runtime import terminal
from signer.runtime.clock import current_second

site_app = typer.Typer(
    name="site",
    no_args_is_help=True,
    help="Manage the sites that may read restricted images, on the catalog's machine.",
)

SiteName = Annotated[str, typer.Argument(help="The site's name: lower-case letters, digits, - and _.")]
Images = Annotated[str, typer.Argument(metavar="IMAGES", help="VO/NAME@VERSION, VO/NAME, or VO for all of a VO.")]


@site_app.command("register")
def register(
    context: typer.Context,
    name: SiteName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The credential file to make, for the site's nodes.")],
    vo: Annotated[list[str] | None, typer.Option(help="A VO whose members the site serves; repeatable.")] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Replace the credential and the VOs of a registered site.")
    ] = False,
    directory: Directory = None,
) -> None:
    """Register a site and write its credential. The catalog stores only a digest: keep the file, or renew it."""
    from catalog.access import rule_store

    if not re.fullmatch(SITE_PATTERN, name) or name == ORIGIN:
        raise Misused(f"{name!r} is not a valid site name; use lower-case letters, digits, - and _, and not {ORIGIN!r}")
    vos = frozenset(ImageScope.parse(one).vo for one in vo or ())
    secret = secrets.token_urlsafe(SECRET_BYTES)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    with writing(context, directory) as connection:
        rule_store.register_site(connection, RegisteredSite(name, vos), digest, current_second(), renew=renew)
        write_credential(output, format_credential(name, secret))
    terminal.show(
        {"site": name, "vos": sorted(vos), "credential": str(output)},
        f"the site {name} is registered; its credential is in {output}: hand it over on a private channel; nodes use it as "
        "the setting node.credential",
    )


@site_app.command("list")
def list_(context: typer.Context, directory: Directory = None) -> None:
    """List the sites and the access rules."""
    from catalog.access import rule_store

    with writing(context, directory) as connection:
        sites = rule_store.list_sites(connection)
        rules = sorted(rule_store.load_rules(connection)[0].rules.items())
    value = {
        "sites": [{"site": site.name, "vos": sorted(site.vos)} for site, _ in sites],
        "restricted": [
            {"images": str(scope), "sites": sorted(rule.sites), "vos": sorted(rule.vos)} for scope, rule in rules
        ],
    }
    rows = [(site.name, ", ".join(sorted(site.vos)), f"{since:%Y-%m-%d}") for site, since in sites]
    restricted = [(str(scope), ", ".join(sorted(rule.sites)), ", ".join(sorted(rule.vos))) for scope, rule in rules]
    tables = [terminal.table(("RESTRICTED", "TO SITES", "TO SITES OF"), restricted)] if rules else []
    terminal.show(value, terminal.table(("SITE", "SERVES", "REGISTERED"), rows), *tables)


@site_app.command("remove")
def remove(context: typer.Context, name: SiteName, directory: Directory = None) -> None:
    """Remove a site. Its credential is refused within a second; its certificates expire within 12 hours."""
    from catalog.access import rule_store

    with writing(context, directory) as connection:
        if not rule_store.remove_site(connection, name):
            raise NotFound(f"no site {name}; `partita catalog site list` shows the sites")
    terminal.show({"removed": name}, f"the site {name} is removed")


def restrict(
    context: typer.Context,
    images: Images,
    site: Annotated[list[str] | None, typer.Option(help="A site that may read them; repeatable.")] = None,
    vo: Annotated[
        list[str] | None, typer.Option(help="A VO: the sites that serve it may read them; repeatable.")
    ] = None,
    nobody: Annotated[bool, typer.Option("--nobody", help="No site may read them.")] = False,
    directory: Directory = None,
) -> None:
    """Restrict images, present and future, to sites. Replaces the rule for the same images; the narrowest rule counts."""
    from catalog.access import rule_store

    scope = ImageScope.parse(images)
    rule = AccessRule(frozenset(site or ()), frozenset(ImageScope.parse(one).vo for one in vo or ()))
    if bool(rule.sites or rule.vos) == nobody:
        raise Misused("name the sites that may read them with --site and --vo, or give --nobody")
    with writing(context, directory) as connection:
        known = {one.name for one, _ in rule_store.list_sites(connection)}
        if missing := sorted(rule.sites - known):
            raise NotFound(f"no site {missing[0]}; register it with `partita catalog site register`")
        rule_store.restrict(connection, scope, rule, current_second())
    admitted = [*sorted(rule.sites), *(f"sites of {one}" for one in sorted(rule.vos))]
    terminal.show(
        {"images": str(scope), "sites": sorted(rule.sites), "vos": sorted(rule.vos)},
        f"{scope} may be read by {', '.join(admitted) or 'no site'}",
    )


def open_(context: typer.Context, images: Images, directory: Directory = None) -> None:
    """Remove the rule for these images: they become public, unless a wider rule covers them."""
    from catalog.access import rule_store

    scope = ImageScope.parse(images)
    with writing(context, directory) as connection:
        if not rule_store.unrestrict(connection, scope):
            raise NotFound(f"no rule for {scope}; `partita catalog site list` shows the rules")
        left = rule_store.load_rules(connection)[0].rule(scope)
    terminal.show(
        {"images": str(scope), "public": left is None},
        f"{scope} is public" if left is None else f"{scope} is still restricted by the rule for {left[0]}",
    )
