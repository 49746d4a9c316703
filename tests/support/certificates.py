"""Certificates for the tests, by openssl."""

import subprocess
from pathlib import Path


def certify(folder: Path, days: int = 1, name: str = "tls", host: str = "IP:127.0.0.1") -> None:
    """A certificate and its key in the folder, good for this long; a negative number: expired."""
    folder.mkdir(exist_ok=True)
    crt, key = f"{folder}/{name}.crt", f"{folder}/{name}.key"
    kind = f"ec -pkeyopt ec_paramgen_curve:P-256 -noenc -addext subjectAltName={host}"
    files = f"-keyout {key} -out {crt} -days {max(days, 1)}"
    commands = [f"req -x509 -newkey {kind} -subj /CN=mine {files}"]
    if days < 0:  # which req does not take
        commands.append(f"x509 -in {crt} -signkey {key} -days {days} -out {crt}")
    for command in commands:
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
