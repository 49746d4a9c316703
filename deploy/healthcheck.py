"""Is the model server ready? Asked from inside the container; only the standard library.

Ready is: every worker is READY, and one image comes back. TorchServe's own /ping says Healthy
before the model is loaded, and when it could not be loaded at all. A full queue, which refuses
the image, is healthy too: a busy server must not be restarted.

Exit codes: 0 ready, 1 not ready, with the reason on stderr.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request

from deploy.entrypoint import DRAINING

DESCRIPTION = "http://127.0.0.1:8081/models/dcgan"
PREDICTION = "http://127.0.0.1:8080/predictions/dcgan"
_PNG = b"\x89PNG\r\n\x1a\n"


def reason_not_ready(timeout_s: float = 5.0) -> str:
    """Why requests cannot be answered; empty when they can."""
    if DRAINING.exists():
        return "the server is being stopped"
    try:
        with urllib.request.urlopen(DESCRIPTION, timeout=timeout_s) as reply:
            model = json.load(reply)[0]
        states = [worker["status"] for worker in model["workers"]]
        if not states or any(state != "READY" for state in states):
            return f"not every worker is READY: {states}"
        if model["jobQueueStatus"]["remainingCapacity"] == 0:
            return ""
        request = urllib.request.Request(
            PREDICTION, b'{"seed": 0}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return "" if reply.read(8) == _PNG else "the reply is not a PNG"
    except urllib.error.HTTPError as error:
        return f"{error.url} answered {error.code}"
    except (OSError, ValueError, KeyError, IndexError) as error:
        return f"TorchServe does not answer: {error}"


if __name__ == "__main__":
    if reason := reason_not_ready():
        sys.exit(reason)
