"""Tests of deployer.site.api. Modules without a file of their own here, and where they are tested:

- `parameters`: tests/deployer/site/api/test_app.py.
- `saves`: tests/deployer/site/lifecycle/test_save_rules.py.
"""
