"""The command `partita deploy`: an order at this machine's node, or at a site. Wiring only."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.progress import TaskID
from rich.text import Text

from deployer.cli import arguments
from deployer.cli.arguments import to_json
from deployer.cli.node.options import node_client
from deployer.errors import Refused
from deployer.node.schema.orders import DeploymentResult, DeploymentStep
from deployer.protocol.machine_order import MachineOrder
from signer.documents import validate
from signer.runtime import terminal


@arguments.with_order_options
def deploy(
    context: typer.Context,
    order: dict[str, Any],
    dry_run: arguments.DryRunOption = False,
    site: Annotated[
        str | None,
        typer.Option(help="Order at a site instead of on this node: its URL, or `here` for the one in the settings."),
    ] = None,
) -> None:
    """Run machines of an image, if the site's policy accepts it."""
    if site is not None:
        from deployer.cli.site.deployment import order_at_site

        order_at_site(context, order, "" if site == "here" else site, "", dry_run=dry_run)
        return
    wanted = validate(MachineOrder, order, "order")
    with node_client(context) as node:
        if dry_run:
            decision = node.decide(wanted)
            terminal.show(decision, format_decision(decision))
            if not decision["accepted"]:
                raise typer.Exit(Refused.exit_code)
            return
        try:
            with _watch() as watch:
                result = node.deploy(wanted, watch)
        except Refused as refused:
            if refused.decision is not None:
                terminal.show(dict(refused.decision), format_decision(dict(refused.decision)))
            raise
    terminal.show(to_json(result), _deployed(result))


def format_decision(decision: dict[str, Any]) -> Group:
    """A decision as a table: every rule with its verdict, and what would have to change."""
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
        self._bars = terminal.byte_bars()
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
            arguments.minute(record.expires),
        )
        for record in result.machines
    ]
    columns = ("UUID", "NAME", "HOST NAME", "FROM NETWORK", "FROM CACHE", "WRITTEN", "EXPIRES")
    return Group(*lines, terminal.table(columns, rows))
