"""Headers between hops: edge -> gateway -> node and back. Lower case, as wire/ has them."""

from typing import Final

REQUEST_ID: Final = "x-request-id"
TENANT: Final = "x-nearfield-tenant"
WEIGHT: Final = "x-nearfield-weight"  # its key's; absent: 1
WAITED: Final = "x-nearfield-waited"  # "1" where it had to wait for a place of its key's; else absent
TOKENS: Final = "x-nearfield-tokens"  # of a whole answer: the prompt's and its own, as the node counted them
KEY: Final = "x-nearfield-key"  # its public id: the first KEY_ID_CHARS digits of its digest
KEY_ID_CHARS: Final = 12
ATTEMPT: Final = "x-nearfield-attempt"  # which of the edge's tries at regions this is, from 0
DEADLINE_MS: Final = "x-nearfield-deadline-ms"
WAIT_S: Final = "x-nearfield-wait"
RESUME: Final = "x-nearfield-resume"
ASK: Final = "x-nearfield-ask"
REVISION: Final = "x-nearfield-revision"
POP: Final = "x-nearfield-pop"
FOR: Final = "x-nearfield-for"  # edge -> gateway: another region's name, to which the request is passed on
PASSED_BY: Final = "x-nearfield-passed-by"  # gateway -> gateway: who did so
REGION: Final = "x-nearfield-region"
START: Final = "x-nearfield-start"
REMOTE_BYTES: Final = "x-nearfield-remote-bytes"
ROUTE: Final = "x-nearfield-route"
PREFER_REGION: Final = "x-nearfield-prefer-region"
REPLICA: Final = "x-nearfield-replica"
PREFER_REPLICA: Final = "x-nearfield-prefer-replica"
