"""Tests of deployer.policy. Modules without a file of their own here, and where they are tested:

- `cedar_schema`: tests/deployer/policy/test_cedar.py.
- `decision`: what tests/deployer/policy/rules/test_rules.py compares.
- `resolution`: tests/deployer/node/machines/test_deployment.py and tests/deployer/site/operations/test_admission.py.
"""
