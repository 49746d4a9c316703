"""Three servers behind the proxy, under an open load: one is killed, one is stopped."""

import itertools
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

import gevent
import psutil

from benchmarks.engine import Limits, asks, poisson, run, target
from deploy.server import ROOT, Ports, Server, ask
from tests.support import live
from tests.support.proxies import ALICE, NEEDS_NGINX, running, several

SECONDS, RATE_PER_S = 9.0, 10.0
pytestmark = NEEDS_NGINX


def test_no_request_is_lost_and_the_last_server_goes_on(server: Server, tmp_path: Path) -> None:
    """As many requests as the queue of one server holds: a slow machine answers later, but all."""
    lost = [Server(tmp_path / str(i), live.STORE, Ports.free()) for i in range(2)]
    with ExitStack() as stack:
        launchers = []
        for each in lost:
            each.folder.mkdir()
            launchers.append(psutil.Process(stack.enter_context(each.running()).pid))
        # Practically without limits, and without TLS, which the engine does not speak.
        script = shutil.copytree(ROOT / "deploy" / "proxy", tmp_path / "settings") / "proxy.sh"
        script.write_text(script.read_text().replace("' ssl http2'", "''"))
        wide = {"RATE": "10000r/s", "BURST": "10000"}
        wide |= {"CONNECTIONS": "1000", "ALL_CONNECTIONS": "1000"}
        given = several(*(each.ports for each in (*lost, server))) | wide
        proxy = stack.enter_context(running(tmp_path / "proxy", Ports(), script=script, **given))
        url = proxy.url.replace("https:", "http:")
        live.wait(lambda: ask("GET", f"{url}/healthz", timeout=5).ok)

        def kill() -> None:
            for process in [*launchers[0].children(recursive=True), launchers[0]]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

        # Greenlets, as the engine's are. Java is stopped as an init system would.
        killing = gevent.spawn_later(SECONDS / 3, kill)
        stopping = gevent.spawn_later(2 * SECONDS / 3, launchers[1].children()[0].terminate)
        to = target(url, "application/json", (f"X-API-Key: {ALICE}",))
        offsets, some = poisson(RATE_PER_S, SECONDS, 1), asks(itertools.repeat(1), 0)
        tally = run(to, offsets, SECONDS, some, Limits(timeout_s=60))
    assert killing.successful()
    assert stopping.successful()
    # Those in flight on the killed server and on the stopped one were sent again.
    assert tally.outcomes == {"2xx": tally.arrivals}
    assert sum("," in line["upstream"] for line in proxy.log()) >= 1
    assert tally.last_ok_s > 2 * SECONDS / 3 + 0.5
