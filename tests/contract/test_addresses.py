"""A picture is an address: on TorchServe itself, and through the proxy with its cache."""

from __future__ import annotations

import pytest
import requests

from deploy.server import Server
from tests.support import live


def get(server: Server, path: str, **headers: str) -> requests.Response:
    return requests.get(f"{server.predict_url}/1.0{path}", headers=headers, timeout=60)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/seed/7.png", {"seed": 7}),
        ("/seeds/7-8.json", {"seed": 7, "num_images": 2, "format": "json"}),
        ("/name/%C3%A9%2F100%25?.npy".replace("?", "%3F"), {"seed": 0, "format": "npy"}),
    ],
)
def test_torchserve_answers_addresses_as_posts(
    server: Server, path: str, fields: dict[str, object]
) -> None:
    reply = get(server, path)
    assert reply.status_code == 200, reply.text
    if path.startswith("/name"):
        fields["seed"] = reply.headers["X-Seed"]
    assert reply.content == live.post(server, fields).content
    again = get(server, path, **{"If-None-Match": reply.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == reply.headers["ETag"]
    head = requests.head(f"{server.predict_url}/1.0{path}", timeout=60)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["ETag"] == reply.headers["ETag"]


def test_torchserve_answers_wrong_addresses_with_problems(server: Server) -> None:
    for path, status in (("/v/00000000/seed/1.png", 404), ("/seed/x.png", 400), ("/a", 404)):
        reply = get(server, path)
        assert (reply.status_code, reply.json()["status"]) == (status, status)
    posted = requests.post(f"{server.predict_url}/1.0/seed/1.png", json={"seed": 2}, timeout=60)
    assert posted.json()["type"] == "urn:dcgan:problem:conflicting-fields"
