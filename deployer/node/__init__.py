"""The node service: stages, decides, boots and keeps machines, alone or for a site. Does not import the site."""
