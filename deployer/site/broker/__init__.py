"""The context broker: guests of a cluster publish facts and learn of their peers. Knows guests only by their credentials."""
