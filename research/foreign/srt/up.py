"""Turns what a bottle is to be into settings of srt, which later commands get as the handle."""

import json
import sys

spec = json.load(sys.stdin)
settings = {
    "network": {"allowedDomains": [route["host"] for route in spec["egress"]], "deniedDomains": []},
    "filesystem": {"denyRead": [], "allowWrite": ["/tmp"], "denyWrite": []},
}
answer = {
    "handle": json.dumps(settings),
    "proxy": "127.0.0.1:3128",
    "denial": {"status": 403, "header": "x-proxy-error"},
}
print(json.dumps(answer))
