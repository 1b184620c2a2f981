"""How EC2 plugs into a site: agents of all accounts, placement, the extension."""
