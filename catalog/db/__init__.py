"""The catalog's database: tables, migrations, and queries on images, clusters and publications.

Does not decide on access rights.
"""
