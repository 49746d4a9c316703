"""How the proxy starts: keys and certificates made, given, changed, and wrong."""

import dataclasses
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from deploy.server import HOST, Ports, Server
from tests.support import live
from tests.support.certificates import certify
from tests.support.proxies import (
    ALICE,
    KEYS,
    NEEDS_NGINX,
    SCRIPT,
    Proxy,
    check_problem,
    environment,
    refused,
    running,
)
from tests.support.upstreams import nameserver, upstream

pytestmark = [NEEDS_NGINX]


def test_the_first_start_makes_a_key_and_shows_it_once(server: Server, tmp_path: Path) -> None:
    with running(tmp_path, server.ports, keys="") as fresh:
        shown = re.search(r"X-API-Key: ([0-9a-f]{64})", (tmp_path / "stderr").read_text())
        assert shown
        assert fresh.predict(shown.group(1), seed=1).status_code == 200
        certificate = Path(fresh.certificate).read_bytes()
        kept = Path(fresh.variables["RUN"], "keys.map").read_text()
    assert shown.group(1) not in kept
    for file in (p for p in tmp_path.rglob("*") if p.is_file() and p.name != "stderr"):
        assert shown.group(1).encode() not in file.read_bytes(), file
    with running(tmp_path, server.ports, keys="") as again:
        assert "X-API-Key" not in (tmp_path / "stderr").read_text()
        assert again.predict(shown.group(1), seed=1).status_code == 200
        assert Path(again.certificate).read_bytes() == certificate


def days_left(proxy: Proxy) -> float:
    text = requests.get(f"{proxy.metrics_url}/proxy", timeout=5).text
    return (int(text.rsplit(" ", 1)[1]) - time.time()) / 86400


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_changed_keys_and_certificates_are_read_again_by_themselves(tmp_path: Path) -> None:
    """By ``proxy.sh reload``. What is wrong with them is told, and those in use stay."""
    secrets, said = tmp_path / "secrets", tmp_path / "stderr"
    certify(secrets, days=2)

    def is_served() -> bool:
        text = ssl.get_server_certificate((HOST, proxy.port))
        return text.strip() == (secrets / "tls.crt").read_text().strip()

    with upstream() as behind, running(tmp_path, behind.ports, RELOAD_S="0.2") as proxy:
        (secrets / "api_keys").write_text("alice\n")
        live.wait(lambda: "no key after the name alice" in said.read_text(), 20)
        (secrets / "api_keys").write_text(KEYS)
        certify(secrets, days=3)
        live.wait(is_served, 20)
        assert 2 < days_left(proxy) <= 3
        assert not (tmp_path / "state" / "tls.crt").exists()
        certify(secrets, days=-1)  # whoever renews it wrongly can still shut out a key
        (secrets / "api_keys").write_text(f"dora {'d' * 24}\n")

        def status(key: str) -> int:
            url, headers = f"{proxy.url}/models/dcgan", {"X-API-Key": key}
            return requests.get(url, headers=headers, verify=False, timeout=5).status_code

        live.wait(lambda: status("d" * 24) == 200, 20)
        # A process with the former keys may take a connection still, before it is told to end.
        live.wait(lambda: status(ALICE) == 401, 20)
        assert "tls.crt has expired" in said.read_text()
        (secrets / "tls.crt").unlink()
        live.wait(lambda: "tls.crt is missing" in said.read_text(), 20)
        certify(secrets, days=4)
        live.wait(is_served, 20)
        counter = Path(proxy.variables["RUN"], "replies", "599.torchserve")
        counter.write_bytes(b"\n" * 3_000_000)
        live.wait(lambda: "599 torchserve" not in proxy.counted(), 20)


@pytest.mark.parametrize(("days", "kept"), [(29, False), (31, True)])
def test_a_self_signed_certificate_is_made_again_before_it_ends(
    tmp_path: Path, days: int, kept: bool
) -> None:
    certify(tmp_path / "state", days)
    old = (tmp_path / "state" / "tls.crt").read_bytes()
    with upstream() as behind, running(tmp_path, behind.ports) as proxy:
        assert (Path(proxy.certificate).read_bytes() == old) is kept
        assert (days_left(proxy) < 40) is kept
        assert proxy.predict(ALICE).ok


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "there is no key in it"),
        ("# none\n", "there is no key in it"),
        ("alice\n", "line 1: no key after the name alice"),
        (f"al!ice {ALICE}\n", "line 1: a name has letters"),
        (f"{'n' * 65} {ALICE}\n", "the name has 65 characters; at most 64"),
        ("# x\nalice short\n", "line 2: the key of alice has 5 characters; at least 24"),
        (f"alice {ALICE} more\n", "something follows the key of alice"),
        (f'alice {ALICE}"\n', "the key of alice has characters other than"),
        (f"alice {ALICE};\n", "the key of alice has characters other than"),
        ("alice sha256:123\n", "sha256: of alice takes 64 digits"),
        (f"alice {ALICE}\nalice {ALICE}x\n", "line 2: the name alice is there twice"),
        (f"alice {ALICE}\nbob {ALICE}\n", "line 2: the key of bob is there twice"),
    ],
)
def test_a_bad_file_of_keys_stops_the_start(tmp_path: Path, keys: str, message: str) -> None:
    variables = environment(tmp_path, Ports())
    (tmp_path / "secrets" / "api_keys").write_text(keys)
    said = refused(variables)
    assert message in said
    assert ALICE not in said
    assert not (tmp_path / "run" / "keys.map").exists()


def test_the_limits_are_those_of_torchserves_settings(server: Server, tmp_path: Path) -> None:
    settings = tmp_path / "config.properties"
    settings.write_text("#max_request_size=1\n max_request_size = 1000\n")
    with running(tmp_path, server.ports, SETTINGS=str(settings)) as proxy:
        assert proxy.call("POST", "/predictions/dcgan", ALICE, data=b"{}" + b" " * 998).ok
        reply = proxy.call("POST", "/predictions/dcgan", ALICE, data=b"{}" + b" " * 999)
        check_problem(reply, 413, "too-large")
        assert "at most 1000 bytes" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_response_size=20m\n", "max_response_size is 20m; give a number of bytes"),
        ("max_response_size=900000000000000\n", "Enlarge its volume, set fewer ALL_CONNECTIONS"),
    ],
)
def test_limits_that_cannot_be_kept_stop_the_start(tmp_path: Path, text: str, message: str) -> None:
    settings = tmp_path / "config.properties"
    settings.write_text(text)
    assert message in refused(environment(tmp_path, Ports(), SETTINGS=str(settings)))


def test_a_key_of_another_certificate_stops_the_start(tmp_path: Path) -> None:
    variables = environment(tmp_path, Ports())
    for name in ("tls", "other"):
        certify(tmp_path / "secrets", days=1, name=name)
    shutil.move(tmp_path / "secrets" / "other.key", tmp_path / "secrets" / "tls.key")
    assert "tls.key is not the key of" in refused(variables)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, as they may not enter pytest's."""
    with tempfile.TemporaryDirectory(prefix="dcgan-start-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.parametrize("what", ["the folder", "the folder above", "a link", "no folder"])
def test_secrets_that_cannot_be_seen_stop_the_start(open_folder: Path, what: str) -> None:
    """They are not replaced by keys and a certificate that the proxy makes itself."""
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if os.geteuid() != 0:
        as_nobody = []
    elif shutil.which("setpriv") is None:
        pytest.skip("root sees every folder, and there is no setpriv to be somebody else")
    above, state = open_folder / "above", open_folder / "state"
    above.mkdir()
    state.mkdir()
    state.chmod(0o777)
    variables = environment(above, Ports(), STATE=str(state), RUN=f"{state}/run")
    secrets = above / "secrets"
    (secrets / "api_keys").write_text(f"alice {ALICE}\n")
    shut, said = secrets, "secrets cannot be entered by user"
    if what == "the folder above":
        shut, said = above, "above cannot be entered by user"
    elif what == "a link":
        hidden = open_folder / "hidden"
        hidden.mkdir()
        (secrets / "api_keys").rename(hidden / "api_keys")
        (secrets / "api_keys").symlink_to(hidden / "api_keys")
        shut, said = hidden, "api_keys cannot be read by user"
    elif what == "no folder":
        shutil.rmtree(secrets)
        secrets.write_text(f"alice {ALICE}\n")
    shut.chmod(0o600)
    try:
        message = refused(variables, *as_nobody)
    finally:
        shut.chmod(0o700)
    assert said in message
    assert ALICE not in message
    assert not {path.name for path in state.iterdir()} & {"api_keys", "tls.key", "tls.crt"}


NEEDS_IPV6 = pytest.mark.skipif(
    not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text(),
    reason="this machine has no IPv6",
)


@NEEDS_IPV6
def test_everything_by_ipv6(tmp_path: Path) -> None:
    """Nameserver, TorchServe by name and by address, the proxy's own ports."""
    with nameserver("::1") as names, upstream(host="::1") as behind:
        by_name = f"http://torchserve.test:{behind.port}"
        address = f"[::1]:{behind.port}"
        group = dict.fromkeys(("SERVERS", "MANAGEMENT_SERVERS", "METRICS_SERVERS"), address)
        one = dict.fromkeys(("INFERENCE", "MANAGEMENT", "METRICS"), by_name)
        names_of_tls = f"IP:{HOST},IP:::1"
        for more in (one, group):
            with running(
                tmp_path, Ports(), address="", RESOLVER=names.url, TLS_NAMES=names_of_tls, **more
            ) as proxy:
                for host in (HOST, "[::1]"):
                    here = dataclasses.replace(proxy, url=proxy.url.replace(HOST, host))
                    reply = here.predict()
                    assert reply.status_code == 200, (host, more, reply.text)
                    url = f"{proxy.metrics_url.replace(HOST, host)}/workers"
                    assert "dcgan_workers_ready 1" in requests.get(url, timeout=10).text
                port = proxy.variables["METRICS_LISTEN"]
                for listen in (port, f"[::1]:{port}"):
                    variables = proxy.variables | {"METRICS_LISTEN": listen}
                    subprocess.run([SCRIPT.with_name("healthcheck.sh")], env=variables, check=True)


@pytest.mark.parametrize(
    ("text", "resolver"),
    [
        ("nameserver 10.0.0.53\nnameserver 10.0.0.54\n", "10.0.0.53"),
        ("search x\nnameserver\tfd00::53 # ours\n", "[fd00::53]"),
        ("nameserver fe80::1%eth0\nnameserver 10.0.0.53\n", "10.0.0.53"),
    ],
)
def test_the_nameserver_is_one_that_nginx_can_ask(tmp_path: Path, text: str, resolver: str) -> None:
    (tmp_path / "resolv.conf").write_text(text)
    more = {"RESOLV_CONF": str(tmp_path / "resolv.conf"), "RESOLVER": ""}
    with running(tmp_path, Ports(), **more) as proxy:
        settings = Path(proxy.variables["RUN"], "nginx.conf").read_text()
    assert f"resolver {resolver} valid=5s" in settings


def test_without_a_nameserver_the_start_says_so(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver fe80::1%eth0\n")
    more = {"RESOLV_CONF": str(tmp_path / "resolv.conf"), "RESOLVER": ""}
    said = refused(environment(tmp_path, Ports(), **more))
    assert "resolv.conf that nginx can ask; set RESOLVER" in said
