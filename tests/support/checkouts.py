"""Copies of the repository, whose commands have a server of their own to start and to stop."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from deploy.server import ROOT, Ports


def checkout(folder: Path) -> Path:
    """What serving needs of the repository, in a new folder."""
    for part in ("client", "deploy", "handler"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "model_store").mkdir()
    for file in ("config.properties", "model_store/dcgan.mar", "model_store/dcgan.mar.sha256"):
        shutil.copy(ROOT / file, folder / file)
    return folder


def flags(ports: Ports) -> list[str]:
    return [
        x
        for f in fields(ports)
        for x in (f"--{f.name}".replace("_", "-"), str(getattr(ports, f.name)))
    ]


def command(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A module of the checkout with its arguments."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        text=True,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def said(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, once it has ended."""
    out, err = process.communicate(timeout=150)
    return process.returncode, out, err
