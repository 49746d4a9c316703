"""Three servers behind the proxy, under an open load: one is killed, one is stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.failover import FailoverConfig, measure

JS_MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
pytestmark = [
    pytest.mark.skipif(
        shutil.which("nginx") is None or not JS_MODULE.exists(),
        reason="needs nginx: apt-get install nginx-light libnginx-mod-http-js",
    ),
]


def test_no_request_is_lost_and_the_last_server_goes_on() -> None:
    """As many requests as the queue of one server holds: a slow machine answers later, but all."""
    result = measure(FailoverConfig(rate=10, seconds=9))
    assert result["killed_s"] < result["stopped_s"] < 9
    # Those in flight on the killed server and on the stopped one were sent again.
    assert result["outcomes"] == {**dict.fromkeys(result["outcomes"], 0), "2xx": result["arrivals"]}
    assert result["retried"] >= 1
    assert result["answered_after_stop"] > 0
