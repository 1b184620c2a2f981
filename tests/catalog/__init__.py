"""Tests of catalog. Modules without a file of their own here, and where they are tested:

- `errors`: tests/catalog/schema/test_problems.py and tests/catalog/web/test_problems.py send each over a wire.
"""
