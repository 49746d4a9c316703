"""Stand-ins for what the proxy asks: a TorchServe that keeps what reaches it, and a nameserver."""

import contextlib
import ipaddress
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer

from deploy.server import HOST, Ports
from handler.service import Service
from handler.wire import Headers
from tests.support.web import Answering, serving

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

    class Handler(Answering):
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
            self.say(code, body, headers)

        def do_POST(self) -> None:
            self.do_GET()

    class Listening(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with serving(Listening((host, 0), Handler)) as server:
        live.port = server.server_address[1]
        try:
            yield live
        finally:
            live.gate.set()


@dataclass
class Nameserver:
    """Knows one address of every name, or none; ``url`` is where nginx asks it."""

    url: str
    address: str | None


@contextlib.contextmanager
def nameserver(host: str) -> Iterator[Nameserver]:
    """It listens there, and that is the address that it knows."""
    known = Nameserver("", host)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked, back = self.request
            (kind,) = struct.unpack("!H", asked[-4:-2])
            address = ipaddress.ip_address(known.address or host).packed
            found = known.address is not None and kind == {4: 1, 16: 28}[len(address)]  # A, AAAA
            flags = 0x8180 if known.address else 0x8183  # no such name
            head = asked[:2] + struct.pack("!HHHHH", flags, 1, found, 0, 0)
            record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 5, len(address)) + address
            back.sendto(head + asked[12:] + record * found, self.client_address)

    class Listening(socketserver.ThreadingUDPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with serving(Listening((host, 0), Handler)) as server:
        where = f"[{host}]" if ":" in host else host
        known.url = f"{where}:{server.server_address[1]}"
        yield known
