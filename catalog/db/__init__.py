"""The catalog's database: tables, migrations, and queries on images, clusters and publications.

Does not decide who may do what.
"""
