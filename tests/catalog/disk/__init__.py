"""Tests of catalog.disk. Modules without a file of their own here, and where they are tested:

- `inspector_child`: the child process of tests/catalog/disk/test_inspector.py and tests/catalog/disk/test_sandbox.py.
"""
