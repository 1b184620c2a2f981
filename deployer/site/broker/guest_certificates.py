"""Certificates for guests: for exactly the name and addresses that the site gave, whatever the request says."""

from datetime import datetime, timedelta

from deployer.errors import MachineConflict
from deployer.pki.ca import CertificateAuthority
from deployer.site.broker.rules import assigned_addresses
from deployer.site.model.records import SiteMachine

LIFE = timedelta(days=30)
"""The longest that a guest's certificate holds; it asks for another. One never outlives its machine's time."""


def certificate_names(machine: SiteMachine) -> tuple[str, ...]:
    """What a guest's certificate is for: its host name, and the addresses that the site gave it or sees it use."""
    return (machine.hostname, *assigned_addresses(machine))


def issue_guest_certificate(authority: CertificateAuthority, machine: SiteMachine, request: str, now: datetime) -> str:
    """A guest's certificate, and that of the site's CA after it (PEM).

    Args:
        request: PKCS #10, PEM; only its key counts, and that its sender has the private one.

    Raises:
        Misused: it is none, or its key is not P-256.
        MachineConflict: the machine's time is over.
    """
    left = machine.ends - now
    if left <= timedelta(0):
        raise MachineConflict(f"the time of {machine.hostname} is over; it gets no certificate any more")
    issued = authority.host(request, machine.uuid, certificate_names(machine), now, min(left, LIFE))
    return issued + authority.certificate.decode("ascii")
