"""A scripted server for the client, and what it may answer."""

import base64
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import ThreadingHTTPServer
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.support.web import Answering, serving

Step = tuple[int, dict[str, str], bytes]


class Scripted(ThreadingHTTPServer):
    """Answers request i with step i, and the last step for ever; remembers what came.

    Args:
        hang_s, body_s: wait before a reply, and between its headers and its body.
    """

    steps: list[Step]
    seen: list[tuple[dict[str, str], Any]]
    paths: list[str]
    hang_s = 0.0
    body_s = 0.0


class Handler(Answering):
    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.server.seen.append((dict(self.headers), json.loads(body)))
        time.sleep(self.server.hang_s)
        status, headers, data = self.server.steps[
            min(len(self.server.seen), len(self.server.steps)) - 1
        ]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        time.sleep(self.server.body_s)
        with suppress(ConnectionError):  # the client has gone
            self.wfile.write(data)


@contextmanager
def scripted() -> Iterator[Scripted]:
    made = Scripted(("127.0.0.1", 0), Handler)
    made.seen, made.paths = [], []
    with serving(made):
        yield made


def png(text: str | None, colour: str = "red") -> bytes:
    info, buffer = PngInfo(), io.BytesIO()
    if text is not None:
        info.add_text("dcgan", text)
    Image.new("RGB", (4, 3), colour).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def document(*pngs: bytes, seeds: list[int] | None = None) -> Step:
    images = [base64.b64encode(data).decode() for data in pngs]
    return 200, {}, json.dumps({"images": images, "seeds": seeds}).encode()


OK: Step = (200, {"X-Seed": "7"}, png('{"request": {"seed": 7}}'))
