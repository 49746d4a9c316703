"""The HTTP contract from outside: pictures, ways to write a request, limits of the wire."""

import json

import pytest
import requests

from deploy.server import HOST, Server
from handler.address import seed_of
from tests.support.live import GOOD, JSON, post

pytestmark = [pytest.mark.usefixtures("unharmed")]


def send(server: Server, body: bytes, headers: dict[str, str]) -> requests.Response:
    return requests.post(server.predict_url, data=body, headers=headers, timeout=60)


def test_get_and_an_empty_body_give_a_random_image(server: Server) -> None:
    assert send(server, b"", {"Content-Type": JSON}).status_code == 200
    reply = requests.get(server.predict_url, timeout=60)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/png"


def test_an_address_is_answered_as_a_post(server: Server) -> None:
    """Its path is decoded once, by TorchServe."""
    url = f"{server.predict_url}/1.0/name/%C3%A9%2F100%25%3F.json"
    reply = requests.get(url, timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.content == post(server, {"seed": seed_of("é/100%?"), "format": "json"}).content
    assert "no-store" in reply.headers["Cache-Control"]  # of all that it sends
    assert reply.headers["CDN-Cache-Control"] == "public, max-age=300"
    tag = reply.headers["ETag"]
    copy = requests.get(url, headers={"If-None-Match": tag}, timeout=60)
    assert (copy.status_code, copy.content, copy.headers["ETag"]) == (304, b"", tag)
    head = requests.head(url, timeout=60)
    assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", tag)


def test_a_query_string_is_not_read(server: Server, alone: bytes) -> None:
    """TorchServe does not pass it on; the body decides, as the documentation says."""
    kserve = server.predict_url.replace("/predictions/dcgan", "/v1/models/dcgan:predict")
    for url in (server.predict_url, f"{server.predict_url}/1.0", kserve):
        assert requests.post(url + "?seed=99", json=GOOD, timeout=60).content == alone


def test_what_torchserve_passes_on_of_kserves_paths(server: Server, alone: bytes) -> None:
    """docs/operations/scale.md has the same table."""

    def ask(
        method: str, path: str, body: object = None, port: int = server.ports.inference
    ) -> requests.Response:
        return requests.request(method, f"http://{HOST}:{port}{path}", json=body, timeout=60)

    instances = {"instances": [{"seed": 1}], "parameters": {"truncation": 0.5}}
    reply = ask("POST", "/v1/models/dcgan:predict", instances)
    (answer,) = reply.json()["predictions"]
    assert (answer["seeds"], answer["truncation"]) == ([1], 0.5)
    assert reply.content == ask("POST", "/predictions/dcgan", instances).content
    named = ask("POST", "/v1/models/dcgan:predict", {**instances, "id": "x"})
    assert (named.status_code, named.json()["field"]) == (400, "id")
    assert ask("POST", "/v1/models/dcgan:explain", instances).status_code == 501
    ready = ask("GET", "/v1/models/dcgan", port=server.ports.management)
    assert ready.json() == {"name": "dcgan", "ready": True}
    assert ask("POST", "/v2/models/dcgan/infer", GOOD).content == alone
    tensor = {"name": "seed", "shape": [1], "datatype": "INT64", "data": [42]}
    for name, value in {"inputs": [tensor], "parameters": {"seed": 42}}.items():
        problem = ask("POST", "/v2/models/dcgan/infer", {name: value})
        assert (problem.status_code, problem.json()["field"]) == (400, name)
        assert "remove it; use seed, seeds" in problem.json()["detail"]
    paths = ("/v1/models/dcgan", "/v2", "/v2/health/ready", "/v2/models/dcgan/ready")
    assert [ask("GET", path).status_code for path in paths] == [404] * 4


@pytest.mark.parametrize(
    "path", ["/invocations?model_name=dcgan", "/models/dcgan/invoke?", "/dcgan/predict?"]
)
def test_but_on_the_routes_of_other_platforms_it_is(
    server: Server, alone: bytes, path: str
) -> None:
    url = server.predict_url.replace("/predictions/dcgan", path)
    assert requests.post(url, json=GOOD, timeout=60).content == alone
    assert requests.get(f"{url}&seed=7&num_images=2", timeout=60).content == alone
    assert requests.post(f"{url}&num_images=2", json={"seed": 7}, timeout=60).content == alone
    assert requests.post(f"{url}&seed=7", data={"num_images": 2}, timeout=60).content == alone
    problem = requests.post(f"{url}&seed=2", json=GOOD, timeout=60).json()
    assert (problem["type"], problem["field"]) == ("urn:dcgan:problem:conflicting-fields", "seed")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "APPLICATION/JSON"},
        {"content-type": "application/vnd.x+json"},
        {"Content-Type": JSON, "body": "image/png"},
        {"Content-Type": JSON, "Content-Encoding": "identity"},
    ],
    ids=str,
)
def test_json_is_read_whatever_its_content_type(
    server: Server, alone: bytes, headers: dict[str, str]
) -> None:
    """One answer to each body, with and without a byte order mark."""
    for start in (b"", b"\xef\xbb\xbf"):
        assert send(server, start + json.dumps(GOOD).encode(), headers).content == alone
        twice = send(server, start + b'{"seed": 1, "seed": 2}', headers)
        assert (twice.status_code, twice.json()["field"]) == (400, "seed")
