"""Is the model server ready? Asked from inside the container.

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

from deploy import container
from deploy.lifecycle import ServerError

_PNG = b"\x89PNG\r\n\x1a\n"


def reason_not_ready(timeout_s: float = 5.0) -> str:
    """Why requests cannot be answered; empty when they can."""
    if container.DRAINING.exists():
        return "the server is being stopped"
    try:
        settings = container.read_settings()
        with urllib.request.urlopen(settings.description_url, timeout=timeout_s) as reply:
            model = json.load(reply)[0]
        states = [worker["status"] for worker in model["workers"]]
        if not states or any(state != "READY" for state in states):
            return f"not every worker is READY: {states}"
        if model["jobQueueStatus"]["remainingCapacity"] == 0:
            return ""
        request = urllib.request.Request(
            settings.prediction_url, b'{"seed": 0}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return "" if reply.read(8) == _PNG else "the reply is not a PNG"
    except ServerError as error:
        return str(error)
    except urllib.error.HTTPError as error:
        return f"{error.url} answered {error.code}"
    except (OSError, ValueError, KeyError, IndexError) as error:
        return f"TorchServe does not answer: {error}"


if __name__ == "__main__":
    if reason := reason_not_ready():
        sys.exit(reason)
