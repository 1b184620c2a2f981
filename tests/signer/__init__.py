"""Tests of signer. Modules without a file of their own here, and where they are tested:

- `errors`: the errors are raised and matched by all tests here; tests/catalog/web/test_problems.py sends each over a
  wire.
"""
