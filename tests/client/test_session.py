"""The client against a scripted server: retries, errors, time-outs."""

from __future__ import annotations

import copy
import html
import io
import json
import pickle
import re
import shutil
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import certifi
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from urllib3 import HTTPResponse

import client
from client import Client
from client.session import LONGEST_WAIT_S, at_most, read
from tests.support.certificates import certify
from tests.support.scripted import OK, Scripted, Step, document, png

NAN = float("nan")
PROBLEM = {
    "type": "urn:dcgan:problem:invalid-field", "title": "t", "status": 400, "detail": "seed is bad",
    "field": "seed", "seen": "-1", "allowed": "more",
}  # fmt: skip


def connect(server: Scripted, **settings: Any) -> Client:
    return Client(f"http://127.0.0.1:{server.server_port}/", backoff_s=0.01, **settings)


def test_a_grid(server: Scripted) -> None:
    server.steps = [OK]
    picture = connect(server, api_key="secret").grid(noise=np.zeros((1, 2), np.float32))
    assert picture.image.size == (4, 3)
    assert picture.seed == 7
    assert picture.made_by == {"request": {"seed": 7}}
    ((headers, body),) = server.seen
    assert body == {"noise": [[0.0, 0.0]], "format": "png"}
    assert headers["X-API-Key"] == "secret"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(server: Scripted, status: int) -> None:
    busy: Step = (status, {}, b'{"code": 503, "type": "x", "message": "full"}')
    server.steps = [busy, busy, OK]
    assert connect(server).grid(seed=7).seed == 7
    assert len(server.seen) == 3


def test_a_server_that_stays_busy(server: Scripted) -> None:
    server.steps = [(503, {}, b'{"code": 503, "type": "Unavailable", "message": "no worker"}')]
    with pytest.raises(client.Unavailable, match=r"503: no worker \(asked 3 times\)"):
        connect(server, retries=2).grid()
    assert len(server.seen) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(
    server: Scripted, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    wait = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.steps = [(429, {"Retry-After": wait}, b""), OK]
    began = time.monotonic()
    connect(server).grid()
    assert time.monotonic() - began > 0.9
    assert re.fullmatch(
        r"the server is busy \(429\): waiting [12] s before try 2 of 5", caplog.messages[-1]
    )


@pytest.mark.parametrize("value", ["soon", "9" * 5000, "-1", "Mon, 99 Foo 99999 99:99:99 GMT"])
def test_an_ill_written_retry_after_is_no_hint(server: Scripted, value: str) -> None:
    server.steps = [(503, {"Retry-After": value}, b""), OK]
    assert connect(server).grid().seed == 7


def test_waits_are_bounded_and_spread() -> None:
    policy = at_most(20, backoff_s=0.5)
    assert policy.parse_retry_after("3600") == LONGEST_WAIT_S
    for tried in range(1, 12):
        busy = HTTPResponse(status=503)
        policy = policy.increment("POST", "/", busy)
        bound = min(LONGEST_WAIT_S, 0.5 * 2 ** (tried - 1))
        waits = [policy.get_backoff_time() for _ in range(200)]
        assert 0 <= min(waits) < 0.2 * bound
        assert 0.8 * bound < max(waits) <= bound


@pytest.mark.parametrize(
    ("status", "body", "expected", "words"),
    [
        (400, json.dumps(PROBLEM).encode(), client.BadRequest, r"400 \(seed\): seed is bad"),
        (406, b"{}", client.NotAcceptable, "406"),
        (413, b"", client.TooLarge, "413: Content Too Large|413: Request Entity Too Large"),
        (500, b"\xff" * 1000, client.ServerFailed, "500"),
        (507, b'["x"]', client.ServerFailed, "507"),
        (404, b'{"code": 404, "type": "N", "message": "Model not found"}', client.Problem,
         "404: Model not found"),
    ],
)  # fmt: skip
def test_errors_are_told_and_not_tried_again(
    server: Scripted, status: int, body: bytes, expected: type[client.Problem], words: str
) -> None:
    server.steps = [(status, {"Retry-After": "0"}, body)]
    with pytest.raises(expected, match=words) as caught:
        connect(server).grid(seed=-1)
    assert type(caught.value) is expected
    problem = caught.value
    assert problem.status == status
    if status == 400:
        assert (problem.field, problem.seen, problem.allowed) == ("seed", "-1", "more")
        assert (problem.type, problem.title) == (PROBLEM["type"], "t")
    assert len(str(caught.value)) < 400
    assert len(server.seen) == 1


def test_a_redirect_is_not_followed(server: Scripted) -> None:
    server.steps = [(302, {"Location": f"http://127.0.0.1:{server.server_port}/else"}, b""), OK]
    with pytest.raises(client.Problem, match="302"):
        connect(server, api_key="secret").grid()
    assert len(server.seen) == 1


@pytest.mark.parametrize("slow", ["hang_s", "body_s"])
def test_a_time_out_is_not_tried_again(server: Scripted, slow: str) -> None:
    server.steps = [OK]
    setattr(server, slow, 1.0)
    with pytest.raises(client.NotReachable, match=r"timed out: .* for 0\.2 s; wait .*--timeout-s"):
        connect(server, read_timeout_s=0.2).grid()
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "form",
    ["127.0.0.1:{}", "localhost:{}/", "http://127.0.0.1:{}", " http://127.0.0.1:{}// ",
     "http://127.0.0.1:{}/predictions", "127.0.0.1:{}/predictions/dcgan/"],
)  # fmt: skip
def test_forms_of_an_address(server: Scripted, form: str) -> None:
    server.steps = [OK]
    assert Client(form.format(server.server_port)).grid().seed == 7
    assert server.paths == ["/predictions/dcgan"]


@pytest.mark.parametrize(
    ("url", "words"),
    [("", "''"), ("http://", "'http://'"), ("ftp://h", "'ftp://h'"), ("h:port", "'h:port'"),
     ("h:99999", "'h:99999'"), ("http:/h", "'http:/h'"), ("http://[::1", "cannot be used"),
     ("h?seed=1", "cannot be used"), ("a b", "a b"),
     ("h/predictions/cats", "names the model 'cats', asked is 'dcgan'")],
)  # fmt: skip
def test_what_is_no_address(url: str, words: str) -> None:
    with pytest.raises(client.ArgumentError, match=re.escape(words)):
        Client(url).grid()


def test_settings_that_cannot_be_sent() -> None:
    for settings in ({"api_key": "a\n"}, {"read_timeout_s": 0}, {"read_timeout_s": NAN}):
        with pytest.raises(client.ArgumentError):
            Client(**settings)  # type: ignore[arg-type]


PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the proxy of the environment."""
    for name in ("no_proxy", "NO_PROXY", *PROXIES, *map(str.upper, PROXIES)):
        monkeypatch.delenv(name, raising=False)

    def set_proxy(address: str) -> None:
        for name in PROXIES:
            monkeypatch.setenv(name, address)

    return set_proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_its_own_machine_is_asked_without_a_proxy(
    server: Scripted, proxied: Callable[[str], None], host: str
) -> None:
    proxied("http://127.0.0.1:1")
    server.steps = [OK]
    assert Client(f"{host}:{server.server_port}").grid().seed == 7


@pytest.mark.parametrize("host", ["127.9.9.9", "[::1]"])
def test_so_is_every_address_of_it(proxied: Callable[[str], None], host: str) -> None:
    """Where nobody listens."""
    proxied("http://127.0.0.1:1")
    with pytest.raises(client.NotReachable, match="is the server up") as caught:
        Client(f"http://{host}:1").grid()
    assert "proxy" not in str(caught.value)


@pytest.mark.usefixtures("proxied")
def test_an_unknown_host() -> None:
    with pytest.raises(client.NotReachable, match="is the name of the host right"):
        Client("cats.invalid").grid()


def test_a_proxy_that_is_not_there_is_named(proxied: Callable[[str], None]) -> None:
    proxied("http://user:secret@127.0.0.1:1")
    with pytest.raises(client.NotReachable, match=r"the proxy 127\.0\.0\.1:1 .*NO_PROXY") as caught:
        Client("cats.invalid").grid()
    assert "secret" not in str(caught.value)


def test_what_a_proxy_answers_is_told_as_such(
    server: Scripted, proxied: Callable[[str], None]
) -> None:
    proxied(f"127.0.0.1:{server.server_port}")
    server.steps = [(407, {}, b"who are you?"), (400, {}, json.dumps(PROBLEM).encode())]
    with pytest.raises(client.Problem, match=rf"407: who are you\? .*{server.server_port}"):
        Client("cats.invalid").grid()
    with pytest.raises(client.BadRequest) as caught:  # of the server, passed on
        Client("cats.invalid").grid()
    assert "proxy" not in str(caught.value)


@pytest.fixture
def tls(server: Scripted, tmp_path: Path) -> Path:
    """Lets the server speak TLS with a certificate of its own for localhost; returns that."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there")
    certify(tmp_path, host="DNS:localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.steps = [OK]
    return tmp_path / "tls.crt"


def test_a_certificate_of_its_own(
    server: Scripted, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://localhost:{server.server_port}"
    with pytest.raises(client.NotReachable, match=r"not trusted: self-signed .*--ca-file"):
        Client(url).grid()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())  # what was given wins over it
    assert Client(url, ca_file=tls).grid().seed == 7
    with pytest.raises(client.NotReachable, match=r"IP address mismatch.*ask by a name"):
        Client(url.replace("localhost", "127.0.0.1"), ca_file=tls).grid()


def test_tls_where_there_is_none(server: Scripted) -> None:
    with pytest.raises(client.NotReachable, match=r"speak TLS.*http://"):
        Client(f"https://127.0.0.1:{server.server_port}").grid()


@pytest.mark.parametrize("text", [None, "no PEM"])
def test_what_is_no_ca_file(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "crt").write_text(text)
    with pytest.raises(
        client.ArgumentError, match=r"CA file \S+crt cannot be used: (No such|holds)"
    ):
        Client(ca_file=tmp_path / "crt")


def test_a_server_of_something_else(server: Scripted) -> None:
    server.steps = [(200, {"Content-Type": "text/html"}, b'{"images": []}')]
    cats = connect(server)
    for ask in (cats.images, cats.array, cats.document, cats.grid):
        with pytest.raises(client.ClientError, match=r"not as this service does \(text/html\)"):
            ask()


def test_a_saved_picture_says_what_made_it(server: Scripted, tmp_path: Path) -> None:
    server.steps = [document(png('{"request": {"seed": 7}}')), OK]
    (image,) = connect(server).images()
    copies = copy.deepcopy(image), pickle.loads(pickle.dumps(image))
    for number, picture in enumerate((image, *copies, connect(server).grid().image)):
        for out in (tmp_path / f"{number}.png", io.BytesIO()):
            picture.save(out, "PNG")
            saved = out.getvalue() if isinstance(out, io.BytesIO) else out.read_bytes()
            assert read(saved) == {"request": {"seed": 7}}
    image.save(tmp_path / "cat.jpg", quality=50)
    image.save(tmp_path / "cat.png", pnginfo=PngInfo())  # who gives another text wants that
    with pytest.raises(client.ClientError, match="does not say"):
        read((tmp_path / "cat.png").read_bytes())


@pytest.mark.parametrize("kind", [np.float16, np.longdouble, np.int8])
@pytest.mark.parametrize("shape", [(2,), (3, 2), (3, 2, 1, 1)])
def test_noise_of_arrays(server: Scripted, shape: tuple[int, ...], kind: type) -> None:
    server.steps = [OK]
    cats = connect(server)
    noise = np.ones(shape, kind)
    cats.grid(noise=noise)
    assert server.seen[0][1]["noise"] == np.ones(shape[:2]).tolist()
    cats.grid(walk={"between": [noise[0], kind(1)]})
    assert server.seen[1][1]["walk"]["between"] == [np.ones(shape[1:]).tolist(), 1]


@pytest.mark.parametrize(
    ("noise", "words"),
    [(np.ones((1, 2), complex), "noise is complex128"), (np.ones((1, 2), bool), "is bool"),
     (np.array([["a"]]), "is <U1"), (np.ones((1, 2, 2, 2)), "shape (1, 2, 2, 2)"),
     (np.array(1.0), "shape ()"), (np.array([[NAN]]), "NaN")],
)  # fmt: skip
def test_arrays_that_are_no_noise(noise: Any, words: str) -> None:
    with pytest.raises(client.ArgumentError, match=re.escape(words)):
        Client("127.0.0.1:1").grid(noise=noise)


def test_again_asks_for_what_the_recipe_says(server: Scripted) -> None:
    server.steps = [OK]
    cats = connect(server)
    cats.again(png('{"request": {"seed": 7, "columns": 2}}'), columns=1)
    for form in ("WEBP", "GIF"):
        cats.again(saved(form))
    first, *moving = (body for _, body in server.seen)
    assert first == {"seed": 7, "columns": 1, "format": "png"}
    assert moving == [{"seed": 7, "format": {"type": form}} for form in ("webp", "gif")]


@pytest.mark.parametrize(
    ("served", "words"),
    [
        ({}, []), ({"X-Weights-SHA256": "ab", "X-Directions-SHA256": "cd"}, []),
        ({"X-Weights-SHA256": "ff"}, ["weights"]), ({"X-Directions-SHA256": "ff"}, ["directions"]),
    ],
)  # fmt: skip
def test_a_server_that_has_something_else_is_told(
    server: Scripted, served: dict[str, str], words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    server.steps = [(200, served, OK[2])]
    cats = connect(server)
    cats.again(png('{"request": {"seed": 7}}'))
    assert caplog.messages == []
    cats.again(png('{"weights_sha256": "ab", "directions_sha256": "cd", "request": {"seed": 7}}'))
    told = "the server has other {} than made the picture: it will differ"
    assert caplog.messages == [told.format(word) for word in words]


def saved(form: str) -> bytes:
    """A file as Pillow saves it, its recipe where ``read`` looks for it."""
    text = f'{{"request": {{"seed": 7, "format": {{"type": "{form.lower()}"}}}}}}'
    xmp = f"<x:xmpmeta><a>{html.escape(text)}</a></x:xmpmeta>".encode()
    buffer = io.BytesIO()
    told = {"comment": text.encode()} if form == "GIF" else {"xmp": xmp}
    Image.new("RGB", (4, 3)).save(buffer, form, **told)
    return buffer.getvalue()


def test_the_address_of_a_picture() -> None:
    cats = Client("https://cats.example/here", "dcgan/1.0")
    told = cats.address(weights="0123456789ab", walk={"between": [1, 7]}, format="webp")
    assert told == "https://cats.example/here/v/01234567/walk/1-7.webp"


@pytest.mark.parametrize("text", [None, "no JSON", "[1]", '{"prompt": "a cat"}'])
def test_a_foreign_png_says_nothing(text: str | None) -> None:
    with pytest.raises(client.ClientError, match="does not say what made it"):
        read(png(text))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"BM", png("{}")[:60]])
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(client.ClientError, match="no PNG, WebP or GIF file"):
        read(data)


def test_what_json_cannot_hold() -> None:
    for value, name in (({1}, "set"), (np.clongdouble(1), "clongdouble")):
        with pytest.raises(client.ArgumentError, match=f"{name} cannot be sent"):
            Client().grid(seeds=value)


def test_a_range_is_a_list_of_seeds(server: Scripted) -> None:
    server.steps = [OK]
    connect(server).grid(seeds=range(3, 6))
    assert server.seen[0][1]["seeds"] == [3, 4, 5]


@pytest.mark.parametrize("form", ["json", "npy"])
def test_a_grid_is_a_picture(form: str) -> None:
    with pytest.raises(client.ArgumentError, match="ask document"):
        Client().grid(format=form)


def test_what_a_foreign_server_says_cannot_drive_the_terminal(server: Scripted) -> None:
    said = b"\x1b[2J\x07stop\r\n\xc2\x9bfoo"
    server.steps = [
        (404, {}, said),
        (404, {}, json.dumps({"detail": said.decode(), "field": "\x1b"}).encode()),
        (200, {"Content-Type": "text/\x1b[2J"}, said),
    ]
    for _ in server.steps:
        with pytest.raises(client.ClientError) as caught:
            connect(server).grid()
        assert str(caught.value).isprintable()
        assert "\\x1b" in str(caught.value)
