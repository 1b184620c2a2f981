"""The commands `partita catalog`, `image`, `vo` and `hepix`: arguments in, text out.

The work is done by the rooms below.
"""
