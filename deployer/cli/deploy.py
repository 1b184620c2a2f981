"""The command `deploy`: an order at this machine's node, or at a site. Wiring only."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from deployer.cli.arguments import encode_user_data, parse_amount, parse_blank, read_text_file
from deployer.cli.node.options import node_client
from deployer.errors import Refused
from deployer.node.schema.orders import DeploymentResult, DeploymentStep
from deployer.protocol.machine_order import MachineOrder
from signer.documents import validate
from signer.runtime import terminal
from signer.runtime.terminal import Json
from signer.runtime.units import parse_duration, parse_size


def deploy(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="An image ID, VO/NAME@VERSION, or VO/NAME for its newest version.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many machines.")] = 1,
    memory: Annotated[
        str | None, typer.Option(help="Memory of each, such as 2GiB; what the image needs if not given.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores of each; what the image needs if not given.")] = None,
    lifetime: Annotated[
        str | None, typer.Option(help="How long they live, such as 12h; the node's default if not given.")
    ] = None,
    hostname: Annotated[
        str | None, typer.Option(help="Host name; with several machines a number is put after it.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="none, user, network:NAME or bridge:NAME.")] = None,
    user_data: Annotated[
        Path | None, typer.Option(help="What the guest's first boot runs: cloud-config or a script.", metavar="FILE")
    ] = None,
    public_key: Annotated[
        list[Path] | None, typer.Option(help="An OpenSSH public key for the guest's user.", metavar="FILE")
    ] = None,
    blank: Annotated[
        list[str] | None,
        typer.Option(help="An extra disk, made on the node.", metavar="SIZE[:FILESYSTEM[:LABEL]]"),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="How far its memory may grow while it runs; not at all if not given.")
    ] = None,
    max_cores: Annotated[
        int | None, typer.Option(min=1, help="How far its cores may; not at all if not given.")
    ] = None,
    verify: Annotated[
        str, typer.Option(help="Right before boot: look at a sample of the contents, or hash them in full.")
    ] = "sample",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the policy decides.")] = False,
    site: Annotated[
        str | None,
        typer.Option(help="MachineOrder at a site instead of on this node: its URL, or `here` for the settings' one."),
    ] = None,
    json: Json = False,
) -> None:
    """Run machines of an image, if the site's policy accepts it."""
    order = _order(
        image=image,
        count=count,
        memory=_amount(memory, parse_size, "--memory"),
        cores=cores,
        lifetime=_amount(lifetime, parse_duration, "--lifetime"),
        hostname=hostname,
        network=network,
        user_data=encode_user_data(user_data),
        public_keys=[read_text_file(path).strip() for path in public_key or ()],
        blanks=[parse_blank(text).model_dump(mode="json") for text in blank or ()],
        max_memory=_amount(max_memory, parse_size, "--max-memory"),
        max_cores=max_cores,
        verify=verify,
    )
    if site is not None:
        from deployer.cli.site.deployment import order_at_site

        order_at_site(context, order, "" if site == "here" else site, dry_run=dry_run, json=json)
        return
    with node_client(context) as node:
        if dry_run:
            decision = node.decide(order)
            terminal.show(decision, format_decision(decision), as_json=json)
            if not decision["accepted"]:
                raise typer.Exit(Refused.exit_code)
            return
        try:
            with _watch() as watch:
                result = node.deploy(order, watch)
        except Refused as refused:
            if refused.decision is not None:
                terminal.show(dict(refused.decision), format_decision(dict(refused.decision)), as_json=json)
            raise
    terminal.show(result.model_dump(mode="json", exclude_none=True), _deployed(result), as_json=json)


def format_decision(decision: dict[str, Any]) -> Group:
    """A decision for people: every rule with its verdict, and what would have to change."""
    rows = [
        ("passed" if rule["passed"] else "FAILED", rule["name"], rule["reason"], rule.get("change", ""))
        for rule in decision["rules"]
    ]
    verdict = "accepted" if decision["accepted"] else "refused"
    head = Text(terminal.printable(f"{decision['title']}: {verdict}"))
    return Group(head, terminal.table(("VERDICT", "RULE", "REASON", "WHAT WOULD HAVE TO CHANGE"), rows))


class _watch:  # noqa: N801 - used as a function
    """Shows the steps of a deployment on standard error, where that is a terminal; silent elsewhere."""

    def __enter__(self) -> Callable[[DeploymentStep], None]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=terminal.err, transient=True, disable=not terminal.err.is_terminal)
        self._bars.start()
        self._tasks: dict[str, TaskID] = {}
        return self._step

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def _step(self, step: DeploymentStep) -> None:
        machine = step.machine or ""
        if step.step == "staging":
            if machine not in self._tasks:
                self._tasks[machine] = self._bars.add_task(f"staging for {machine}", total=step.total)
            self._bars.update(self._tasks[machine], completed=step.done or 0)
            return
        if machine in self._tasks:
            self._bars.remove_task(self._tasks.pop(machine))
        if step.text:
            where = f"{machine}: " if machine else ""
            terminal.say(f"{step.milliseconds / 1000:6.2f} s  {where}{step.text}")


def _order(**values: Any) -> MachineOrder:
    return validate(MachineOrder, {name: value for name, value in values.items() if value is not None}, "order")


def _amount(text: str | None, parse: Callable[[object], int], option: str) -> int | None:
    return None if text is None else parse_amount(text, parse, option)


def _deployed(result: DeploymentResult) -> Group:
    lines = [Text(terminal.printable(f"{result.title} ({result.image_id}) runs; {result.accelerator.reason}"))]
    rows = [
        (
            record.uuid[:8],
            record.name,
            record.hostname,
            terminal.format_size(record.from_network),
            terminal.format_size(record.from_cache),
            terminal.format_size(record.written),
            record.ends.strftime("%Y-%m-%d %H:%M UTC"),
        )
        for record in result.machines
    ]
    columns = ("UUID", "NAME", "HOST NAME", "FROM NETWORK", "FROM CACHE", "WRITTEN", "ENDS")
    return Group(*lines, terminal.table(columns, rows))
