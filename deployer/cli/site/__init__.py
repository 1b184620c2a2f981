"""The commands that speak to a site."""
