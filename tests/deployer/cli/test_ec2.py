"""`partita ec2`, as an operator types it."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployer.machine.state import MachineState
from partita import app
from signer.errors import PartitaError
from tests.support.aws.fake_aws import AwsWorld
from tests.support.aws.site_with_pool import Ec2Site, Images, account, accounts_file, working
from tests.support.commands import CliRunner
from tests.support.node.service_process import policy, wait_for


@pytest.fixture
def host(images: Images, world: AwsWorld, profile: str, tmp_path: Path) -> Ec2Site:
    found = Ec2Site(images, world, tmp_path / "host", account(world, profile))
    found.site.policy.write_text(policy(images.star.anchor(), memory=4 << 30))
    accounts_file(found.settings.accounts, found.account, found.account.model_copy(update={"name": "other"}))
    return found


def partita(host: Ec2Site, *arguments: str, code: int = 0) -> Any:
    """The JSON of a command, or the error that it ends with."""
    settings = host.directory / "partita.toml"
    site, ec2 = host.site, host.settings
    settings.write_text(
        f'[site]\ndirectory = "{site.directory}"\ncatalog = "{site.catalog}"\ntuf_root = "{site.tuf_root}"\n'
        f'policy = "{site.policy}"\nblocked = "{site.blocked}"\n[ec2]\naccounts = "{ec2.accounts}"\n'
        f'directory = "{ec2.directory}"\nendpoint = "{ec2.endpoint}"\nworkers = 8\n'
    )
    ended = CliRunner().invoke(app, ["--config", str(settings), "ec2", *arguments, *(["--json"] if not code else [])])
    if code:
        assert isinstance(ended.exception, PartitaError), ended.output
        assert ended.exception.exit_code == code
        return str(ended.exception)
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


@pytest.mark.slow
def test_an_operator_estimates_uploads_looks_and_cleans_up(host: Ec2Site, images: Images) -> None:
    burst = ("--account", "burst")
    estimate = partita(host, "estimate", "star/hello@1.0", *burst, "--count", "10", "--lifetime", "10h")
    assert estimate == {"type": "t3.micro", "gib": 3, "usd": "1.05", "count": 10, "seconds": 36000}
    first = partita(host, "upload", "star/hello@1.0", *burst)
    again = partita(host, "upload", "star/hello@1.0", *burst)
    assert first["blocks_sent"] > 0
    assert (again["blocks_sent"], again["ami"]) == (0, first["ami"])
    assert [(one["ami"], one["title"]) for one in partita(host, "images")] == [(first["ami"], "star/hello@1.0")]
    with host.open() as site:
        uuid = host.want(images.hello)
        site.settle()
        assert site.state(uuid) is MachineState.RUNNING
        listed = partita(host, "machines")
        assert [(one["machine"], one["state"], one["ami"]) for one in listed] == [(uuid, "running", first["ami"])]
        assert partita(host, "clean", "--older-than", "0s") == []
        host.drop(uuid)
        site.settle()
    shown = partita(host, "clean", "--older-than", "0s")
    assert [(one["kind"], one["became"]) for one in shown] == [
        ("image", "would be removed"),
        ("snapshot", "would be removed"),
        ("snapshot", "would be removed"),
    ]
    assert partita(host, "clean") == []  # not unused for a week
    assert {one["became"] for one in partita(host, "clean", "--older-than", "0s", "--apply")} == {"removed"}
    assert partita(host, "clean", "--older-than", "0s") == []
    assert partita(host, "images") == []


@pytest.mark.timeout(240)
def test_images_are_uploaded_while_the_sites_service_works(host: Ec2Site, images: Images) -> None:
    """Two processes: the service makes a machine of one image, the command uploads that and another one meanwhile."""
    since = host.world.asked()
    uuid = host.want(images.hello)
    host.world.faults(latency=0.05)
    with working(host, stays=True) as service:
        other = partita(host, "upload", "star/direct@1.0", "--account", "burst")
        same = partita(host, "upload", "star/hello@1.0", "--account", "burst")
        host.world.faults()
        assert service.is_alive()
        wait_for(lambda: [one["state"] for one in partita(host, "machines", "--account", "burst")] == ["running"], 60)
    assert other["blocks_sent"] > 0
    listed = {one["title"]: one["ami"] for one in partita(host, "images", "--account", "burst")}
    assert listed == {"star/direct@1.0": other["ami"], "star/hello@1.0": same["ami"]}
    (machine,) = partita(host, "machines", "--account", "burst")
    assert (machine["machine"], machine["ami"]) == (uuid, same["ami"])
    log = host.world.log(since)
    began = [one for one in log if one["operation"] == "StartSnapshot" and one["status"] == 201]
    assert len(began) == len(other["snapshots"]) + len(same["snapshots"])  # no content twice
    sent = [(one["snapshot"], one["block"]) for one in log if one["operation"] == "PutSnapshotBlock"]
    assert len(sent) == len(set(sent))


@pytest.mark.parametrize(
    ("what", "arguments", "code", "says"),
    [
        ("an image that the policy refuses", ("upload", "rogue/hello@1.0", "--account", "burst"), 3, "no endorser is trusted"),
        ("an account that there is not", ("images", "--account", "absent"), 3, "the site has burst, other"),
        ("which account is meant", ("upload", "star/hello@1.0"), 2, "choose one with --account"),
        ("an age that is none", ("clean", "--older-than", "soon"), 2, "is not a duration"),
        ("a machine that is too large", ("estimate", "star/hello", "--account", "burst", "--cores", "99"), 3, "99 cores"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(
    host: Ec2Site, what: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    assert says in partita(host, *arguments, code=code)


def test_without_accounts_there_is_nothing_at_ec2(host: Ec2Site) -> None:
    host.settings.accounts.unlink()
    assert "ec2.toml: cannot be read: no such file" in partita(host, "machines", code=2)
