"""Fixtures of the signer's tests."""

from tests.support.openpgp_people import people

__all__ = ["people"]
