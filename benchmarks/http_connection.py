"""One keep-alive HTTP/1.1 connection that posts, at a cost of some 0.1 ms of processor.

The request head is built once and the reply is parsed by llhttp (geventhttpclient's parser):
half the cost of its whole client, so that the load tester is not what is measured.
"""

from __future__ import annotations

import contextlib
import select
from dataclasses import dataclass
from urllib.parse import urlsplit

from gevent import socket
from geventhttpclient.response import HTTPResponse

_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Target:
    """Where to post to.

    Args:
        host, port: of the server.
        head: the request's first bytes, up to and including ``Content-Length: ``.
    """

    host: str
    port: int
    head: bytes


@dataclass(frozen=True)
class Reply:
    """What came back.

    Args:
        status: 200..599.
        images: what X-Num-Images says; 0 without that header.
        size_bytes: everything received, headers included.
    """

    status: int
    images: int
    size_bytes: int


def target(url: str, content_type: str, headers: tuple[str, ...] = ()) -> Target:
    """A target from a URL and ``Name: value`` headers.

    Raises:
        ValueError: not a plain http URL, or a header that is none.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.username is not None:
        raise ValueError(
            f"url: seen {url!r}; allowed is http://host:port/path. For a server behind TLS give "
            "the address behind the proxy: TLS would measure the client as well"
        )
    lines = [f"Content-Type: {content_type}", *headers]
    for line in lines:
        name, colon, value = line.partition(":")
        if not (colon and name.strip() and value.strip() and line.isascii() and line.isprintable()):
            raise ValueError(f"header: seen {line!r}; allowed is 'Name: value' in ASCII")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not (path.isascii() and path.isprintable() and " " not in path):
        raise ValueError(f"url: seen the path {path!r}; percent-encode it")
    first = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: benchmarks.load\r\n"
    head = first + "".join(f"{line}\r\n" for line in lines) + "Content-Length: "
    return Target(parts.hostname, parts.port or 80, head.encode("ascii"))


class Connection:
    """Opened at the first request, again after an error or when the server has closed it."""

    def __init__(self, to: Target) -> None:
        self._target = to
        self._socket: socket.socket | None = None
        self._readable = select.poll()

    def post(self, body: bytes) -> Reply:
        """Send and wait for the whole reply.

        Raises:
            OSError: refused, reset, or closed before the reply was complete.
            http.client.HTTPException: what came is no HTTP.
        """
        connected = self._open()
        connected.sendall(b"%b%d\r\n\r\n%b" % (self._target.head, len(body), body))
        parser = HTTPResponse("POST")
        size_bytes = 0
        while not parser.message_complete or parser.status_code < 200:  # 1xx: more follows
            data = connected.recv(_BLOCK_BYTES)
            parser.feed(data)  # empty at the end: ends a body without a length
            size_bytes += len(data)
            if not data and not parser.message_complete:
                raise ConnectionError("closed before the end of the reply")
        if parser.should_close():
            self.close()
        images = str(parser.get("x-num-images", "0"))
        return Reply(parser.status_code, int(images) if images.isdecimal() else 0, size_bytes)

    def close(self) -> None:
        """Close; the next post opens again."""
        if self._socket is not None:
            with contextlib.suppress(KeyError):
                self._readable.unregister(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        # An idle connection that can be read was closed by the server: no fault of a request.
        if self._socket is not None and self._readable.poll(0):
            self.close()
        if self._socket is None:
            self._socket = socket.create_connection((self._target.host, self._target.port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._readable.register(self._socket.fileno(), select.POLLIN)
        return self._socket
