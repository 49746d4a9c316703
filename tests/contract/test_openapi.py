"""handler/openapi.yaml is the code's own contract, and a live server keeps it."""

import re
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    CheckFunction,
    not_a_server_error,
)
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deploy.server import Server
from handler import openapi
from tests.support.documents import text_of

DOCUMENT = openapi.document()
# 413 refuses as well: what asks for more than the limits allow.
REFUSED = {"checks": {"negative_data_rejection": {"expected-statuses": [400, 406, 413]}}}
# Without the addresses, which are the proxy's (test_addresses.py).
FORM = schemathesis.openapi.from_dict(
    DOCUMENT, config=schemathesis.Config.from_dict(REFUSED)
).include(path="/predictions/dcgan")
CHECKS: list[CheckFunction] = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_headers_conformance, response_schema_conformance, negative_data_rejection,
]  # fmt: skip


def validator(name: str) -> jsonschema_rs.Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


def test_the_file_is_written_from_the_code() -> None:
    assert openapi.PATH.read_text(encoding="utf-8") == openapi.text(), (
        "run: python -m handler.openapi"
    )


def test_the_page_and_the_file_name_the_same_headers() -> None:
    rows = re.findall(r"^\| (`X-[^|]+) \|", text_of("docs/api.md"), re.MULTILINE)
    told = {name for row in rows for name in re.findall("`(.*?)`", row)}
    assert told == set(DOCUMENT["components"]["responses"]["Reply"]["headers"])


@pytest.mark.parametrize("name", openapi.EXAMPLES)
def test_each_example_is_answered_as_described(server: Server, name: str) -> None:
    body = openapi.EXAMPLES[name]
    schema = validator("Instances" if "instances" in body else "GenerateRequest")
    schema.validate(body)
    reply = requests.post(server.predict_url, json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    media = reply.headers["content-type"]
    assert media in DOCUMENT["components"]["responses"]["Reply"]["content"]
    if media == "application/json":
        validator("Predictions" if "instances" in body else "Images").validate(reply.json())


@pytest.mark.parametrize(
    "body",
    [
        {"seed": 1, "seeds": [1]}, {"walk": {"between": [1, 2], "steps": 3}, "seed": 2},
        {"seeds": [1], "num_images": 1}, {"seed": True}, {"noise": [0.0] * 99}, {"instances": []},
        {"instances": [{}], "parameters": {"truncation": 2}},
        {"instances": [{}], "parameters": {"sede": 1}}, {"instances": [{}], "parameters": [1]},
    ],
    ids=lambda body: str(body)[:40],
)  # fmt: skip
def test_the_schema_refuses_what_the_server_refuses(server: Server, body: dict[str, Any]) -> None:
    assert not validator("GenerateRequest").is_valid(body)
    assert not validator("Instances").is_valid(body)
    reply = requests.post(server.predict_url, json=body, timeout=60)
    assert 400 <= reply.status_code < 500
    validator("Problem").validate(reply.json())


@FORM.parametrize()
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_schemathesis_finds_nothing(case: schemathesis.Case, server: Server) -> None:
    case.call_and_validate(
        base_url=server.predict_url.removesuffix("/predictions/dcgan"), checks=CHECKS, timeout=60
    )
