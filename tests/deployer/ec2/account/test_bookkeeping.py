"""What earlier releases wrote into the books of EC2 is read as what it means today."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from deployer.ec2.account.bookkeeping import Bookkeeping, MachineEntry
from signer.documents import canonical

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
UUID = "5487ce1e-af19-422a-99b8-a714e61a441c"


def test_the_expiry_of_a_machine_had_another_name(tmp_path: Path) -> None:
    """It is `expires` when the entry is written again."""
    path = tmp_path / "books.db"
    entry = MachineEntry(
        machine=UUID,
        deployment=UUID,
        image_id="sha256:" + "1" * 64,
        instance_type="m5.large",
        gib=8,
        began=NOW,
        expires=NOW,
    )
    books = Bookkeeping(path, "aws")
    books.put_machine(entry)
    with sqlite3.connect(path) as raw:
        changed = canonical(entry).replace(b'"expires"', b'"until"')
        assert raw.execute("UPDATE entries SET document = ?", (changed,)).rowcount == 1
    assert books.machine(UUID) == entry
    books.update_machine(UUID, gib=9)
    books.close()
    ((document,),) = sqlite3.connect(path).execute("SELECT document FROM entries")
    assert (b'"expires"' in document, b'"until"' in document) == (True, False)
