"""``Client``: one server, one model, asked again where it is busy."""

from __future__ import annotations

import base64
import html
import io
import ipaddress
import json
import logging
import random
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

import requests
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import InvalidHeader

from client import address
from client.errors import ArgumentError, ClientError, NotReachable, from_reply

if TYPE_CHECKING:  # without it all works but arrays
    import numpy as np
    import numpy.typing as npt

CONNECT_S = 5.0  # longest wait for a connection
MAX_TIMEOUT_S = 86_400.0
# The server did not take the request: sending it again is safe. A time-out or a broken
# connection does not tell whether the request was worked on.
RETRIED = frozenset({429, 503})
LONGEST_WAIT_S = 30
TOLD_WAIT_S = 1.0  # a wait that a person notices
_LOG = logging.getLogger(__name__)
_OTHER_NAME = (62, 64)  # OpenSSL: the certificate is of another host name, or IP address


@dataclass(frozen=True, eq=False)
class Picture:
    """One file with all images of a reply.

    Args:
        image: RGB or grey; of an animation the first frame.
        file: the file as the server sent it.
        headers: of the reply; names in any case.
        made_by: the file's own account of the model and the request that makes it again.
    """

    image: Image.Image
    file: bytes
    headers: requests.structures.CaseInsensitiveDict[str]
    made_by: dict[str, Any]

    @property
    def seed(self) -> int | None:
        """The first seed of a request with ``seed`` or without a source; else None."""
        return int(self.headers["X-Seed"]) if "X-Seed" in self.headers else None


class Client:
    """Asks one model of one server. Close it, or use it in a ``with`` block.

    Every method takes the fields of docs/api.md as keywords and raises ``client.errors``.

    What is on this machine (localhost, 127.0.0.0/8, ::1) is asked directly, everything else
    through the proxy that the environment names.

    Args:
        url: ``host:port``, ``http://host:port`` or ``https://host``, of the inference port or of
            the proxy before it.
        model: its name, for the server's default version of it, or name/version.
        read_timeout_s: longest wait for an answer.
        retries: how often 429 and 503 are tried again, and nothing else. The wait is random, up
            to a bound that doubles each time, or is what Retry-After says; 30 s at most.
        backoff_s: bound of the wait before the first retry.
        api_key: sent as ``X-API-Key``, for a proxy that wants one.
        ca_file: PEM certificate of who signed the server's, or its own if it is self-signed.
        made_by: what made a picture that is drawn again, as ``read`` tells; where a reply is of
            other weights, or of other directions of an edit, the log has a warning.

    Raises:
        ArgumentError: one of them cannot be used.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        model: str = "dcgan",
        *,
        read_timeout_s: float = 60.0,
        retries: int = 4,
        backoff_s: float = 0.4,
        api_key: str | None = None,
        ca_file: Path | None = None,
        made_by: Mapping[str, Any] | None = None,
    ) -> None:
        self._made_by = made_by or {}
        self._url = _endpoint(url, model)
        if not 0 < read_timeout_s <= MAX_TIMEOUT_S:
            raise ArgumentError(
                f"the time-out is {read_timeout_s:g} s; allowed is more than 0, at most "
                f"{MAX_TIMEOUT_S:g}"
            )
        if ca_file is not None:
            _check_certificate(ca_file)
        # In each call, not in the session, where the environment would win over it. A redirect
        # would turn the POST into a GET and take the API key to another host.
        self._settings: dict[str, Any] = {
            "headers": {"Content-Type": "application/json"},
            "timeout": (CONNECT_S, read_timeout_s),
            "verify": True if ca_file is None else str(ca_file),
            "allow_redirects": False,
        }
        self._session = requests.Session()
        if api_key is not None:
            if not re.fullmatch("[!-~]+", api_key):
                raise ArgumentError("the API key holds blanks, line ends or other than ASCII")
            self._session.headers["X-API-Key"] = api_key
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=at_most(retries, backoff_s)))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def grid(self, **fields: Any) -> Picture:
        """All images in one file: a grid as PNG, or with ``format`` "webp", "apng" or "gif", or
        ``{"type": "webp", "fps": 12}``, one frame an image."""
        if fields.get("format") in ("json", "npy"):
            raise ArgumentError("grid() is for pictures; ask document() for JSON, array() for npy")
        reply = self.post({"format": "png", **fields})
        try:
            return Picture(_open(reply.content), reply.content, reply.headers, read(reply.content))
        except ClientError as error:
            raise _foreign(reply, str(error)) from error

    def again(self, file: bytes, **changes: Any) -> Picture:
        """What made a picture, drawn anew.

        Args:
            file: as ``read`` takes it.
            changes: fields in place of its own.
        """
        made_by = read(file)
        picture = self.grid(**{**made_by["request"], **changes})
        _warn_of_another(made_by, picture.headers)
        return picture

    def address(self, *, weights: str = "", directions: str = "", **fields: Any) -> str:
        """Where a proxy before the server has this picture for a GET; nothing is asked.

        Args:
            weights, directions: as ``client.address.path`` takes them.

        Raises:
            ArgumentError: only seeds and walks between seeds have an address.
        """
        return self._url.rpartition("/predictions/")[0] + address.path(fields, weights, directions)

    def images(self, **fields: Any) -> list[Image.Image]:
        """Each image on its own."""
        return [_open(base64.b64decode(text)) for text in self.document(**fields)["images"]]

    def array(self, **fields: Any) -> npt.NDArray[np.uint8]:
        """The pixels, uint8 (N, H, W, C). Needs NumPy."""
        import numpy as np

        reply = self.post({**fields, "format": "npy"})
        try:
            pixels = np.load(io.BytesIO(reply.content), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise _foreign(reply) from error
        return cast("npt.NDArray[np.uint8]", pixels)

    def document(self, **fields: Any) -> dict[str, Any]:
        """The reply in JSON: ``images`` (base64 of a PNG each), ``seeds`` and the rest."""
        reply = self.post({**fields, "format": "json"})
        try:
            found = reply.json()
        except ValueError as error:
            raise _foreign(reply) from error
        if not isinstance(found, dict) or not {"images", "seeds"} <= found.keys():
            raise _foreign(reply)
        return found

    def post(self, fields: dict[str, Any]) -> requests.Response:
        """One call with these fields as JSON; the reply has status 200.

        Raises:
            ArgumentError: noise is an array that is no latents, or a value is none of JSON.
            NotReachable: no connection, or no answer in time.
            Problem: the server answered with an error.
        """
        noise: Any = fields.get("noise")
        if hasattr(noise, "dtype"):
            fields = {**fields, "noise": _latents(noise)}
        body, url = json.dumps(fields, default=address.plain), self._url
        host = str(urlsplit(url).hostname)
        direct = {"no_proxy": host} if _is_here(host) else {}
        # Without user and password, which come before an @.
        through = (select_proxy(url, get_environ_proxies(url, **direct)) or "").rpartition("@")[2]
        try:
            reply = self._session.post(url, data=body, proxies=direct, **self._settings)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise ArgumentError(f"{url}{_by(through)}: {error}") from error
        except requests.RequestException as error:
            raise _unreached(url, through, error, self._settings["timeout"][1]) from error
        if reply.status_code != requests.codes.ok:
            asked = reply.raw.retries
            tries = 1 if asked is None else 1 + len(asked.history)
            raise from_reply(reply, through, tries)
        _warn_of_another(self._made_by, reply.headers)
        return reply


class Retries(Retry):
    """Full jitter, and Retry-After where the server says it."""

    RETRY_AFTER_STATUS_CODES = RETRIED  # urllib3 would add 413

    def get_backoff_time(self) -> float:
        """The wait before the next try, s: uniform in 0 .. min(30, factor * 2^k), k retries so far.

        Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015
        (full jitter). urllib3 adds its jitter to a fixed wait, so callers stay in step.
        """
        longest = self.backoff_factor * 2.0 ** (len(self.history) - 1)
        return random.uniform(0, min(self.backoff_max, longest))

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """Wait before the next try; a warning in the log tells of a wait that is noticed. Where
        nothing has set up logging, Python shows it on stderr."""
        asked_s = None if response is None else self.get_retry_after(response)
        wait_s = asked_s or self.get_backoff_time()
        if wait_s >= TOLD_WAIT_S:
            tries, left = len(self.history), int(self.total or 0)
            _LOG.warning(
                "the server is busy (%s): waiting %.0f s before try %d of %d",
                self.history[-1].status,
                wait_s,
                tries + 1,
                tries + 1 + left,
            )
        time.sleep(wait_s)

    def parse_retry_after(self, retry_after: str) -> float:
        """The wait that Retry-After asks for (RFC 9110, section 10.2.3), 0 .. 30 s.

        0, which means the back-off, for what is neither seconds nor a date: an ill-written
        header must not hide the status that came with it.
        """
        try:
            return super().parse_retry_after(retry_after)
        except (InvalidHeader, ValueError, OverflowError):
            return 0.0


def at_most(count: int, backoff_s: float) -> Retries:
    """At most ``count`` retries of 429 and 503, and of nothing else."""
    return Retries(
        total=count,
        connect=0,
        read=0,
        redirect=0,
        other=0,
        status_forcelist=RETRIED,
        allowed_methods=None,
        raise_on_status=False,
        backoff_factor=backoff_s,
        backoff_max=LONGEST_WAIT_S,
        retry_after_max=LONGEST_WAIT_S,
    )


def _warn_of_another(made_by: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """A warning in the log where the server does not have what made a picture."""
    for what in ("weights", "directions"):
        served = headers.get(f"X-{what.capitalize()}-SHA256")
        if served and made_by.get(f"{what}_sha256", served) != served:
            _LOG.warning("the server has other %s than made the picture: it will differ", what)


class _Made(PngImageFile):
    """A picture that still says what made it when it is saved as PNG."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        info = PngInfo()
        # Not of self.text, which a copy of the picture has not.
        for name, text in self.info.items():
            if isinstance(text, str):
                info.add_text(str(name), text)
        super().save(fp, format, **{"pnginfo": info, **params})


def read(file: bytes) -> dict[str, Any]:
    """What made a picture of this service: the model, and the request that makes it again.

    Args:
        file: a PNG or APNG, which says it in its tEXt chunk ``dcgan``, a WebP (XMP) or a GIF
            (comment).

    Raises:
        ClientError: it is none of them, or none of this service.
    """
    info = _open(file).info
    text = info.get("dcgan") or info.get("xmp") or info.get("comment") or ""
    if isinstance(text, bytes):
        text = html.unescape(text.decode("utf-8", "replace"))
    try:
        found = json.loads(text[text.find("{") : text.rfind("}") + 1])
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("request"), dict):
        raise ClientError("this picture does not say what made it; it has no recipe")
    return found


def _open(file: bytes) -> Image.Image:
    try:
        # Refuses a picture that fills the memory.
        image = Image.open(io.BytesIO(file), formats=["PNG", "WEBP", "GIF"])
        if image.format == "PNG":
            image = _Made(io.BytesIO(file))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClientError("this is no PNG, WebP or GIF file, or not a whole one") from error
    return image


def _endpoint(address: str, model: str) -> str:
    """The URL to ask, of an address that may have no scheme and may name the model already.

    Raises:
        ArgumentError: it is no address, or names another model.
    """
    address = address.strip()
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        usable = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:  # of the port, or of brackets
        usable = False
    if not usable or parts.hostname in (None, "http", "https") or parts.query or parts.fragment:
        raise ArgumentError(
            f"the address {address!r} cannot be used; give http://host:port or https://host, and "
            "a path only if a proxy before the server adds one"
        )
    found = re.fullmatch(r"(.*?)(?:/predictions(?:/(.+?))?)?/*", parts.path)
    assert found is not None  # the first group takes anything
    prefix, named = found.groups()
    if named not in (None, model):
        raise ArgumentError(
            f"the address {address!r} names the model {named!r}, asked is {model!r}; give the "
            "address without /predictions/..., and the model as --model (model=)"
        )
    return f"{parts.scheme}://{parts.netloc}{prefix}/predictions/{quote(model)}"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_certificate(path: Path) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        what = "holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ArgumentError(
            f"the CA file {path} cannot be used: {what}; give the certificate that signed the "
            "server's, as PEM"
        ) from error


def _by(proxy: str) -> str:
    return f" (through the proxy {proxy} of the environment)" if proxy else ""


def _unreached(
    url: str, proxy: str, error: requests.RequestException, timeout_s: float
) -> NotReachable:
    """What went wrong on the way, and what to do."""
    cause = _innermost(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = f"the certificate is not trusted: {cause.verify_message}"
        what = "give the certificate of who signed it, or its own if it is self-signed, as "
        what += "--ca-file (ca_file=)"
        if cause.verify_code in _OTHER_NAME:
            what = "ask by a name that it holds"
    elif isinstance(cause, ssl.SSLError):
        why, what = str(cause), "does this port speak TLS? if not, ask with http://"
    elif isinstance(error, requests.exceptions.ProxyError):
        why, what = str(cause), "put the host into NO_PROXY to ask it directly"
    elif isinstance(error, requests.ConnectTimeout):
        why = f"timed out: no connection within {CONNECT_S:g} s"
        what = "is the server up? (make serve)"
    elif isinstance(cause, TimeoutError):  # of the reply's first byte, or a later one
        why = f"timed out: the server is there, but sent nothing for {timeout_s:g} s"
        what = "wait longer with --timeout-s (read_timeout_s=)"
    elif isinstance(cause, socket.gaierror):
        why, what = str(cause), "is the name of the host right?"
    else:
        why, what = str(cause), "is the server up? (make serve)"
    return NotReachable(f"{url}{_by(proxy)}: {why}; {what}")


def _innermost(error: BaseException) -> BaseException:
    """The error that requests and urllib3 have wrapped."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        wrapped = (getattr(error, "reason", None), *error.args, error.__cause__)
        inner = next((one for one in wrapped if isinstance(one, BaseException)), None)
    return error


def _foreign(reply: requests.Response, why: str = "") -> ClientError:
    kind = reply.headers.get("Content-Type", "no content type")
    return ClientError(
        f"{reply.url} answered, but not as this service does ({kind[:80]}){why and f': {why}'}; "
        "is the address right?"
    )


def _latents(noise: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Noise as it is sent, (n, nz) or (nz,), of an array that may be torch's (n, nz, 1, 1)."""
    import numpy as np

    if noise.ndim == 4 and noise.shape[2:] == (1, 1):
        noise = noise[:, :, 0, 0]
    if noise.dtype.kind not in "fiu" or noise.ndim not in (1, 2):
        raise ArgumentError(
            f"noise is {noise.dtype} of shape {noise.shape}; allowed are real numbers of shape "
            "(n, nz)"
        )
    noise = noise.astype(np.float64)  # of a longer float may be infinite
    if not np.isfinite(noise).all():
        raise ArgumentError("noise holds NaN or infinite numbers; allowed are finite ones")
    return noise
