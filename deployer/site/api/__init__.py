"""The HTTP routes of the site: they parse, authorize, call a use case, and answer. No decisions."""
