"""Tests of deployer.site.store. Modules without a file of their own here, and where they are tested:

- `changes`, `reports`, `store`, `unit_of_work`: tests/deployer/site/store/test_admission.py,
  tests/deployer/site/store/test_nodes.py and tests/deployer/site/store/test_deadlines.py on both databases,
  tests/journeys/machines/test_store_model.py in any order.
- `change_notifier`: tests/deployer/site/api/test_events.py.
- `migration`: tests/deployer/site/lifecycle/test_migration_rules.py.
"""
