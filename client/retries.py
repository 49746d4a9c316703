"""When a call is tried again, and after which wait."""

from __future__ import annotations

import random

from urllib3 import Retry
from urllib3.exceptions import InvalidHeader

# The server did not take the request: sending it again is safe. A time-out or a broken
# connection does not tell whether the request was worked on.
RETRIED = frozenset({429, 503})
LONGEST_WAIT_S = 30


class Retries(Retry):
    """Full jitter, and Retry-After where the server says it."""

    RETRY_AFTER_STATUS_CODES = RETRIED  # urllib3 would add 413

    def get_backoff_time(self) -> float:
        """The wait before the next try, s: uniform in 0 .. min(30, factor * 2^k), k retries so far.

        Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015
        (full jitter). urllib3 adds its jitter to a fixed wait, so callers stay in step.
        """
        longest = self.backoff_factor * 2.0 ** (len(self.history) - 1)
        return random.uniform(0, min(self.backoff_max, longest))

    def parse_retry_after(self, retry_after: str) -> float:
        """The wait that Retry-After asks for (RFC 9110, section 10.2.3), 0 .. 30 s.

        0, which means the back-off, for what is neither seconds nor a date: an ill-written
        header must not hide the status that came with it.
        """
        try:
            return super().parse_retry_after(retry_after)
        except (InvalidHeader, ValueError, OverflowError):
            return 0.0


def retries(count: int, backoff_s: float) -> Retries:
    """At most ``count`` retries of 429 and 503, and of nothing else."""
    return Retries(
        total=count, connect=0, read=0, redirect=0, other=0, status=count,
        status_forcelist=RETRIED, allowed_methods=None, raise_on_status=False,
        backoff_factor=backoff_s, backoff_max=LONGEST_WAIT_S,
        respect_retry_after_header=True, retry_after_max=LONGEST_WAIT_S,
    )  # fmt: skip
