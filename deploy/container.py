"""What the container's entry point and its health check both need to know.

Both are started in the folder of config.properties, ``/opt/dcgan`` in the image.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.lifecycle import ServerError

CONFIG = Path("config.properties")
MODEL = "dcgan"
"""The name that requests use."""
DRAINING = Path(tempfile.gettempdir()) / "draining"
"""Exists while the server is being stopped; the health check reports unhealthy then."""


@dataclass(frozen=True)
class Settings:
    """What config.properties says.

    Args:
        archives: those that TorchServe is to load.
        inference_port, management_port: on the loopback interface, whatever else they are bound to.
    """

    archives: tuple[Path, ...]
    inference_port: int
    management_port: int

    @property
    def description_url(self) -> str:
        return f"http://127.0.0.1:{self.management_port}/models/{MODEL}"

    @property
    def prediction_url(self) -> str:
        return f"http://127.0.0.1:{self.inference_port}/predictions/{MODEL}"


def read_settings() -> Settings:
    """The settings in the folder that this process was started in.

    Raises:
        ServerError: one that is needed is missing or makes no sense.
        OSError: there is no such file.
    """
    lines = CONFIG.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    given = {key.strip(): value.strip() for key, value in pairs}
    try:
        store = Path(given["model_store"])
        names = given["load_models"].split(",")
        return Settings(
            tuple(store / name.strip() for name in names),
            _port(given["inference_address"]), _port(given["management_address"]),
        )  # fmt: skip
    except KeyError as error:
        raise ServerError(f"{CONFIG.resolve()} does not set {error.args[0]}") from error


def _port(address: str) -> int:
    port = urlsplit(address).port
    if port is None:
        raise ServerError(
            f"{CONFIG.resolve()} has the address {address!r}; give a port as well, such as "
            "http://127.0.0.1:8080"
        )
    return port
