"""What an order means before a policy decides about it: which image, and what each machine would be.

A site does this for a request, and a node again for the order that comes of it: what could not stand in a seed, or is
misspelt, fails here, and not when everything is staged.
"""

from catalog.client.trusted import TrustedCatalog
from catalog.errors import Misused
from catalog.image.reference import Reference
from deployer.guest.nocloud_seed import build_seed, instance_id
from deployer.machine.spec import check_hostname
from deployer.machine.user_data import check_user_data
from deployer.policy.decision import Request
from deployer.policy.evaluation import EvaluationInput
from deployer.protocol.machine_order import MachineOrder, RequestDefaults
from signer.runtime.units import parse_duration


def resolve_order(order: MachineOrder, images: TrustedCatalog, defaults: RequestDefaults) -> EvaluationInput:
    """Look an order's image up, and settle what the order leaves open: the facts about it, as far as the catalog has them.

    Raises:
        UserDataRefused: see `check_user_data`.
        Misused: a host name or an amount makes no sense.
        Errors of the catalog: the image is not there, or cannot be verified now.
    """
    user_data = order.user_data_bytes()
    kind = check_user_data(user_data) if user_data else None
    try:
        for name in order.names():
            check_hostname(name)
    except ValueError as exc:
        raise Misused(str(exc)) from exc
    build_seed(instance_id("order"), order.hostname or "order", user_data, public_keys=order.public_keys)
    image_id = images.resolve(Reference.parse(order.image))
    manifest = images.manifest(image_id)
    request = Request.of(
        order.settle(manifest.needs, defaults.network),
        count=order.count,
        lifetime=order.lifetime or parse_duration(defaults.lifetime),
        user_data=kind,
    )
    return EvaluationInput(manifest, images.endorsements(image_id), request)
