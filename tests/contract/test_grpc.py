"""gRPC Predictions: the same bodies; an error is known by its bytes, for the status says OK."""

from __future__ import annotations

import importlib.resources
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
import requests
from grpc_tools import protoc
from PIL import Image

from deploy.server import HOST, Server

Predict = Callable[[dict[str, bytes]], bytes]


@pytest.fixture(scope="module")
def predict(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predict]:
    """Predictions by a client compiled from the definition that TorchServe's own jar carries."""
    folder = tmp_path_factory.mktemp("grpc")
    jar = importlib.resources.files("ts") / "frontend" / "model-server.jar"
    with zipfile.ZipFile(str(jar)) as archive:
        for name in ("proto/inference.proto", "google/rpc/status.proto"):
            archive.extract(name, folder)
    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    arguments = ["protoc", f"-I{folder}/proto", f"-I{folder}", f"-I{well_known}"]
    arguments += [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main([*arguments, "inference.proto", "google/rpc/status.proto"]) == 0
    sys.path.insert(0, str(folder))
    try:
        import inference_pb2
        import inference_pb2_grpc
    finally:
        sys.path.remove(str(folder))
    with grpc.insecure_channel(f"{HOST}:{server.ports.grpc_inference}") as channel:
        stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)

        def call(inputs: dict[str, bytes]) -> bytes:
            request = inference_pb2.PredictionsRequest(model_name=server.model, input=inputs)
            prediction: bytes = stub.Predictions(request, timeout=60).prediction
            return prediction

        yield call


@pytest.mark.parametrize("key", ["body", "data"])
def test_the_json_of_http_gives_the_bytes_of_http(
    predict: Predict, server: Server, key: str
) -> None:
    body = {"seed": 5, "num_images": 3, "columns": 3}
    over_http = requests.post(server.predict_url, json=body, timeout=60)
    assert predict({key: json.dumps(body).encode()}) == over_http.content


def test_fields_by_name(predict: Predict) -> None:
    reply = predict({"seed": b"5", "num_images": b"2", "format": b"npy"})
    assert np.load(io.BytesIO(reply)).shape == (2, 64, 64, 3)


def test_raw_noise(predict: Predict) -> None:
    noise = np.zeros((2, 100), "<f4").tobytes()
    assert Image.open(io.BytesIO(predict({"data": noise}))).size == (134, 68)


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"data": b'{"seed": -1}'}, "seed"),
        ({"sede": b"1"}, "sede"),
        ({"data": b'{"seed": 1}', "columns": b"0"}, "data"),
    ],
)
def test_an_error_is_a_problem_document(
    predict: Predict, inputs: dict[str, bytes], field: str
) -> None:
    problem = json.loads(predict(inputs))
    assert problem["type"].startswith("urn:dcgan:problem:")
    assert problem["status"] == 400
    assert problem["field"] == field
