"""The site as one object: puts its parts together, with its background tasks and TLS. The daemon runs it."""
