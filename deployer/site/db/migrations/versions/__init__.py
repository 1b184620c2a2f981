"""The migrations of the site's database, one module a step."""
