"""The cache against a model: any order of leasing, staging, releasing, evicting, tampering, dying and waiting."""

import contextlib
import os
import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from catalog.image.address import LEAF, Address
from stager.cache.cache import Cache
from stager.errors import EntryChanged, InUse, NotCached, QuotaExceeded
from tests.journeys.images.test_staging_faults import abandon
from tests.support.stager.cache_invariants import check_invariants
from tests.support.stager.fakes import Clock, Died, FailingDisk

QUOTA = 20 * LEAF
GRACE = 40.0
CONTENTS = {}
for number, leaves in enumerate((1, 2, 3, 5, 8, 13)):
    content = random.Random(number).randbytes(leaves * LEAF)
    CONTENTS[Address.of(content)] = content

addresses = st.sampled_from(list(CONTENTS))
holders = st.sampled_from(["machine:1", "machine:2", "machine:3"])
WHERE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class CacheMachine(RuleBasedStateMachine):
    """`leases` is the model: (holder, address) to when the lease ends. `promised` are those that were told "present"."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(dir=WHERE, prefix="machine"))
        self.clock = Clock()
        self.leases: dict[tuple[str, Address], float] = {}
        self.promised: dict[tuple[str, Address], float] = {}
        self.cache = Cache(self.root, QUOTA, self.clock, grace=GRACE)

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()
            shutil.rmtree(self.root)

    def leased(self, address: Address) -> bool:
        return any(one == address and until > self.clock.now for (_, one), until in self.leases.items())

    def present(self) -> set[Address]:
        return {Address.parse(entry.key) for entry in self.cache.entries()}

    @rule(wanted=st.sets(addresses, min_size=1), holder=holders, ttl=st.integers(1, 100))
    def acquire(self, wanted: set[Address], holder: str, ttl: int) -> None:
        trashed = {Address.parse(one.name) for one in self.cache.trash() if not one.name.startswith("wrong-")}
        acquired = self.cache.acquire(sorted(wanted), holder, ttl)
        assert set(acquired.present) == wanted & self.present()
        assert trashed & wanted <= self.present(), "what lay in the trash was not had back"
        assert set(acquired.present) | set(acquired.missing) == wanted
        for address in wanted:
            key = (holder, address)
            self.leases[key] = max(self.leases.get(key, 0), self.clock.now + ttl)
        for address in acquired.present:
            self.promised[holder, address] = self.leases[holder, address]

    @rule(address=addresses)
    def stage(self, address: Address) -> None:
        content = CONTENTS[address]
        others = sum(one.size for one in self.present() if one != address and self.leased(one))
        try:
            with self.cache.reserve({address: len(content)}), self.cache.fill(address) as incoming:
                if incoming is not None:
                    incoming.write(content, 0)
                    self.cache.commit(incoming, address)
        except QuotaExceeded:
            interrupted = sum(count for count, _ in self._reserved().values())
            assert others + len(content) + interrupted > QUOTA, "refused although there was room"
        else:
            assert address in self.present()

    def _reserved(self) -> dict[str, tuple[int, float]]:
        with self.cache._index.transaction():
            return self.cache._index.reserved()

    @rule(address=addresses, part=st.floats(0.1, 0.9))
    def interrupted(self, address: Address, part: float) -> None:
        with (
            contextlib.suppress(QuotaExceeded),
            self.cache.reserve({address: address.size}),
            self.cache.fill(address) as incoming,
        ):
            if incoming is not None:
                incoming.write(CONTENTS[address][: int(address.size * part)], 0)

    @rule(holder=holders, ttl=st.integers(1, 50))
    def renew(self, holder: str, ttl: int) -> None:
        self.cache.renew(holder, ttl)
        for known in (self.leases, self.promised):
            for key in [key for key in known if key[0] == holder]:
                # A lease that had ended no longer promised anything; what it names may be gone.
                if known is self.promised and known[key] <= self.clock.now:
                    del known[key]
                else:
                    known[key] = self.clock.now + ttl

    @rule(holder=holders)
    def release(self, holder: str) -> None:
        self.cache.release(holder)
        for known in (self.leases, self.promised):
            for key in [key for key in known if key[0] == holder]:
                del known[key]

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(address=addresses)
    def evict(self, address: Address) -> None:
        there = address in self.present()
        try:
            self.cache.evict(str(address))
        except NotCached:
            assert not there
        except InUse:
            assert self.leased(address)
        else:
            assert there
            assert not self.leased(address)

    @rule(address=addresses)
    def tamper(self, address: Address) -> None:
        if address not in self.present():
            return
        path = self.cache.path(address)
        before = path.stat()
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(bytes([CONTENTS[address][0] ^ 1]))
        path.chmod(0o444)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with contextlib.suppress(EntryChanged):
            self.cache.check(address)
            raise AssertionError("a flipped bit in the first leaf was not seen")
        assert address not in self.present()
        for key in [key for key in self.promised if key[1] == address]:
            del self.promised[key]

    @rule()
    def tidy(self) -> None:
        left = {one.name for one in self.cache.trash() if one.since > self.clock.now - GRACE}
        self.cache.clean_trash()
        assert {one.name for one in self.cache.trash()} == left

    @rule()
    def restart(self) -> None:
        self.cache.close()
        self.reopen()

    @rule(address=addresses, at=st.integers(1, 12))
    def die_while_staging(self, address: Address, at: int) -> None:
        self.cache.close()
        disk = FailingDisk(at=0, death=True)
        self.cache = Cache(self.root, QUOTA, self.clock, disk, grace=GRACE)
        disk.at = len(disk.steps) + at
        with (
            contextlib.suppress(Died, QuotaExceeded),
            self.cache.reserve({address: address.size}),
            self.cache.fill(address) as incoming,
        ):
            if incoming is not None:
                incoming.write(CONTENTS[address], 0)
                self.cache.commit(incoming, address)
        if disk.fired:
            abandon(self.cache)
        else:
            self.cache.close()
        self.reopen()

    def reopen(self) -> None:
        self.cache = Cache(self.root, QUOTA, self.clock, grace=GRACE)
        for known in (self.leases, self.promised):
            for key in [key for key, until in known.items() if until <= self.clock.now]:
                del known[key]

    @invariant()
    def what_was_promised_is_there(self) -> None:
        if not hasattr(self, "cache"):
            return
        for (_, address), until in self.promised.items():
            if until > self.clock.now:
                assert self.cache.path(address).read_bytes() == CONTENTS[address]

    @invariant()
    def the_cache_is_sound(self) -> None:
        if hasattr(self, "cache"):
            check_invariants(self.cache)


CacheMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCacheMachine = CacheMachine.TestCase
