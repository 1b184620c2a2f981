"""Machines over the API: who sees them, what may be changed, verbs in order, and secrets of guests."""

import pytest

from catalog.errors import Misused
from deployer.errors import DeploymentNotFound, Forbidden, MachineConflict, MachineNotFound, OverQuota
from deployer.site.schema.messages import MachineChange
from tests.support.site.api_calls import HELLO, key
from tests.support.site.service_process import PaperNode, People, SiteProcess

pytestmark = pytest.mark.usefixtures("alone")


def test_people_see_their_own_and_administrators_their_vos(site: SiteProcess, node: PaperNode, people: People) -> None:
    """What somebody may not see does not exist for them, in any route; what they may see and not do, they are told."""
    secret = "IyEvYmluL3NoCmVjaG8gcGFzc3dvcmQK"
    with site.reach(token=people.star("amy")) as ann:
        mine = ann.create(HELLO.model_copy(update={"user_data": secret}), key())
        assert mine.deployment.request.user_data == secret
        uuid_ = mine.machines[0].uuid
        assert [one.uuid for one in ann.machines()] == [uuid_]
    with site.reach(token=people.star("bob")) as bob:
        assert list(bob.machines()) == list(bob.deployments()) == []
        assert [one for one in bob.events(0).items if one.deployment == mine.deployment.uuid] == []
        for ask in (
            lambda: bob.deployment(mine.deployment.uuid),
            lambda: bob.explain(mine.deployment.uuid[:8]),
            lambda: bob.destroy_deployment(mine.deployment.uuid),
            lambda: bob.known_hosts(mine.deployment.uuid),
        ):
            with pytest.raises(DeploymentNotFound):
                ask()
        for ask in (
            lambda: bob.machine(uuid_),
            lambda: bob.machine(mine.machines[0].hostname),
            lambda: bob.do(uuid_, "destroy"),
            lambda: bob.change(uuid_, MachineChange(lifetime=60)),
        ):
            with pytest.raises(MachineNotFound):
                ask()
    node.step()
    with site.reach(token=people.star("eve", "/star/admins")) as admin:
        assert uuid_ in [one.uuid for one in admin.machines()]
        assert admin.deployment(mine.deployment.uuid).deployment.request.user_data is None
        assert secret not in admin.deployment(mine.deployment.uuid).model_dump_json()
        assert admin.do(uuid_, "pause", "too warm").desired.value == "paused"
    with site.reach(token=people.own("sec", "/site/security")) as security:
        assert uuid_ in [one.uuid for one in security.machines()]
        assert "too warm (by eve)" in [one.reason for one in security.events(0).items]
        with pytest.raises(Forbidden, match="modify"):
            security.do(uuid_, "resume")
        assert security.do(uuid_, "destroy").desired.value == "ended"


def test_secrets_of_guests_stay_between_site_and_node(site: SiteProcess, node: PaperNode, people: People) -> None:
    """The node gets each machine's secret for the broker; no other answer has it."""
    with site.reach(token=people.star("ann")) as ann:
        ordered = ann.create(HELLO, key())
        context = node.step().machines[0].context
        assert context is not None
        found = ordered.model_dump_json() + ann.deployment(ordered.deployment.uuid).model_dump_json()
        found += "".join(one.model_dump_json() for one in ann.machines())
        found += ann.machine(ordered.machines[0].uuid).model_dump_json() + ann.events(0).model_dump_json()
    assert context.secret not in found
    assert context.secret not in site.log.read_text()


def test_quotas_and_what_was_granted_bound_changes(site: SiteProcess, node: PaperNode, people: People) -> None:
    """Earlier and later ends within the quota, memory within the grant; everything else is refused and changes nothing."""
    with site.reach(token=people.star("ann")) as ann:
        with pytest.raises(OverQuota):
            ann.create(HELLO.model_copy(update={"count": 5}), key())
        machine = ann.create(HELLO, key()).machines[0]
        node.step()
        later = ann.change(machine.uuid, MachineChange(lifetime=7200))
        assert later.expires > machine.expires
        assert ann.change(machine.uuid, MachineChange(lifetime=1800)).expires < machine.expires
        for change, error in (
            (MachineChange(lifetime=7 * 3600), OverQuota),
            (MachineChange(lifetime=13 * 3600), OverQuota),
            (MachineChange(lifetime=60, expires=machine.expires), Misused),
            (MachineChange(expires=machine.created), Misused),
            (MachineChange(memory=machine.max_memory * 2), MachineConflict),
            (MachineChange(cores=machine.max_cores + 1), MachineConflict),
        ):
            with pytest.raises(error):
                ann.change(machine.uuid, change)
        before = ann.machine(machine.uuid)
        with pytest.raises(MachineConflict):  # all that is asked for, or nothing
            ann.change(machine.uuid, MachineChange(lifetime=60, cores=machine.max_cores + 1))
        assert ann.machine(machine.uuid) == before
        with pytest.raises(Misused):
            ann.change(machine.uuid, MachineChange())
        both = ann.change(machine.uuid, MachineChange(lifetime=1200, memory=16 << 20))
        assert (both.memory, both.expires != before.expires) == (16 << 20, True)


def test_verbs_follow_each_other_as_lives_do(site: SiteProcess, node: PaperNode, people: People) -> None:
    """What a verb asks for becomes so on the node, and what cannot be is a conflict with a sentence."""
    with site.reach(token=people.star("ann")) as ann:
        uuid_ = ann.create(HELLO, key()).machines[0].uuid
        with pytest.raises(MachineConflict, match="cannot be paused"):
            ann.do(uuid_, "pause")
        node.step()
        for verb, state in (
            ("pause", "paused"),
            ("resume", "running"),
            ("suspend", "suspended"),
            ("reactivate", "running"),
            ("reboot", "running"),
            ("shutdown", "stopped"),
            ("destroy", "ended"),
        ):
            ann.do(uuid_, verb)
            node.step()
            assert ann.machine(uuid_).state.value == state, verb
        with pytest.raises(MachineConflict):
            ann.do(uuid_, "resume")
