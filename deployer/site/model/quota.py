"""Quotas: the most that a person may have running at a site, and whether a request fits. Pure."""

import operator
from dataclasses import astuple, dataclass
from typing import Annotated

from pydantic import Field

from signer.documents import Document
from signer.runtime.units import Duration, Size, duration_text, size_text


@dataclass(frozen=True)
class ResourceUsage:
    """The resources that a person uses, or requests.

    Attributes:
        machines: count.
        cores: of all of them together.
        memory: bytes, of all of them together.
        lifetime: seconds from now until the last of them ends; only that of what is asked for counts.
    """

    machines: int = 0
    cores: int = 0
    memory: int = 0
    lifetime: int = 0

    def __add__(self, other: "ResourceUsage") -> "ResourceUsage":
        return ResourceUsage(*map(operator.add, astuple(self), astuple(other)))


class QuotaLimits(Document):
    """The most that may run at a time, machines that are on their way included. What is left out is 0: nothing.

    Attributes:
        machines: count.
        cores: of all machines together.
        memory: bytes, of all machines together.
        lifetime: seconds, from the moment of asking; for an extension too.
    """

    machines: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    cores: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    memory: Size = 0
    lifetime: Duration = 0

    def fault(self, whose: str, usage: ResourceUsage, ask: ResourceUsage) -> str:
        """Why a request does not fit in addition to the present usage: the end of a sentence, or empty if it fits."""
        if ask.lifetime > self.lifetime:
            return (
                f"allows {whose} machines for {duration_text(self.lifetime)} at most, "
                f"and {duration_text(ask.lifetime)} was asked for"
            )
        for name, most, held, more, text in (
            ("machines", self.machines, usage.machines, ask.machines, str),
            ("cores", self.cores, usage.cores, ask.cores, str),
            ("of memory", self.memory, usage.memory, ask.memory, size_text),
        ):
            if more > 0 and held + more > most:
                return f"allows {whose} {text(most)} {name} at a time; {text(held)} taken, {text(more)} more asked for"
        return ""


@dataclass(frozen=True)
class QuotaShare:
    """What one grant allows.

    Attributes:
        grant: its name.
        each: to every single person whom it names.
        together: to all people of the VO together, or None where the grant does not speak of that.
    """

    grant: str
    each: QuotaLimits
    together: QuotaLimits | None = None

    def fault(self, usage: ResourceUsage, ask: ResourceUsage, together: ResourceUsage) -> str:
        """Why a request does not fit, in a sentence, or empty if it does."""
        found = self.each.fault("each person", usage, ask)
        if not found and self.together is not None:
            found = self.together.fault("the whole VO", together, ask)
        return f"the grant {self.grant!r} {found}" if found else ""


@dataclass(frozen=True)
class Quota:
    """The quotas of a requester: one of the shares must fit the whole request. Without any share nothing fits.

    Attributes:
        shares: of the grants that let them deploy.
        unlimited: the site's operator, who is bound by the capacity of the nodes alone.
        reason: why there are no shares, in a sentence.
    """

    shares: tuple[QuotaShare, ...] = ()
    unlimited: bool = False
    reason: str = "no grant of this site lets you deploy that image"

    def check(self, usage: ResourceUsage, ask: ResourceUsage, together: ResourceUsage | None = None) -> str | None:
        """Check whether a request fits.

        Args:
            usage: what the owner has at the moment of asking.
            ask: what is to be added to it. For an extension: the seconds from now until the new end, and no machines;
                for more memory: what is added.
            together: what all people of the owner's VO have, the owner included; nothing if not given.

        Returns:
            Why not, in a sentence; None if it fits.
        """
        if self.unlimited:
            return None
        if not self.shares:
            return self.reason
        faults = [share.fault(usage, ask, together or ResourceUsage()) for share in self.shares]
        return None if "" in faults else "; ".join(faults)


UNLIMITED = Quota(unlimited=True)
"""The operator's."""
