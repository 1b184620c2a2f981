"""Tests of deployer.policy.rules. Modules without a file of their own here, and where they are tested:

- `amounts`, `endorsements`, `guests`, `images`: tests/deployer/policy/rules/test_rules.py.
- `rule`: tests/deployer/policy/rules/test_rule_laws.py.
"""
