"""What a node has to do about its part of a migration."""

from typing import Any

import pytest

from deployer.machine.state import MachineState
from deployer.node.agent.reconciler import plan_actions
from deployer.protocol.actions import Action, ActionKind
from deployer.protocol.desired_state import DesiredState, DesiredStatus, IncomingMigration
from deployer.protocol.migration import OutgoingMigration
from tests.deployer.node.agent.test_reconciler import NOW, A, B, record
from tests.support.node.fake_site import machine

NODE = "9" * 8 + "-0000-4000-8000-000000000000"


GIVING = OutgoingMigration(number=3, to=NODE)


SUSPENDED = {"state": MachineState.SUSPENDED, "desired": "suspended"}


def incoming(number: int = 3, uuid: str = A) -> IncomingMigration:
    """What a site wants brought."""
    return IncomingMigration(
        number=number, source=NODE, url="https://192.0.2.1:7444", machine=machine(uuid, expires=NOW)
    )


WANTED = machine(A, expires=NOW)


RESTING = machine(A, expires=NOW, desired=DesiredStatus.SUSPENDED)


Todo = tuple[str, dict[str, Any], list[Any], tuple[ActionKind, str] | None]


TABLE: list[Todo] = [
    (
        "it rests, and is to be given",
        {"machines": (RESTING.model_copy(update={"outgoing": GIVING}),)},
        [record(A, **SUSPENDED)],
        (ActionKind.GIVE, ""),
    ),
    (
        "it is locked for that already",
        {"machines": (RESTING.model_copy(update={"outgoing": GIVING}),)},
        [record(A, outgoing=GIVING, **SUSPENDED)],
        None,
    ),
    (
        "it is locked for an earlier attempt",
        {"machines": (RESTING.model_copy(update={"outgoing": GIVING}),)},
        [record(A, outgoing=OutgoingMigration(number=2, to=B), **SUSPENDED)],
        (ActionKind.GIVE, ""),
    ),
    (
        "it stays after all",
        {"machines": (RESTING,)},
        [record(A, outgoing=GIVING, **SUSPENDED)],
        (ActionKind.RETAIN, ""),
    ),
    ("it is to be brought", {"incoming": (incoming(),)}, [], (ActionKind.TAKE, "")),
    ("it is here and waits", {"incoming": (incoming(),)}, [record(A, incoming=3, **SUSPENDED)], None),
    ("it is on its way", {"incoming": (incoming(),)}, [record(A, MachineState.STAGING, incoming=3)], None),
    (
        "it was brought by an earlier attempt",
        {"incoming": (incoming(4),)},
        [record(A, incoming=3, **SUSPENDED)],
        (ActionKind.END, "its site does not know it any more"),
    ),
    (
        "nobody wants it here now",
        {},
        [record(A, incoming=3, **SUSPENDED)],
        (ActionKind.END, "its site does not know it any more"),
    ),
    (
        "it is this node's now, and runs at the next look",
        {"machines": (WANTED.model_copy(update={"migrated": 3}),)},
        [record(A, incoming=3, **SUSPENDED)],
        (ActionKind.ADOPT, ""),
    ),
    (
        "the site speaks of another move",
        {"machines": (WANTED.model_copy(update={"migrated": 4}),)},
        [record(A, incoming=3, **SUSPENDED)],
        (ActionKind.END, "its site does not know it any more"),
    ),
    (
        "it goes on",
        {"machines": (WANTED.model_copy(update={"migrated": 3}),)},
        [record(A, **SUSPENDED)],
        (ActionKind.START, ""),
    ),
    (
        "what was brought is lost: it is never made anew",
        {"machines": (WANTED.model_copy(update={"migrated": 3}),)},
        [],
        (ActionKind.REPORT_LOST, ""),
    ),
    ("one that never moved is made", {"machines": (WANTED,)}, [], (ActionKind.MAKE, "")),
    (
        "it was given, and is another node's now",
        {},
        [record(A, outgoing=GIVING, **SUSPENDED)],
        (ActionKind.END, "it was migrated to another node"),
    ),
]


@pytest.mark.parametrize(("why", "wanted", "here", "todo"), TABLE, ids=[why for why, *_ in TABLE])
def test_what_a_node_does_about_its_part(
    why: str, wanted: dict[str, Any], here: list[Any], todo: tuple[ActionKind, str] | None
) -> None:
    """A machine runs on a node only if the site says that it is that node's; what is locked or lent runs nowhere."""
    expected = []
    if todo is not None:
        kind, reason = todo
        (machine,) = wanted.get("machines", (None,))
        (brought,) = wanted.get("incoming", (None,))
        expected = [Action(kind, A, reason, wanted=machine, incoming=brought if kind is ActionKind.TAKE else None)]
    assert list(plan_actions(DesiredState(revision=1, **wanted), here)) == expected, why
