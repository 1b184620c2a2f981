"""The commands `partita node cache` and `partita catalog seed`: arguments in, text out."""
