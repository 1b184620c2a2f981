"""The commands `partita policy test|diff|requests|schema`: a policy on test cases and on recorded requests, and the Cedar schema."""

from pathlib import Path
from typing import Annotated

import typer

from deployer.policy.cedar_schema import SCHEMA
from deployer.policy.store import RuleSet
from deployer.trials.expectations import read_cases, run_cases
from deployer.trials.replay import compare_policies
from deployer.trials.request_log import MAX_REQUESTS, read_requests
from signer.errors import EXIT_FAILED
from signer.runtime import terminal
from signer.runtime.clock import utc_now
from signer.statements.endorsement import write_instant
from stager.settings import NodeSettings

Last = Annotated[int, typer.Option("--last", help="Number of requests, from the last.", min=1, max=MAX_REQUESTS)]


PolicyFile = Annotated[Path, typer.Argument(help="The policy, a TOML file.", metavar="FILE")]
RequestFile = Annotated[
    Path | None,
    typer.Option(
        "--requests", help="The file of recorded requests; by default that of this machine's node.", metavar="FILE"
    ),
]
trials_app = typer.Typer()


def requests_file(context: typer.Context, named: Path | None) -> Path:
    """The file of recorded requests: the named one, or that of this machine's node."""
    return named or terminal.section(context, NodeSettings).directory / "requests.jsonl"


@trials_app.command("test")
def policy_test(
    file: PolicyFile, cases: Annotated[Path, typer.Argument(help="Expected decisions, TOML or JSON.", metavar="CASES")]
) -> None:
    """Run a policy's test cases; exits with 1 where a decision differs from the expected one."""
    rules = RuleSet.load(file)
    results = run_cases(rules, read_cases(cases).case, utc_now())
    wrong = [result for result in results if result.fault]
    lines = [
        f"{'FAILED' if result.fault else 'passed'}  {result.case.name}{result.fault and ': ' + result.fault}"
        for result in results
    ]
    lines.append(f"{len(results) - len(wrong)} of {len(results)} cases are decided as expected")
    value = {
        "digest": rules.digest,
        "cases": [
            {"name": result.case.name, "passed": not result.fault, "accepted": result.decision.accepted}
            | ({"fault": result.fault} if result.fault else {})
            for result in results
        ],
    }
    terminal.show(value, terminal.printable("\n".join(lines)))
    if wrong:
        raise typer.Exit(EXIT_FAILED)


@trials_app.command("diff")
def policy_diff(
    context: typer.Context,
    old: Annotated[Path, typer.Argument(help="The old policy, such as the one in force.", metavar="OLD")],
    new: Annotated[Path, typer.Argument(help="The new policy.", metavar="NEW")],
    last: Last = MAX_REQUESTS,
    requests: RequestFile = None,
) -> None:
    """Show recorded requests that another policy would decide differently; exits with 1 where there are any."""
    records = read_requests(requests_file(context, requests), last)
    found = compare_policies(RuleSet.load(old), RuleSet.load(new), records)
    turned = [one for one in found if one.turned]
    lines = [one.sentence() for one in found]
    lines.append(
        f"{len(turned)} of the last {len(records)} requests would be decided differently"
        + (f", {len(found) - len(turned)} refused for other reasons" if len(found) > len(turned) else "")
    )
    value = {"requests": len(records), "turned": len(turned), "differences": [one.as_json() for one in found]}
    terminal.show(value, terminal.printable("\n".join(lines)))
    if turned:
        raise typer.Exit(EXIT_FAILED)


@trials_app.command("requests")
def policy_requests(context: typer.Context, last: Last = 20, requests: RequestFile = None) -> None:
    """List the last requests that the node decided, with the shadow policy's decisions."""
    records = read_requests(requests_file(context, requests), last)
    rows = [
        (
            record.number,
            write_instant(record.at),
            record.parsed().title,
            record.asked.count,
            "accepted" if record.outcome.accepted else "refused",
            ", ".join(record.outcome.failed),
            "" if record.shadow is None else "accepted" if record.shadow.accepted else "refused",
        )
        for record in records
    ]
    value = [record.model_dump(mode="json", exclude={"manifest", "endorsements"}) for record in records]
    columns = ("REQUEST", "WHEN", "IMAGE", "MACHINES", "DECISION", "BY", "SHADOW")
    terminal.show(value, terminal.table(columns, rows))


@trials_app.command("schema")
def policy_schema() -> None:
    """Print the schema for Cedar rules, in Cedar's schema language."""
    terminal.show({"schema": SCHEMA}, SCHEMA.rstrip("\n"))
