"""Which site a node has joined, and its client of that site's API. Does not act on what the site wants."""
