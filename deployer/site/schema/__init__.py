"""The documents of the site's HTTP API. No behavior."""
