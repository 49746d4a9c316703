"""``make gallery``: a page to look at what the model draws, beside this checkout's server.

The page (deploy/gallery/) and the model have one origin here, as they have behind the proxy:
/predictions/dcgan, the model's description and addresses of pictures are passed on to TorchServe,
so that needs no CORS and the page may forbid itself every other address.

Exit codes: 1 the page or the model server cannot start, 2 bad usage, 130 after Ctrl-C, which also
stops a model server that was started for the page.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.middleware.http_proxy import ProxyMiddleware
from werkzeug.serving import make_server
from werkzeug.utils import redirect, send_from_directory
from werkzeug.wrappers import Request, Response

from deploy import serve
from deploy.server import HOST, ROOT, Ports

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PAGE = ROOT / "deploy" / "gallery"
PATH = "/gallery/"
# What the page's own policy, a meta element, cannot say. deploy/proxy/gallery.conf has the same.
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
PASSED = {"/predictions/dcgan": "POST", "/models/dcgan": "GET"}
# As in deploy/proxy/nginx.conf: what the handler reads as the address of a picture.
ADDRESS = re.compile(r"/(v/[^/]+/)?((seeds?|walk|name)/|random[.])")
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Gallery:
    """Serve the page on 127.0.0.1 until Ctrl-C, and the model unless it is served already."""

    ports: Annotated[Ports, tyro.conf.arg(name="")] = field(default_factory=Ports)
    port: int = 8090
    """Where the page is; 0 takes a free one."""

    def __post_init__(self) -> None:
        self.ports.check()
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; it must be 0 to 65535")


def application(ports: Ports) -> WSGIApplication:
    """The page as a WSGI application.

    Args:
        ports: of the TorchServe that the requests are passed on to.
    """
    inference, management = (f"http://{HOST}:{p}" for p in (ports.inference, ports.management))
    passing = ProxyMiddleware(
        _page,
        {"/predictions": {"target": inference}, "/models": {"target": management}},
        timeout=_TIMEOUT_S,
    )

    def checked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Nothing but what the page asks for: /models is TorchServe's management."""
        request = Request(environ)
        if ADDRESS.match(request.path) and request.method in ("GET", "HEAD"):
            environ["HTTP_X_PICTURE_ADDRESS"] = environ["REQUEST_URI"]
            environ |= {"PATH_INFO": "/predictions/dcgan", "QUERY_STRING": ""}
            return passing(environ, start_response)
        if request.path.startswith(tuple(passing.targets)):
            allowed = PASSED.get(request.path)
            if allowed is None:
                return NotFound()(environ, start_response)
            if request.method != allowed:
                return MethodNotAllowed([allowed])(environ, start_response)
        return passing(environ, start_response)

    return checked


@Request.application
def _page(request: Request) -> Response | HTTPException:
    if request.path in ("/", PATH.rstrip("/")):
        return redirect(PATH)
    if not request.path.startswith(PATH):
        return NotFound()
    name = request.path.removeprefix(PATH) or "index.html"
    response = send_from_directory(PAGE, name, request.environ)  # raises NotFound
    response.headers.update(HEADERS)
    return response


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        command = tyro.cli(Gallery, prog="python -m deploy.gallery", args=arguments)
    except BrokenPipeError:  # who reads --help has seen enough
        return 1
    try:
        opened = socket.create_server((HOST, command.port))
    except OSError as error:
        print(
            f"error: the page cannot listen on port {command.port} ({error.strerror}); choose "
            "another one: make gallery GALLERY_PORT=8091",
            file=sys.stderr,
        )
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = None
    try:
        started = serve.start(serve.Start(command.ports))
        _serve_page(opened, command.ports)
    except serve.FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        opened.close()
        if started is not None:
            serve.stop(started)


def _serve_page(opened: socket.socket, ports: Ports) -> NoReturn:
    port = opened.getsockname()[1]
    server = make_server(HOST, port, application(ports), threaded=True, fd=opened.fileno())
    print("\nthe page, until Ctrl-C:\n", file=sys.stderr)
    print(f"http://{HOST}:{port}{PATH}", flush=True)
    server.serve_forever()
    raise KeyboardInterrupt  # werkzeug ends serve_forever quietly at Ctrl-C


if __name__ == "__main__":
    sys.exit(main())
