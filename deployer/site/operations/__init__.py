"""The site's use cases: admission, changes, joining, expiry, fencing, retention. Does not know HTTP."""
