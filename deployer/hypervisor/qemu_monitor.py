"""Take descriptors out of a paused machine, so that its memory can be saved. The only door to libvirt's QEMU monitor.

QEMU saves no machine that has a VMDK open ("does not support live migration"), be it only read. But a paused machine reads
nothing: so below each overlay its descriptor gives way to nothing (a null node) until the memory is saved and the emulator
ends, or until the machine is to go on. The node names alone tell the state, so it can be mended after a crash.
A machine that went on without its descriptors would read zeros: `mend` comes before every resumption.
"""

import json
from typing import Any

from deployer.errors import BackendFailed

PREFIX = "partita-none-"
"""Of the names of null nodes: followed by the numbers of the overlay and of the descriptor in libvirt's names of nodes. A name has at
most 31 characters (QEMU, BLOCK_NODE_NAME)."""


class QemuMonitor:
    """The monitor of one machine.

    Args:
        domain: libvirt's.

    Every call raises BackendFailed with QEMU's reason; libvirt's own errors go through.
    """

    def __init__(self, domain: Any) -> None:
        import libvirt_qemu  # only where libvirt is loaded already

        self._domain, self._command = domain, libvirt_qemu.qemuMonitorCommand

    def part(self) -> None:
        """Put nothing in the place of every descriptor. The machine must be paused, and not go on before `mend`."""
        self.mend()
        nodes = self._nodes()
        for base in nodes:
            if base["drv"] != "vmdk":
                continue
            for overlay in nodes:
                if overlay["drv"] == "qcow2" and overlay.get("backing_file") == base["file"]:
                    self._part(_number(overlay), _number(base), base["image"]["virtual-size"])

    def mend(self) -> None:
        """Put every descriptor back in its place, where it is missing."""
        for node in self._nodes():
            if node["node-name"].startswith(PREFIX):
                overlay, base = node["node-name"].removeprefix(PREFIX).split("-")
                self._mend(overlay, base, node["node-name"])

    def _part(self, overlay: str, base: str, size: int) -> None:
        null = f"{PREFIX}{overlay}-{base}"
        self._do(
            "blockdev-add",
            {"driver": "null-co", "node-name": null, "size": size, "read-zeroes": True, "read-only": True},
        )
        self._put(overlay, null)
        self._do("blockdev-del", {"node-name": f"libvirt-{base}-format"})

    def _mend(self, overlay: str, base: str, null: str) -> None:
        name = f"libvirt-{base}-format"
        if all(node["node-name"] != name for node in self._nodes()):
            file = f"libvirt-{base}-storage"
            self._do("blockdev-add", {"driver": "vmdk", "node-name": name, "file": file, "read-only": True})
        self._put(overlay, name)
        self._do("blockdev-del", {"node-name": null})

    def _put(self, overlay: str, backing: str) -> None:
        """Put another node below an overlay; all options that `domain_xml` sets for the overlay are repeated, else they would be lost."""
        options = {
            "driver": "qcow2",
            "node-name": f"libvirt-{overlay}-format",
            "read-only": False,
            "discard": "unmap",
            "file": f"libvirt-{overlay}-storage",
            "backing": backing,
        }
        self._do("blockdev-reopen", {"options": [options]})

    def _nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._do("query-named-block-nodes", {"flat": True})
        return found

    def _do(self, command: str, arguments: dict[str, Any]) -> Any:
        asked = json.dumps({"execute": command, "arguments": arguments})
        answer = json.loads(self._command(self._domain, asked, 0))
        if "error" in answer:
            raise BackendFailed(f"the emulator refuses {command}: {answer['error'].get('desc', '')}")
        return answer["return"]


def _number(node: dict[str, Any]) -> str:
    """N of `libvirt-N-format`."""
    return str(node["node-name"]).removeprefix("libvirt-").removesuffix("-format")
