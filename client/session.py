"""``Client``: one server, one model."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import requests
from PIL import Image
from requests.adapters import HTTPAdapter

from client.errors import ClientError, NotReachable, from_reply
from client.retries import retries as at_most


@dataclass(frozen=True, eq=False)
class Picture:
    """One grid.

    Args:
        image: RGB or grey.
        png: the file as the server sent it.
        headers: of the reply; names in any case.
        made_by: the PNG's own account of the model and the request that makes it again.
    """

    image: Image.Image
    png: bytes
    headers: requests.structures.CaseInsensitiveDict[str]
    made_by: dict[str, Any]

    @property
    def seed(self) -> int | None:
        """The first seed; None when the pictures did not come from consecutive seeds."""
        return int(self.headers["X-Seed"]) if "X-Seed" in self.headers else None


class Client:
    """Asks one model of one server. Close it, or use it in a ``with`` block.

    Every method takes the fields of docs/api.md as keywords and raises ``client.errors``.

    Args:
        url: of the inference port or of the proxy before it.
        model: its name.
        version: of the model, as in "1.0"; the server's default version if left out.
        connect_timeout_s, read_timeout_s: longest wait for a connection, and for an answer.
        retries: how often 429 and 503 are tried again, and nothing else. The wait is random, up
            to a bound that doubles each time, or is what Retry-After says; 30 s at most.
        backoff_s: bound of the wait before the first retry.
        api_key: sent as ``X-API-Key``, for a proxy that wants one.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8080", model: str = "dcgan", *,
        version: str | None = None, connect_timeout_s: float = 5.0, read_timeout_s: float = 60.0,
        retries: int = 4, backoff_s: float = 0.4, api_key: str | None = None,
    ) -> None:  # fmt: skip
        self._model = model if version is None else f"{model}/{version}"
        self._url = f"{url.rstrip('/')}/predictions/{self._model}"
        self._timeout_s = (connect_timeout_s, read_timeout_s)
        self._session = requests.Session()
        if api_key is not None:
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
        """All images in one picture."""
        reply = self.post({**fields, "format": "png"})
        return Picture(_open(reply.content), reply.content, reply.headers, read(reply.content))

    def images(self, **fields: Any) -> list[Image.Image]:
        """Each image on its own."""
        document = self.post({**fields, "format": "json"}).json()
        return [_open(base64.b64decode(text)) for text in document["images"]]

    def array(self, **fields: Any) -> npt.NDArray[np.uint8]:
        """The pixels, uint8 (N, H, W, C)."""
        reply = self.post({**fields, "format": "npy"})
        pixels = np.load(io.BytesIO(reply.content), allow_pickle=False)
        return cast("npt.NDArray[np.uint8]", pixels)

    def post(self, fields: dict[str, Any]) -> requests.Response:
        """One call with these fields as JSON; the reply has status 200.

        Raises:
            NotReachable: no connection, or no answer in time.
            Problem: the server answered with an error.
        """
        return self._ask("POST", self._url, json.dumps(fields, default=_plain))

    def describe(self, management_url: str = "http://127.0.0.1:8081") -> dict[str, Any]:
        """What the model says of itself: fields, limits, weights, device, versions.

        Args:
            management_url: of the management port, which is not the inference port.

        Raises:
            NotReachable, Problem: as for ``post``.
            ClientError: the model says nothing of itself.
        """
        url = f"{management_url.rstrip('/')}/models/{self._model}"
        document = self._ask("GET", f"{url}?customized=true").json()
        if not document[0].get("customizedMetadata"):
            raise ClientError(f"{url} does not describe itself; is a worker of the model ready?")
        return cast("dict[str, Any]", document[0]["customizedMetadata"])

    def _ask(self, method: str, url: str, body: str | None = None) -> requests.Response:
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            # A redirect would turn the POST into a GET and take the API key to another host.
            reply = self._session.request(
                method, url, data=body, headers=headers, timeout=self._timeout_s,
                allow_redirects=False,
            )  # fmt: skip
        except requests.RequestException as error:
            raise NotReachable(f"{url}: {error}; is the server up? (make serve)") from error
        if reply.status_code != requests.codes.ok:
            raise from_reply(reply.status_code, reply.reason, reply.content)
        return reply


def read(png: bytes) -> dict[str, Any]:
    """What made a PNG of this service: the model, and the request that makes it again.

    Raises:
        ClientError: it is no PNG, or none of this service.
    """
    text = _open(png).info.get("dcgan")
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ClientError("this picture does not say what made it; it has no tEXt chunk dcgan")
    return found


def _open(png: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(png), formats=["PNG"])
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise ClientError("this is no PNG file, or not a whole one") from error
    return image


def _plain(value: object) -> object:
    """NumPy values as JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON; give lists and numbers")
