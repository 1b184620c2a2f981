"""The commands `partita policy check|show|explain|anchor`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import Misused
from catalog.image.bundle import Bundle
from deployer.cli.arguments import (
    CoresOption,
    CountOption,
    MemoryOption,
    NetworkOption,
    UserDataOption,
    optional_amount,
    parse_amount,
)
from deployer.cli.policy_trials import PolicyFile, RequestFile, requests_file, trials_app
from deployer.errors import PolicyUnusable
from deployer.machine.network import NO_NETWORK, Network
from deployer.machine.user_data import MAX_USER_DATA, check_user_data
from deployer.policy.anchors import MAX_KEY, anchor_block, certificate_anchor
from deployer.policy.decision import Request
from deployer.policy.evaluation import EvaluationInput, policy_case
from deployer.policy.explanation import explain_decision
from deployer.policy.model import Policy
from deployer.policy.store import RuleSet
from deployer.trials.replay import replay_input
from deployer.trials.request_log import find_request
from signer.errors import EXIT_REFUSED, KeyUnusable
from signer.openpgp.verifier import read_keys
from signer.runtime import files, terminal
from signer.runtime.clock import utc_now
from signer.runtime.units import duration_text, parse_duration, parse_size, size_text
from signer.verification.endorsements import DEFAULT_ROLE

policy_app = typer.Typer(name="policy", help="Check, explain and test an acceptance policy.", no_args_is_help=True)
policy_app.add_typer(trials_app)


@policy_app.command("check")
def policy_check(file: PolicyFile) -> None:
    """Check a policy, and warn of probable mistakes."""
    rules = RuleSet.load(file)
    policy = rules.policy
    warnings = [*policy.warnings(), *_key_warnings(policy), *_file_warnings(file, rules)]
    cedar = f", Cedar rules: {len(rules.cedar.rules)}" if rules.cedar else ""
    shadow = f", shadow: {rules.shadow.digest}" if rules.shadow else ""
    lines = [
        f"{file}: anchors: {len(policy.anchor)}{cedar}, digest: {rules.digest}{shadow}",
        *(f"warning: {w}" for w in warnings),
    ]
    terminal.show({"digest": rules.digest, "warnings": warnings}, "\n".join(lines))


@policy_app.command("show")
def policy_show(file: PolicyFile) -> None:
    """Show a policy, defaults included."""
    rules_set = RuleSet.load(file)
    policy = rules_set.policy
    value = policy.model_dump(mode="json", exclude_none=True)
    rows: list[Sequence[object]] = [
        (f"anchor for {anchor.vo}", f"{anchor.fingerprint} as {anchor.role}") for anchor in policy.anchor
    ]
    for vo, quorum in (("", policy.endorsements), *policy.endorsements.vo.items()):
        roles = "".join(f", {count} as {role}" for role, count in quorum.roles.items())
        quorum_text = f"at least {quorum.threshold}{roles}, not older than {duration_text(quorum.max_age)}"
        rows.append((f"endorsements{vo and ' of ' + vo}", quorum_text))
    limits = policy.limits
    rows += [
        ("vos", _lists(policy.vos.allow, policy.vos.deny)),
        ("images", _lists(policy.images.allow, policy.images.deny)),
        ("endorsers", _lists((), policy.endorsers.deny)),
        ("limits", f"{size_text(limits.memory)} memory, {limits.cores} cores, {size_text(limits.disk)} disk"),
        ("", f"{size_text(limits.blank)} blank, {duration_text(limits.lifetime)} lifetime, {limits.machines} machines"),
        ("user_data", _lists(policy.user_data.allow, ())),
        ("networks", _lists(policy.networks.allow, ())),
        *(
            (f"cedar {rule.effect}", f"{rule.name}{rule.reason and ': ' + rule.reason} ({rule.file})")
            for rule in (rules_set.cedar.rules if rules_set.cedar else ())
        ),
        ("digest", rules_set.digest),
    ]
    terminal.show(value | {"digest": rules_set.digest}, terminal.table(("rule", "says"), rows))


@policy_app.command("explain")
def policy_explain(
    context: typer.Context,
    file: PolicyFile,
    bundle: Annotated[
        Path | None,
        typer.Option(help="The image, as a directory that `image import` or `image build` made.", metavar="DIR"),
    ] = None,
    request: Annotated[
        int | None,
        typer.Option(help="Instead of an image: one of the node's recorded requests, by number.", metavar="N"),
    ] = None,
    memory: MemoryOption = None,
    cores: CoresOption = None,
    lifetime: Annotated[str, typer.Option(help="Lifetime of each, such as 30m, 12h, 7d.", metavar="DURATION")] = "1h",
    count: CountOption = 1,
    user_data: UserDataOption = None,
    network: NetworkOption = None,
    running: Annotated[int, typer.Option(help="Number of machines that the node already has.", min=0)] = 0,
    requests: RequestFile = None,
) -> None:
    """Show the decision on an image or a past request, rule by rule, and the smallest change that would make it pass.

    Exits with 3 where it is refused.
    """
    rules, now = RuleSet.load(file), utc_now()
    if bundle is None and request is not None:
        found = find_request(requests_file(context, requests), request)
        if found is None:
            raise Misused(f"no such request: {request}; `partita policy requests` lists the recorded ones")
        case, now = replay_input(found), found.at
    elif bundle is not None:
        image = Bundle.open(bundle)
        asked = Request.supposed(
            image.manifest.needs,
            count=count,
            memory=optional_amount(memory, parse_size, "--memory"),
            cores=cores,
            lifetime=parse_amount(lifetime, parse_duration, "--lifetime"),
            user_data=check_user_data(files.read_bounded(user_data, MAX_USER_DATA, Misused)) if user_data else None,
            network=optional_amount(network, Network.parse, "--network") or NO_NETWORK,
        )
        case = EvaluationInput(image.manifest, image.endorsements(), asked, running)
    else:
        raise Misused("name an image with --bundle DIR, or a past request with --request N")
    explanation = explain_decision(rules, policy_case(rules.policy, case, now))
    decision = explanation.decision
    terminal.show(
        decision.as_json() | {"explanation": explanation.as_json()}, f"{decision.text()}\n\n{explanation.sentence()}"
    )
    if not decision.accepted:
        raise typer.Exit(EXIT_REFUSED)


@policy_app.command("anchor")
def policy_anchor(
    key: Annotated[Path, typer.Argument(help="An exported public key.", metavar="KEY.asc")],
    vo: Annotated[str, typer.Option(help="The VO whose images the key may endorse.")],
    role: Annotated[str, typer.Option(help="The role of the endorser.")] = DEFAULT_ROLE,
) -> None:
    """Print an [[anchor]] for a key, to append to a policy once its owner has confirmed the fingerprint."""
    data = files.read_bounded(key, MAX_KEY, Misused)
    if len(data) > MAX_KEY:
        raise PolicyUnusable(f"{key}: is larger than {MAX_KEY} bytes; export a minimal key")
    if b"-----BEGIN CERTIFICATE-----" in data:
        names, block = certificate_anchor(vo, role, data)
        terminal.show({"vo": vo, "role": role, "toml": block} | names, block.rstrip("\n"))
        return
    found = read_keys(data)
    if len(found) != 1:
        raise PolicyUnusable(f"{key}: holds {len(found)} keys; an anchor is for one key, so export that one alone")
    block = anchor_block(vo, role, found[0].fingerprint, data.decode("ascii", "replace"))
    value = {"vo": vo, "role": role, "fingerprint": found[0].fingerprint, "toml": block}
    terminal.show(value, block.rstrip("\n"))


def _key_warnings(policy: Policy) -> list[str]:
    """Warnings of keys that do not match their anchors, or cannot sign now. This is the one check that needs GnuPG."""
    found = []
    for trusted in policy.anchor:
        if trusted.scheme == "x509":
            continue  # a certificate was read with the policy, and identifies its holder whether it is valid or not
        who = f"the key of {trusted.role} {trusted.fingerprint} of {trusted.vo}"
        try:
            keys = {key.fingerprint: key for key in read_keys(trusted.key.encode("ascii"))}
        except KeyUnusable as exc:
            found.append(f"{who} cannot be read: {exc}")
            continue
        if trusted.fingerprint not in keys:
            found.append(f"{who} is a different key, {', '.join(keys)}: its signatures will not count")
        elif fault := keys[trusted.fingerprint].unusable_reason(utc_now()):
            found.append(f"{who} {fault}: its signatures will not count")
    return found


def _file_warnings(file: Path, rules: RuleSet) -> list[str]:
    """Warnings of Cedar files beside the policy that are not read, and of an unreadable shadow policy."""
    named = set(rules.policy.cedar.files) if rules.policy.cedar else set()
    beside = sorted(path.name for path in file.absolute().parent.glob("*.cedar") if path.name not in named)
    found = [f"{name} is beside the policy but not in cedar.files: its rules are ignored" for name in beside]
    return found + ([f"the shadow policy: {rules.shadow_problem}"] if rules.shadow_problem else [])


def _lists(allow: Sequence[str], deny: Sequence[str]) -> str:
    parts = [f"allow {', '.join(allow)}"] if allow else []
    parts += [f"deny {', '.join(deny)}"] if deny else []
    return "; ".join(parts) or "nothing"
