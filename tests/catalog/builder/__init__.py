"""Tests of catalog.builder. Modules without a file of their own here, and where they are tested:

- `linter_child`: the child process of tests/catalog/builder/test_linter.py.
"""
