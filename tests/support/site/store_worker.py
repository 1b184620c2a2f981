"""A process that works on a site's store until it is killed; it imports little, so that it begins soon."""

from pathlib import Path

from deployer.machine.state import MachineState
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.nodes import revision_of
from deployer.site.lifecycle.verb_rules import Verb, apply_verb
from deployer.site.store.changes import change_machine
from deployer.site.store.reports import store_report
from tests.support.site.values import GIB, MIB, capable, observed, world

CORES = 100_000


def work(url: str, node: str, log: Path, seed: int) -> None:
    """Orders, asks and reports until it is killed; what was answered is logged."""
    site = world(SiteDatabase(url), seed=seed)
    with log.open("a") as file:
        number = 0
        while True:
            number += 1
            key = f"{seed}-{number}"
            deployment, machines, _ = site.admit(key=key, count=3, memory=16 * MIB, disk=MIB)
            file.write(f"{key} {deployment.uuid}\n")
            file.flush()
            site.store.write(
                change_machine, machines[0].uuid, lambda machine: apply_verb(machine, Verb.DESTROY, "", site.clock.at)
            )
            seen = (observed(machines[1], MachineState.RUNNING), observed(machines[2], MachineState.FAILED))
            site.store.write(
                store_report,
                node,
                capable(
                    CORES,
                    CORES * GIB,
                    CORES * GIB,
                    machines=seen,
                    revision=site.store.read(revision_of, node),
                    complete=False,
                ),
            )
