"""Certificates for guests: for exactly the name and addresses that the site gave, whatever the request names."""

from datetime import datetime, timedelta

from deployer.errors import MachineConflict
from deployer.pki.ca import CertificateAuthority
from deployer.site.broker.rules import assigned_addresses
from deployer.site.model.records import SiteMachine

LIFE = timedelta(days=30)
"""The longest validity of a guest's certificate; the guest then requests another. None outlives its machine."""


def certificate_names(machine: SiteMachine) -> tuple[str, ...]:
    """The names in a guest's certificate: its host name, and the addresses that the site gave it or sees it use."""
    return (machine.hostname, *assigned_addresses(machine))


def issue_guest_certificate(authority: CertificateAuthority, machine: SiteMachine, request: str, now: datetime) -> str:
    """A guest's certificate, and that of the site's CA after it (PEM).

    Args:
        request: PKCS #10, PEM; only its key counts, and that its sender has the private one.

    Raises:
        Misused: not a certificate request, or its key is not P-256.
        MachineConflict: the machine has expired.
    """
    left = machine.expires - now
    if left <= timedelta(0):
        raise MachineConflict(f"machine {machine.hostname} has expired; no certificate is issued")
    issued = authority.host(request, machine.uuid, certificate_names(machine), now, min(left, LIFE))
    return issued + authority.certificate.decode("ascii")
