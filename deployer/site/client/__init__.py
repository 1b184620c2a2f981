"""Clients of a site's API: requests, clusters, discovery, joining. Knows no server code."""
