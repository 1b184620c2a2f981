"""A guest's console: what nodes, sites and commands share about it."""

import re

from deployer.machine.state import MachineState
from signer.runtime.terminal import printable

WRITING_STATES = frozenset({MachineState.STAGING, MachineState.BOOTING, MachineState.RUNNING, MachineState.PAUSED})
"""States in which a guest may write (again)."""


_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What guests colour their consoles with; left out, so that nothing a guest writes moves a reader's cursor."""


def sanitize_output(data: bytes) -> str:
    """A guest's output for people: colours left out, other control characters shown and not obeyed."""
    return printable(_COLOURS.sub("", data.decode(errors="replace")).replace("\r", ""))


OFFSET_HEADER = "Partita-Offset"
"""Header of a console answer: where the bytes begin, which is later than asked where old ones were given up."""


STATE_HEADER = "Partita-State"
"""Header of a console answer: the state of the machine."""
