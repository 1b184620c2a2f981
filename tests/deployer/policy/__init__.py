"""Tests of deployer.policy. Modules without a file of their own here, and where they are tested:

- `cedar_schema`: tests/deployer/policy/test_cedar.py.
- `decision`: what tests/deployer/policy/test_rules.py compares.
"""
