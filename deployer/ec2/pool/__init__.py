"""The machines of one account, reconciled toward the site's desired state."""
