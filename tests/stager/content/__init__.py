"""Tests of stager.content. Modules without a file of their own here, and where they are tested:

- `transfer_stats`: tests/deployer/node/agent/test_reporter.py.
"""
