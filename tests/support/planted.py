"""Servers that answer as a test wants, for the load tester."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from benchmarks.engine import Ask
from tests.support.web import Answering, serving

Answer = Callable[[Answering, int], None]


@contextmanager
def planted(answer: Answer, get: Callable[[], str] = str) -> Iterator[str]:
    """A server whose ``answer`` gets each POST with its number, from 0; gives the URL.

    ``get`` gives the text that a GET is answered with.
    """
    numbers = itertools.count()

    class Handler(Answering):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self, next(numbers))

        def do_GET(self) -> None:
            self.say(200, get().encode())

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *_: object) -> None:
            pass  # clients that gave up

    with serving(Server(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}/predictions/dcgan"


def say(handler: Answering, status: int, images: int = 1) -> None:
    handler.say(status, b"ok", {"X-Num-Images": str(images)})


def after(seconds: float) -> Answer:
    """Each is answered so late."""

    def answer(handler: Answering, _: int) -> None:
        time.sleep(seconds)
        say(handler, 200)

    return answer


def slow_asks() -> Iterator[Ask]:
    """Stands for a client that has no processor to itself."""
    while True:
        time.sleep(0.03)
        yield Ask(b"{}")
