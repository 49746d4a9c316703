"""A page of pictures for everybody: the server with a key that docs/operations/containers.md puts
before the proxy, and visitors of it in Chromium."""

import contextlib
import io
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Response

from deploy.server import HOST, Ports
from handler.address import seed_of
from tests.support import live
from tests.support.documents import text_of
from tests.support.proxies import ALICE, Proxy

# Of each <img> what it shows: an animation's first frame.
_PIXELS = """all => all.map((one) => {
  const canvas = new OffscreenCanvas(one.naturalWidth, one.naturalHeight);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(one, 0, 0);
  const drawn = context.getImageData(0, 0, canvas.width, canvas.height);
  return [drawn.height, drawn.width, Array.from(drawn.data)];
})"""


@contextlib.contextmanager
def between(folder: Path, proxy: Proxy) -> Iterator[str]:
    """nginx with the block of the document, for the length of a ``with`` block; gives its URL."""
    guide = text_of("docs/operations/containers.md")
    (block,) = re.findall(r"```nginx\n(.*?)```", guide, re.DOTALL)
    port = Ports.free().inference
    for shown, real in (
        ("listen 80;", f"listen {HOST}:{port};"),
        ("https://127.0.0.1:8443", proxy.url),
        ("/etc/nginx/dcgan.crt", proxy.certificate),
        ("X-API-Key KEY;", f"X-API-Key {ALICE};"),
    ):
        assert shown in block
        block = block.replace(shown, real)
    kinds = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    folders = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    own = f"daemon off; user root; pid {folder}/pid; events {{ }}"
    config.write_text(f"{own} http {{ access_log off; {folders} {block} }}")
    process = subprocess.Popen(["nginx", "-e", "stderr", "-c", config])

    def listens() -> bool:
        assert process.poll() is None
        with contextlib.suppress(OSError):
            socket.create_connection((HOST, port), 5).close()
            return True
        return False

    try:
        live.wait(listens, 30)
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(20)


def visit(
    context: BrowserContext, url: str, paths: Sequence[str]
) -> tuple[dict[str, str], list[npt.NDArray[np.uint8]]]:
    """Load a page of these pictures; gives what the proxy's cache says of each that is fetched, and
    what each <img> shows, uint8 (height, width, RGBA)."""
    page = context.new_page()
    said: dict[str, str] = {}

    def note(reply: Response) -> None:
        told = reply.headers.get("cache-status", "").removeprefix("dcgan-proxy; ")
        said[reply.url.removeprefix(url)] = told

    page.goto(f"{url}/nothing")
    page.on("response", note)
    page.set_content("".join(f'<img src="{path}">' for path in paths))
    drawn = page.locator("img").evaluate_all(_PIXELS)
    page.close()
    return said, [
        np.array(data, np.uint8).reshape(height, width, 4) for height, width, data in drawn
    ]


def look_at_a_page(browser: Browser, url: str, proxy: Proxy, logged: Callable[[], int]) -> None:
    """Each <img> is the picture of the POST, size and pixels. The second visitor's come from the
    proxy's cache, and who comes again has them.

    Args:
        url: of ``between``.
        logged: how many requests the proxy has answered.
    """
    facts = proxy.predict(seed=1).headers
    weights, directions = (facts[f"X-{name}-SHA256"][:8] for name in ("Weights", "Directions"))
    walk = {"between": [1, 7, 42], "steps": 8}
    edited = {"seed": 42, "edit": {"direction-1": 1}, "padding": 8}
    pictures = {
        f"/v/{weights}-{directions}/seed/42.png?edit.direction-1=1&padding=8": edited,
        "/name/alice.png": {"seed": seed_of("alice")},
        **{
            f"/v/{weights}/walk/1-7-42.{form}?steps=8": {"walk": walk, "format": form}
            for form in ("webp", "apng", "gif")
        },
    }
    replies = [proxy.predict(**fields) for fields in pictures.values()]
    posted = [Image.open(io.BytesIO(reply.content)) for reply in replies]
    assert [one.size for one in posted] == [(80, 80)] + [(64, 64)] * 4
    first, second = browser.new_context(), browser.new_context()
    said, shown = visit(first, url, list(pictures))
    assert said.keys() == pictures.keys()
    for path, one, other in zip(pictures, shown, posted, strict=True):
        np.testing.assert_array_equal(one, other.convert("RGBA"), path)
    told, _ = visit(second, url, list(pictures))
    assert told.pop("/name/alice.png") in ("hit", "fwd=stale; fwd-status=304")
    assert told == dict.fromkeys(pictures.keys() - {"/name/alice.png"}, "hit")
    before = logged()
    np.testing.assert_equal(visit(second, url, list(pictures))[1], shown)
    assert logged() == before
    for context in (first, second):
        context.close()
