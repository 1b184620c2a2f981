"""Transactions over the site's database: units of work, changes of several tables, and notification after a commit."""
