"""Tests of deployer. Modules without a file of their own here, and where they are tested:

- `errors`: tests/catalog/web/test_problems.py sends each over a wire.
"""
