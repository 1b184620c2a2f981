"""A node's receipts on disk, and the key that signs them."""

from datetime import timedelta
from pathlib import Path

import pytest

from deployer.records.receipt import verify_receipt
from deployer.records.receipt_store import ReceiptStore, read_receipt_files
from signer.errors import KeyUnusable, ReceiptRefused
from tests.support.node.receipts import MACHINE, NODE, NOW, Kept

LATER = NOW + timedelta(hours=1)
"""When receipts are looked at: after whatever a long run of tests signed before it came to these."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("node"))


def test_a_key_speaks_for_its_own_node(kept: Kept, tmp_path: Path) -> None:
    other = ReceiptStore(tmp_path, MACHINE)
    other.keep("x", kept.statement)  # signs what another node says of itself
    statement, signature = read_receipt_files(tmp_path / "receipts" / "x.json")
    with pytest.raises(ReceiptRefused, match="names the key"):
        verify_receipt(statement, signature, other.key_file.read_bytes(), LATER, "receipt")
    with pytest.raises(ReceiptRefused, match="its key is not among the allowed ones"):
        verify_receipt(statement, signature, kept.key, LATER, "receipt")
    with pytest.raises(ReceiptRefused, match=f"is of the node {NODE}, not of"):
        verify_receipt(kept.statement, kept.signature, kept.key, LATER, "receipt", MACHINE)
    with pytest.raises(ReceiptRefused, match="the signature is empty"):
        verify_receipt(kept.statement, b"", kept.key, LATER, "receipt")
    with pytest.raises(KeyUnusable):
        verify_receipt(kept.statement, kept.signature, b"no key", LATER, "receipt")


def test_a_node_keeps_its_key(kept: Kept) -> None:
    assert ReceiptStore(kept.directory, NODE).key == kept.store.key
