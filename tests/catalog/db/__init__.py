"""Tests of catalog.db. Modules without a file of their own here, and where they are tested:

- `clusters`: tests/catalog/publication/test_clusters.py.
- `migrator`, `tables`: tests/catalog/db/test_engine.py compares the tables with what the migrations make.
"""
