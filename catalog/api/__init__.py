"""The HTTP routes of the catalog: they parse, authorize, call a use case, and answer. No decisions."""
