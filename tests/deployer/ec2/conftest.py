"""Fixtures of tests at EC2: a fake of AWS, and an account in it for each test."""

from tests.support.aws.accounts import images, profile, shared_world, world

__all__ = ["images", "profile", "shared_world", "world"]
