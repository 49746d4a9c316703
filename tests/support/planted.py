"""Servers that answer as a test wants, for the load tester."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.engine import Ask

Answer = Callable[[BaseHTTPRequestHandler, int], None]


@contextmanager
def planted(answer: Answer, get: Callable[[], str] = str) -> Iterator[str]:
    """A server whose ``answer`` gets each POST with its number, from 0; gives the URL.

    ``get`` gives the text that a GET is answered with.
    """
    numbers = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self, next(numbers))

        def do_GET(self) -> None:
            text = get().encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *_: object) -> None:
            pass  # clients that gave up

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/predictions/dcgan"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, status: int, images: int = 1) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", "2")
    handler.send_header("X-Num-Images", str(images))
    handler.end_headers()
    handler.wfile.write(b"ok")


def after(seconds: float) -> Answer:
    """Each is answered so late."""

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        time.sleep(seconds)
        say(handler, 200)

    return answer


def slow_asks() -> Iterator[Ask]:
    """Stands for a client that has no processor to itself."""
    while True:
        time.sleep(0.03)
        yield Ask(b"{}")
