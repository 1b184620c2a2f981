"""The commands of nodes, sites, policies and EC2: arguments in, text out. The work is done by the rooms below."""
