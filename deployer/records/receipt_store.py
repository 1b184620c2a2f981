"""Receipts as a node keeps them: each beside its signature, and the key that signs them."""

import hashlib
from pathlib import Path

from deployer.records.receipt import MAX_RECEIPT, read_receipt
from signer.audit_log import AuditHeadPin
from signer.errors import KeyUnusable, ReceiptRefused
from signer.openpgp.keyring import Keyring
from signer.runtime import files

STATEMENT, ORIGIN = ".json", ".origin"
USER_ID = "Partita node {}"


class ReceiptStore:
    """A node's receipts and the key that signs them.

    receipts/<machine>.json, .json.sig     statement and signature
    receipts/node-key.asc                  the node's public key, to be given out
    keys/                                  its private key, a GnuPG home of its own
    """

    def __init__(self, directory: Path, node: str) -> None:
        self.directory, self._node = directory / "receipts", node
        self._keyring = Keyring(directory / "keys")
        self._fingerprint = ""

    @property
    def key_file(self) -> Path:
        """The node's public key, once there is one."""
        return self.directory / "node-key.asc"

    @property
    def key(self) -> str:
        """The fingerprint of the node's key, which is made when it is first asked for."""
        if not self._fingerprint:
            own = [key.fingerprint for key in self._keyring.keys() if key.secret]  # noqa: SIM118 - no mapping
            # It never expires: receipts are looked at years later. Take the directory of keys away to begin a new one.
            made = own[0] if own else self._keyring.generate(USER_ID.format(self._node), lifetime=None)
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(self.key_file, self._keyring.export(made))
            self._fingerprint = made
        return self._fingerprint

    def keep(self, machine: str, statement: bytes) -> str:
        """Sign a statement and keep both; returns the statement's SHA-256.

        Raises:
            KeyUnusable: it cannot be signed or written.
        """
        signature = self._keyring.sign(statement, self.key)
        return self._write(machine + STATEMENT, statement, signature)

    def keep_origin(self, machine: str, statement: bytes, signature: bytes) -> str:
        """Keep the receipt that a machine had at its earlier node, beside its own; returns the statement's SHA-256.

        Raises:
            KeyUnusable: it cannot be written.
        """
        return self._write(machine + ORIGIN, statement, signature)

    def _write(self, name: str, statement: bytes, signature: bytes) -> str:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(self.directory / f"{name}.sig", signature)
            files.write(self.directory / name, statement)
        except OSError as exc:
            raise KeyUnusable(f"{self.directory}: the receipt cannot be written: {exc.strerror}") from exc
        return hashlib.sha256(statement).hexdigest()

    def files(self, machine: str) -> tuple[bytes, bytes] | None:
        """Statement and signature of a machine's receipt, if there is one."""
        try:
            return read_receipt_files(self.directory / f"{machine}{STATEMENT}")
        except ReceiptRefused:
            return None


def read_receipt_files(file: Path) -> tuple[bytes, bytes]:
    """Statement and signature of the receipt in that file; the signature lies beside it."""
    try:
        with file.open("rb") as one, Path(f"{file}.sig").open("rb") as other:
            return one.read(MAX_RECEIPT + 1), other.read(MAX_RECEIPT + 1)
    except OSError as exc:
        raise ReceiptRefused(f"{exc.filename}: cannot be read: {exc.strerror}") from exc


def audit_heads(directory: Path) -> list[AuditHeadPin]:
    """The heads of the audit log that the receipts in a directory name; invalid receipts are left out."""
    found = []
    for file in sorted(directory.glob(f"*{STATEMENT}")):
        try:
            found.append(
                AuditHeadPin(read_receipt(file.read_bytes(), str(file)).deployment.audit, f"receipt {file.name}")
            )
        except (OSError, ReceiptRefused):
            continue
    return found
