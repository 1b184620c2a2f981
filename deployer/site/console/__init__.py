"""The web console of the site: pages, sessions, forms. Asks the same use cases as the API."""
