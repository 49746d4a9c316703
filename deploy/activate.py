"""Makes the documented ``torchserve --start --models dcgan.mar`` work in the activated
environment: TorchServe needs to be told its settings file and, at times, its Java.

``make setup`` runs this once; it adds a block to the environment's activate script.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.java import find_java_home
from deploy.server import BASE_CONFIG

_BEGIN, _END = "# >>> dcgan server settings >>>", "# <<< dcgan server settings <<<"


def add_settings(script: Path) -> None:
    """Write (or renew) the block in an ``activate`` script of bash or zsh.

    Variables that are already set are left alone.
    """
    text = script.read_text(encoding="utf-8")
    if _BEGIN in text:
        text = text[: text.index(_BEGIN)] + text[text.index(_END) + len(_END) + 1 :]
    block = (
        f"{_BEGIN}\n"
        f'export TS_CONFIG_FILE="${{TS_CONFIG_FILE:-{BASE_CONFIG}}}"\n'
        f'export JAVA_HOME="${{JAVA_HOME:-{find_java_home()}}}"\n'
        f"{_END}\n"
    )
    script.write_text(text + block, encoding="utf-8")


if __name__ == "__main__":
    add_settings(Path(sys.prefix) / "bin" / "activate")
