"""Archives, folders and leftovers that a server must not start on, or must start in spite of."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from deploy.lifecycle import ServerError
from deploy.server import Ports, Server
from tests.support import live

ARCHIVE = live.STORE / "dcgan.mar"


def served(tmp_path: Path, store: Path) -> Server:
    return Server(tmp_path / "server", store, Ports.free())


def cannot_start(server: Server, words: str) -> None:
    """It ends with the reason, and leaves no process behind."""
    before = {process.pid for process in psutil.process_iter()}
    with pytest.raises(ServerError, match=words), server.running(90):
        pass
    ours = str(server.folder)
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if process.pid not in before and ours in " ".join(process.info["cmdline"] or [])
    ]
    assert left == []


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda _: b""])
def test_a_damaged_archive_beside_its_digest(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "dcgan.mar").write_bytes(damage(ARCHIVE.read_bytes()))
    shutil.copy(ARCHIVE.with_name("dcgan.mar.sha256"), tmp_path)
    with pytest.raises(ServerError, match=r"SHA-256.*python -m export"):
        served(tmp_path, tmp_path).start()


@pytest.mark.parametrize("damage", [truncated, lambda _: b"", lambda _: b"<html>404</html>"])
def test_a_damaged_archive_without_a_digest(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """TorchServe alone would unpack it to an empty folder and serve nothing, for ever."""
    (tmp_path / "dcgan.mar").write_bytes(damage(ARCHIVE.read_bytes()))
    with pytest.raises(ServerError, match=r"dcgan\.mar is no model archive .*python -m export"):
        served(tmp_path, tmp_path).start()


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("generator.onnx", r"generator\.onnx"),
        ("card.json", r"card\.json"),
        ("MAR-INF/MANIFEST.json", r"no model archive .*MANIFEST"),
    ],
)
def test_a_file_that_is_missing_in_the_archive(tmp_path: Path, missing: str, words: str) -> None:
    def without(name: str, content: bytes) -> bytes | None:
        # The backend that reads it, whatever this processor's is.
        content = content.replace(b"backend: auto", b"backend: onnx")
        return None if name == missing else content

    store = live.rewritten_archive(tmp_path / "store", without)
    cannot_start(served(tmp_path, store), words)


def test_a_wrong_setting_in_the_archive(tmp_path: Path) -> None:
    store = live.changed_archive(tmp_path / "store", ("backend: auto", "backend: tensorrt"))
    cannot_start(served(tmp_path, store), r"backend is 'tensorrt'; choose one of .*torchscript")


def test_onnx_runtime_without_the_gpu_that_it_is_given(tmp_path: Path) -> None:
    """TorchServe counts one GPU and gives it to the worker; there is none for a runtime to use."""
    hidden = (("CUDA_VISIBLE_DEVICES", "-1"),)
    asked = ("backend: auto", "backend: onnx")
    store = live.changed_archive(tmp_path / "store", asked)
    server = Server(tmp_path / "server", store, Ports.free(), environment=hidden)
    cannot_start(server, r"ONNX Runtime cannot use the GPU.*allow_cpu_fallback")
    live.changed_archive(store, asked, ("allow_cpu_fallback: false", "allow_cpu_fallback: true"))
    with server.running():
        assert live.post(server, live.GOOD).status_code == 200
        url = f"{server.describe_url}?customized=true"
        (described,) = requests.get(url, timeout=30).json()
        told = described["customizedMetadata"]
        assert (told["backend"], told["device"], told["fallback"]) == ("onnx", "cpu", True)


def test_a_backend_that_cannot_do_the_precision(tmp_path: Path) -> None:
    """And in the same folder a good archive serves."""
    server = served(tmp_path, tmp_path / "store")
    live.changed_archive(
        server.model_store, ("backend: auto", "backend: onnx"),
        ("precision: auto", "precision: bfloat16"),
    )  # fmt: skip
    cannot_start(server, r"precision bfloat16 is not for the backend onnx.*torchscript")
    live.rewritten_archive(server.model_store, lambda _, content: content)
    with server.running():
        assert live.post(server, live.GOOD).status_code == 200


def with_entries(store: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    live.rewritten_archive(store, lambda _, content: content)
    with zipfile.ZipFile(store / "dcgan.mar", "a") as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return store


def test_zip_slip_in_the_archive(tmp_path: Path) -> None:
    """Names that lead out of the folder that an archive is unpacked in."""
    evil = [zipfile.ZipInfo(f"{'../' * up}dcgan-evil-{up}") for up in range(1, 12)]
    absolute = zipfile.ZipInfo(str(tmp_path / "dcgan-evil-absolute"))
    store = with_entries(tmp_path / "store", *((name, b"evil") for name in [*evil, absolute]))
    server = served(tmp_path, store)
    cannot_start(server, r"dcgan\.mar")
    inside = server.folder / "tmp" / "models"
    written = [p for p in tmp_path.rglob("dcgan-evil*") if not p.is_relative_to(inside)]
    assert written == []
    assert not [p for up in [*tmp_path.parents] for p in up.glob("dcgan-evil*")]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs in spite of three oddities: a link in its archive, a stale snapshot, and
    a model store that cannot be written, where something can be mounted."""
    folder = tmp_path_factory.mktemp("odd")
    link = zipfile.ZipInfo("handler/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    link.create_system = 3
    (folder / "secret").write_text("secret")
    store = with_entries(folder / "store", (link, str(folder / "secret").encode()))
    server = served(folder, store)
    snapshots = server.folder / "logs" / "config"
    snapshots.mkdir(parents=True)
    (snapshots / "20991231235959999-shutdown.cfg").write_text(
        f"inference_address=http://127.0.0.1:1\nmodel_store={folder}\nload_models=gone.mar\n"
        'model_snapshot={"name": "s", "modelCount": 1, "models": {"gone": {"1.0": '
        '{"defaultVersion": true, "marName": "gone.mar", "minWorkers": 1, "maxWorkers": 1, '
        '"batchSize": 1, "maxBatchDelay": 1, "responseTimeout": 1}}}}\n'
    )
    bind = ["mount", "--bind", "-o", "ro", str(store), str(store)]
    mounted = subprocess.run(bind, capture_output=True, check=False).returncode == 0
    try:
        with server.running():
            yield server
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(store)], check=True)


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
    assert live.post(odd, live.GOOD).status_code == 200
    described = requests.get(f"{odd.describe_url}/all", timeout=30).json()
    assert [model["modelUrl"] for model in described] == ["dcgan.mar"]


def test_a_start_after_a_crash(tmp_path: Path) -> None:
    """SIGKILL to everything: pid file, sockets and the unpacked model stay behind, and the next
    start neither trips over them nor lets them pile up."""
    server = served(tmp_path, live.STORE)
    launcher = psutil.Process(server.start().pid)
    live.wait(lambda: not server.reason_not_ready(), 120)
    family = [launcher, *launcher.children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=30)
    assert list((server.folder / "tmp").glob(".ts.sock*"))
    (server.folder / "tmp" / ".model_server.pid").write_text(str(os.getpid()))  # used again
    with server.running():
        assert live.post(server, live.GOOD).status_code == 200
        assert len(list((server.folder / "tmp" / "models").iterdir())) == 1
    assert (server.folder / "logs" / "torchserve.previous.log").is_file()


def test_two_servers_in_one_folder_and_a_stop(tmp_path: Path) -> None:
    """The second would take the first one's sockets away; a stop leaves nothing."""
    server = served(tmp_path, live.STORE)
    with server.running() as process:
        with pytest.raises(ServerError, match="already runs in"):
            Server(server.folder, live.STORE, Ports.free()).start()
        assert live.post(server, live.GOOD).status_code == 200
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2
    assert all(live.is_gone(member) for member in family)
    assert server.ports.taken() == []


def test_the_digest_is_of_the_archive() -> None:
    """Or the tests above would prove nothing."""
    told = ARCHIVE.with_name("dcgan.mar.sha256").read_text().split()[0]
    assert told == hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()
