"""gRPC: the bodies of HTTP; errors known by their bytes, for the status says OK; no harm done."""

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from deploy.server import HOST, Server
from tests.support import live


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """``stub`` of the server; ``request``, which makes what it takes; and ``predict``."""
    messages, services = live.compiled(tmp_path_factory.mktemp("grpc"), "inference")
    request = partial(messages.PredictionsRequest, model_name=server.model)
    with grpc.insecure_channel(f"{HOST}:{server.ports.grpc_inference}") as channel:
        stub = services.InferenceAPIsServiceStub(channel)

        def predict(inputs: dict[str, bytes]) -> bytes:
            return bytes(stub.Predictions(request(input=inputs), timeout=60).prediction)

        yield SimpleNamespace(stub=stub, request=request, predict=predict)


@pytest.mark.parametrize("key", ["body", "data"])
def test_the_json_of_http_gives_the_bytes_of_http(client: Any, server: Server, key: str) -> None:
    body = {"seed": 5, "num_images": 3, "columns": 3}
    assert client.predict({key: json.dumps(body).encode()}) == live.post(server, body).content


def test_an_error_is_a_problem_document(client: Any) -> None:
    problem = json.loads(client.predict({"sede": b"1"}))
    assert problem["type"] == "urn:dcgan:problem:unknown-field"
    assert (problem["status"], problem["field"]) == (400, "sede")


SMALL, SLOW = {"body": b'{"seed": 5}'}, {"body": b'{"num_images": 256}'}


def one_stream(client: Any, inputs: dict[str, bytes]) -> list[bytes]:
    return [part.prediction for part in client.stub.StreamPredictions(client.request(input=inputs))]


def both_ways(client: Any, inputs: dict[str, bytes]) -> None:
    sent = [client.request(input=inputs, sequence_id="a")] * 3
    with contextlib.suppress(grpc.RpcError):  # TorchServe closes it before its answers
        list(client.stub.StreamPredictions2(iter(sent), timeout=20))


def given_up(client: Any, inputs: dict[str, bytes]) -> None:
    for call in (client.stub.Predictions, client.stub.StreamPredictions):
        with pytest.raises(grpc.RpcError) as refused:
            list(call(client.request(input=inputs), timeout=0.02))
        assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("call", "inputs"),
    [
        (one_stream, SMALL), (one_stream, {"seed": b"-1"}), (one_stream, {}),
        (one_stream, {"content-length": b"3"}), (both_ways, SMALL), (given_up, SLOW),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("unharmed")
def test_no_call_ends_the_worker_or_harms_its_neighbours(
    client: Any,
    server: Server,
    call: Callable[[Any, dict[str, bytes]], object],
    inputs: dict[str, bytes],
) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"num_images": 64}, *[{"seed": 5}] * 6]
        neighbours = [pool.submit(live.post, server, body) for body in bodies]
        call(client, inputs)
        assert [reply.result().status_code for reply in neighbours] == [200] * 7


def test_a_stream_is_one_reply(client: Any) -> None:
    assert one_stream(client, SMALL) == [client.predict(SMALL)]
