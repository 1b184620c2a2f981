"""What every HTTP service and client of Partita shares: server configuration, connections, parameters, problem
documents, metrics. Does not know which resources a service has.
"""
