"""How a benchmark is ended."""

from __future__ import annotations

import ast
import os
import signal

import pytest

from benchmarks.command import end_on_sigterm
from deploy.server import ROOT


def test_sigterm_ends_with_blocks_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        end_on_sigterm()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_each_benchmark_that_starts_servers_ends_them_on_sigterm() -> None:
    starts, ends = set(), set()
    for path in (ROOT / "benchmarks").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        commands = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main"]
        if commands and imported & {"Server", "servers"}:
            starts.add(path.stem)
        called = {
            node.func.id
            for command in commands
            for node in ast.walk(command)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if "end_on_sigterm" in called:
            ends.add(path.stem)
    assert {"compare", "soak"} <= starts
    assert starts <= ends
