"""Which role may use which route: the table."""

RIGHTS = """
[[grant]]
name = "members"
vo = "star"
groups = ["/star"]
capabilities = true
actions = ["deploy", "read", "modify", "hold", "cancel", "save", "console"]
each = { machines = 1000, cores = 1000, memory = "1000GiB", lifetime = "1d" }

[[grant]]
name = "administrators"
vo = "star"
groups = ["/star"]
roles = ["VO-Admin"]
actions = ["read", "modify", "hold", "cancel"]
over = "vo"

[[grant]]
name = "others' administrators"
vo = "atlas"
roles = ["VO-Admin"]
actions = ["read", "modify", "hold", "cancel"]
over = "vo"

[[grant]]
name = "security"
vo = "site"
groups = ["/site/security"]
actions = ["read", "hold", "cancel", "console", "nodes", "audit"]
over = "all"

[[grant]]
name = "administrators of the site"
vo = "site"
groups = ["/site/admins"]
actions = ["read", "modify", "hold", "cancel", "nodes", "manage-nodes", "audit"]
over = "all"
"""


ROLES = {
    "nobody": "shows nothing",
    "forger": "shows a token that somebody else signed",
    "stranger": "has a good token, and no grant names them",
    "requester": "asked for the machines and the cluster",
    "reader": "is the requester, with a token for reading alone",
    "colleague": "is of the same VO",
    "admin": "administers that VO, with a token",
    "proxy": "administers that VO, with a proxy and VOMS attributes",
    "limited": "has a limited proxy of the same",
    "other": "administers another VO",
    "security": "the site's security",
    "keeper": "the site's administrators",
    "operator": "opens the site's own socket",
    "node": "a node of the site",
    "left": "a node that was taken out of the site",
    "guest": "a guest with a certificate of the site's",
}


COLUMNS = tuple(ROLES)


EVERYBODY = "y" * len(COLUMNS)


#                                          nobody/forger stranger requester/reader colleague  admin/proxy/limited
#                                          other security keeper operator node left guest
MATRIX = {
    "GET /livez":                            EVERYBODY,
    "GET /readyz":                           EVERYBODY,
    "GET /v2/ca":                            EVERYBODY,
    "POST /v2/join":                         EVERYBODY,
    "GET /v2/status":                        "uu f ff f fff f yyy ff u",
    "POST /v2/login-links":                  "uu f ff f fff f ffy ff u",
    "POST /v2/deployments":                  "uu f yf y yyf f ffy ff u",
    "GET /v2/deployments":                   "uu f yy y yyy y yyy ff u",
    "GET /v2/deployments/{deployment}":      "uu h yy h yyy h yyy hh u",
    "DELETE /v2/deployments/{deployment}":   "uu h yf h yyf h yyy hh u",
    "GET /v2/deployments/{deployment}/explain":     "uu h yy h yyy h yyy hh u",
    "GET /v2/deployments/{deployment}/known_hosts": "uu h yy h yyy h yyy hh u",
    "GET /v2/machines":                      "uu f yy y yyy y yyy ff u",
    "GET /v2/machines/{machine}":            "uu h yy h yyy h yyy hh u",
    "PATCH /v2/machines/{machine}":          "uu h yf h yyf h fyy hh u",
    "GET /v2/machines/{machine}/console":    "uu h yy h fff h yfy hh u",
    "POST /v2/machines/{machine}/save":      "uu h yf h fff h ffy hh u",
    "POST /v2/machines/{machine}/pause":     "uu h yf h yyf h yyy hh u",
    "POST /v2/machines/{machine}/suspend":   "uu h yf h yyf h yyy hh u",
    "POST /v2/machines/{machine}/resume":    "uu h yf h yyf h fyy hh u",
    "POST /v2/machines/{machine}/reactivate": "uu h yf h yyf h fyy hh u",
    "POST /v2/machines/{machine}/reboot":    "uu h yf h yyf h fyy hh u",
    "POST /v2/machines/{machine}/shutdown":  "uu h yf h yyf h yyy hh u",
    "POST /v2/machines/{machine}/destroy":   "uu h yf h yyf h yyy hh u",
    "GET /v2/events":                        "uu f yy y yyy y yyy ff u",
    "GET /v2/events/stream":                 "uu f yy y yyy y yyy ff u",
    "GET /v2/audit":                         "uu f ff f fff f yyy ff u",
    "POST /v2/clusters":                     "uu f yf y yyf f ffy ff u",
    "GET /v2/clusters":                      "uu f yy y yyy y yyy ff u",
    "GET /v2/clusters/{cluster}":            "uu h yy h yyy h yyy hh u",
    "DELETE /v2/clusters/{cluster}":         "uu h yf h yyf h yyy hh u",
    "POST /v2/clusters/{cluster}/scale":     "uu h yf h yyf h fyy hh u",
    "POST /v2/clusters/{cluster}/replace":   "uu h yf h yyf h fyy hh u",
    "GET /v2/nodes":                         "uu f ff f fff f yyy ff u",
    "GET /v2/nodes/{node}":                  "uu f ff f fff f yyy ff u",
    "GET /v2/swarm":                         "uu f ff f fff f yyy ff u",
    "POST /v2/nodes/tokens":                 "uu f ff f fff f fyy ff u",
    "POST /v2/nodes/{node}/drain":           "uu f ff f fff f fyy ff u",
    "POST /v2/nodes/{node}/undrain":         "uu f ff f fff f fyy ff u",
    "POST /v2/nodes/{node}/remove":          "uu f ff f fff f fyy ff u",
    "GET /v2/agent/desired":                 "uu f ff f fff f fff yf u",
    "POST /v2/agent/report":                 "uu f ff f fff f fff yf u",
    "POST /v2/agent/console":                "uu f ff f fff f fff yf u",
    "POST /v2/agent/certificate":            "uu f ff f fff f fff yf u",
}  # fmt: skip


DOCUMENT = {"name": "c", "roles": {"worker": {"image": "star/worker@1.0"}}}


BODIES: dict[str, bytes] = {
    "POST /v2/machines/{machine}/save": b'{"version":"1.1"}',
    "PATCH /v2/machines/{machine}": b'{"lifetime":60}',
    "POST /v2/clusters/{cluster}/scale": b'{"count":1,"role":"worker"}',
    "POST /v2/clusters/{cluster}/replace": b'{"member":"c-worker-1"}',
}
"""What has to be sound before rights are asked about. Elsewhere `{}` is sent: where it is none, that is told to those who may."""


MISSING = {"deployment": "deployment-not-found", "machine": "machine-not-found", "cluster": "cluster-not-found"}
