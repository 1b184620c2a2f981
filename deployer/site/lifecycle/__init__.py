"""What verbs, reports, saves and migrations make of a machine. Pure decisions: a record in, a record out."""
