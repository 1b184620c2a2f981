"""Commands about what is in a site's machine: what its guest writes, and saving it. Wiring only."""

import time
import uuid as uuids
from typing import TYPE_CHECKING, Annotated

import typer

from deployer.cli.arguments import print_console
from deployer.cli.site.site import MachineName, ReasonOption, SiteOption, open_client, site_machine_app
from deployer.errors import DeployerError
from signer.runtime import terminal
from signer.runtime.terminal import Json

if TYPE_CHECKING:
    from deployer.site.client.client import SiteClient
    from deployer.site.model.records import SaveProgress

LOOK_EVERY = 1.0
"""Seconds between two looks at a save that is waited for."""


@site_machine_app.command("console")
def machine_console(
    context: typer.Context,
    machine: MachineName,
    most: Annotated[int, typer.Option("--bytes", min=1, max=1 << 20, help="How much of its end.")] = 64 << 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine has ended.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The guest's very bytes, terminal control included.")] = False,
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Print the end of what a machine's guest wrote to its serial console."""

    with open_client(context, site) as asked:
        if json:
            text = asked.console(machine, most).decode(errors="replace")
            terminal.show({"console": text}, "", as_json=True)
            return
        print_console(asked.follow_console(machine, most) if follow else (asked.console(machine, most),), raw=raw)


@site_machine_app.command("save")
def machine_save(
    context: typer.Context,
    machine: MachineName,
    version: Annotated[str, typer.Option(help="Of the new image.")],
    key: Annotated[str, typer.Option(help="Idempotency key: the same one is the same save.")] = "",
    wait: Annotated[bool, typer.Option(help="Until it is saved, or is not.")] = True,
    reason: ReasonOption = "",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Save a machine that rests as a new version of its image: a candidate in the catalog, for its VO to endorse."""
    with open_client(context, site) as asked:
        found = asked.save(machine, version, key or str(uuids.uuid4()), reason)
        last = next(one for one in reversed(found.saves) if one.version == version)
        if wait:
            last = _saved(asked, found.uuid, last)
    if last.state == "failed":
        raise DeployerError(f"machine {found.hostname} was not saved: {last.reason}")
    changed = ", ".join(last.changed) or "nothing"
    text = (
        f"{last.title} ({last.image_id}) is a candidate in the catalog; changed: {changed}"
        if last.state == "saved"
        else f"{found.hostname}: is being saved as version {version}"
    )
    terminal.show(last.model_dump(mode="json", exclude_none=True), text, as_json=json)


def _saved(asked: "SiteClient", machine: str, last: "SaveProgress") -> "SaveProgress":
    """A save once it is over, with its progress shown meanwhile."""
    with terminal.progress("saving", None) as advance:
        done = 0
        while last.state not in {"saved", "failed"}:
            time.sleep(LOOK_EVERY)
            last = next(one for one in asked.machine(machine).saves if one.number == last.number)
            advance(max(0, last.done - done))
            done = max(done, last.done)
    return last
