"""The site's database, SQLite or PostgreSQL: tables, migrations, queries. Does not decide."""
