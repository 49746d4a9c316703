"""A stand-in for TorchServe that keeps what reaches it, for tests of what the proxy passes on."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from deploy.server import HOST, Ports
from handler.service import Service
from handler.wire import Headers

# What it says of all that it sends.
TORCHSERVES = {
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Pragma": "no-cache",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


@dataclass
class Upstream:
    """One port for everything; answers with the description of a model, or with ``reply``,
    ``code`` and ``headers``, or as ``service`` does, as long as ``gate`` is set; with the code 0
    it hangs up."""

    port: int = 0
    status: str = "READY"
    reply: bytes = b""
    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    service: Service | None = None
    seen: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def ports(self) -> Ports:
        return Ports(inference=self.port, management=self.port, metrics=self.port)

    def described(self) -> bytes:
        """As TorchServe's management port describes a model."""
        worker = {"id": str(self.port), "status": self.status, "memoryUsage": 1}
        queue = {"pendingRequests": 0, "remainingCapacity": 100}
        return json.dumps(
            [{"minWorkers": 1, "workers": [worker], "jobQueueStatus": queue}]
        ).encode()


@contextlib.contextmanager
def upstream(status: str = "READY", reply: bytes = b"", host: str = HOST) -> Iterator[Upstream]:
    live = Upstream(status=status, reply=reply)
    live.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            live.seen.append((self.command, self.path, self.headers.items()))
            live.gate.wait(30)
            if not live.code:
                return
            code, headers, body = live.code, live.headers, live.reply or live.described()
            if live.service is not None:
                (reply,) = live.service.handle([{}], [Headers(dict(self.headers))])
                code, body = reply.status, reply.body
                headers = {"Content-Type": reply.content_type} | reply.headers | TORCHSERVES
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Listening((host, 0), Handler) as server:
        live.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield live
        finally:
            live.gate.set()
            server.shutdown()
            thread.join()
