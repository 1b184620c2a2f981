"""Who may read which image: rules, their store, and the authorizer of a request. Does not know the HTTP routes."""
