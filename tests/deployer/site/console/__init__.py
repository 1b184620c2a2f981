"""Tests of deployer.site.console. Modules without a file of their own here, and where they are tested:

- `app`, `events`, `machines`, `request`: tests/deployer/site/console/test_pages.py and
  tests/deployer/site/console/test_forms.py ask for their pages, tests/deployer/site/console/test_browser.py shows them
  in a browser.
"""
