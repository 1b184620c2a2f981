"""Who is given a machine: over real TLS, with the certificates that a site gives, and with those that it did not give for this."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployer.errors import MoveFailed
from deployer.node.membership.credentials import CA, CERTIFICATE, KEY, URL, Membership
from deployer.node.migration.client import GiverClient
from deployer.node.migration.manifest import Offer, Piece, piece_of, runs, write_runs
from deployer.node.migration.server import create_moving_app, serving, tls_of
from deployer.pki.ca import Authority, new_request
from deployer.protocol.migration import Platform

LIFE = timedelta(days=1)
SOURCE, TARGET, OTHER, MACHINE = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abcd")


class Gives:
    """What `Giver` does for one machine, which is offered to TARGET as move 3."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offer = Offer(
            number=3,
            machine=MACHINE,
            state="stopped",
            image_id="sha256:" + "1" * 64,
            name="hello-1",
            created=datetime(2026, 11, 22, tzinfo=UTC),
            memory=32 << 20,
            cores=1,
            virt="qemu",
            platform=Platform(emulator="QEMU", libvirt="libvirt"),
            pieces=(piece_of(file),),
        )

    def offer(self, uuid: str, number: int, to: str) -> Offer:
        """See `Giver`."""
        if (uuid, number, to) != (MACHINE, 3, TARGET):
            raise MoveFailed("it is not offered to this node", again=True)
        return self._offer

    def runs(self, uuid: str, number: int, name: str, to: str, start: int) -> Iterator[bytes]:
        """See `Giver`."""
        self.offer(uuid, number, to)
        if name != self.file.name:
            raise MoveFailed(f"there is no {name}")
        return runs(self.file, start)


class Hall:
    """A site's CA, the members that it has, and a node that gives a machine away."""

    def __init__(self, place: Path) -> None:
        self._place, self._now = place, datetime.now(UTC)
        self.authority = Authority.make(self._now)
        self.file = place / "disk0.qcow2"
        self.file.write_bytes(os.urandom(300_000) + bytes(1 << 20) + b"end")
        self.url = ""

    def member(
        self, name: str, authority: Authority | None = None, *, guest: bool = False, uuid: str = ""
    ) -> Membership:
        """The files of one, certified by an authority; believing this site's."""
        place = self._place / name
        place.mkdir()
        key, request = new_request()
        by = authority or self.authority
        one = (
            by.host(request, uuid or TARGET, [SOURCE], self._now, LIFE)
            if guest
            else by.node(request, uuid or TARGET, self._now, LIFE)
        )
        (place / KEY).write_bytes(key)
        (place / CERTIFICATE).write_text(one)
        (place / CA).write_bytes(self.authority.certificate)
        (place / URL).write_text("https://127.0.0.1:1")
        found = Membership.read(place)
        assert found is not None
        return found

    def serve(self, stack: ExitStack, member: Membership) -> str:
        """Give the machine away as that member; the URL."""
        context, authority = tls_of(member)
        app = create_moving_app(Gives(self.file), authority)  # type: ignore[arg-type] # behaves as one
        return stack.enter_context(serving(app, socket.create_server(("127.0.0.1", 0)), context))


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    """One that serves."""
    with ExitStack() as stack:
        made = Hall(tmp_path_factory.mktemp("hall"))
        made.url = made.serve(stack, made.member("source", uuid=SOURCE))
        yield made


def test_the_node_that_it_is_for_gets_it_and_nobody_reads_on(hall: Hall, tmp_path: Path) -> None:
    """The offer, the file whole, and the rest of it after a cut."""
    with GiverClient(hall.member("target"), hall.url, SOURCE) as client:
        offer = client.offer(MACHINE, 3)
        (piece,) = offer.pieces
        for start in (0, 100_000):
            fetched = tmp_path / f"from-{start}"
            fetched.write_bytes(hall.file.read_bytes()[:start])
            descriptor = os.open(fetched, os.O_RDWR)
            with client.runs(MACHINE, 3, piece, start) as stream:
                write_runs(descriptor, piece, stream, lambda _: None)
            os.close(descriptor)
            assert fetched.read_bytes() == hall.file.read_bytes()
        stranger = Piece(name="id-rsa", size=1, digest="0" * 64)
        with pytest.raises(MoveFailed, match="there is no id-rsa"), client.runs(MACHINE, 3, stranger, 0):
            pass


STRANGERS = [
    ("another node of the site", "other", "not offered to this node"),
    ("a guest of the site", "guest", "only nodes of the site"),
    ("a node of another site", "foreign", "does not answer"),
]


@pytest.mark.parametrize(("who", "kind", "says"), STRANGERS, ids=[who for who, _, _ in STRANGERS])
def test_nobody_else_gets_anything(hall: Hall, who: str, kind: str, says: str) -> None:
    """Neither the offer nor a file, though they know machine and number."""
    match kind:
        case "other":
            member = hall.member(kind, uuid=OTHER)
        case "guest":
            member = hall.member(kind, guest=True)
        case _:
            member = hall.member(kind, Authority.make(datetime.now(UTC)))
    with GiverClient(member, hall.url, SOURCE) as client:
        with pytest.raises(MoveFailed, match=says):
            client.offer(MACHINE, 3)
        piece = Piece(name="disk0.qcow2", size=1, digest="0" * 64)
        with pytest.raises(MoveFailed, match=says), client.runs(MACHINE, 3, piece, 0):
            pass


def test_who_is_not_the_node_that_the_site_named_is_not_believed(hall: Hall) -> None:
    """A guest has a certificate of the site's for its own name, another node for its own: neither is the source."""
    with ExitStack() as stack:
        target = hall.member("careful")
        for name, url in (
            ("another node", hall.serve(stack, hall.member("liar", uuid=OTHER))),
            (
                "a node of another site",
                hall.serve(stack, hall.member("far", Authority.make(datetime.now(UTC)), uuid=SOURCE)),
            ),
        ):
            with (
                pytest.raises(MoveFailed, match="does not answer") as failed,
                GiverClient(target, url, SOURCE) as client,
            ):
                client.offer(MACHINE, 3)
            assert "CERTIFICATE_VERIFY_FAILED" in str(failed.value), name


def test_a_source_that_sends_nothing_holds_nobody_up_for_ever(hall: Hall) -> None:
    """What listens and never answers is given up; the move is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        taken: list[socket.socket] = []
        threading.Thread(target=lambda: taken.append(mute.accept()[0]), daemon=True).start()
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        with GiverClient(hall.member("patient"), url, SOURCE, 0.3) as client, pytest.raises(MoveFailed) as failed:
            client.offer(MACHINE, 3)
        assert failed.value.again
        for one in taken:
            one.close()
