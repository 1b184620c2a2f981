"""The migrations of the catalog's database, one module a step."""
