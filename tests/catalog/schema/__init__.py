"""Tests of catalog.schema. Modules without a file of their own here, and where they are tested:

- `history`: tests/catalog/publication/test_history.py.
"""
