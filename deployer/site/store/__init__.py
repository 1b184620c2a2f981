"""Transactions over the site's database: units of work, the scripts that change several tables, and who is woken after a
commit.
"""
