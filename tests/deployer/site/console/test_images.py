"""The page of images: the form of the explanation is a request."""

import pytest

from catalog.errors import Misused
from deployer.site.console.images import parse_request_form
from signer.errors import DocumentError


def test_the_form_of_the_explanation_is_a_request() -> None:
    """What is left empty is left out; what cannot be understood is said with its place."""
    asked = {"image": "star/hello@1.0", "count": 2, "cores": None, "memory": "64MiB", "lifetime": ""}
    found = parse_request_form(asked)
    assert (found.count, found.memory, found.cores, found.lifetime) == (2, 64 << 20, None, None)
    for field, text in (("memory", "much"), ("lifetime", "2q")):
        with pytest.raises(Misused, match=field):
            parse_request_form(asked | {field: text})
    with pytest.raises(DocumentError):
        parse_request_form(asked | {"memory": "1KiB"})
