"""``python -m benchmarks.serving``: our handler, the stock one, other servers and the ceiling.

All in one run. The servers are up all the time and take turns, each held still while another has
its turn (LitServe polls when idle), so that what the machine does meanwhile falls on all alike.
Progress goes to stderr, the tables to stdout, everything to a JSON file, after Ctrl-C too what
there is. A peer that cannot be set up or started is told in both, with the reason, and so are
requests that failed. Exit codes: 0 measured, 1 our server or the stock one does not start, or ours
answered nothing in some turn, 2 bad usage, 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tyro

from benchmarks import servers
from benchmarks.background import end_on_sigterm
from benchmarks.documents import fill
from benchmarks.measurement import Measurement
from benchmarks.serving_config import ServingConfig
from benchmarks.serving_table import report, summary, tables
from deploy.java import NoJavaError
from deploy.server import ServerError
from training.files import atomic_path

DOCUMENT, README = Path("docs/performance.md"), Path("README.md")
DATA = Path("docs")  # a file of what was measured for each precision that ours computed in


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(ServingConfig, prog="python -m benchmarks.serving", args=given)
    end_on_sigterm()
    command = shlex.join(["python", "-m", "benchmarks.serving", *given])
    measurement, code = None, 0
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        try:
            config.check()
            packed = servers.archive(folder / "packed", config.precision)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        try:
            measurement = Measurement(config, packed, folder, stack)
            measurement.run()
        except KeyboardInterrupt:
            code = 130
        except (ServerError, NoJavaError, RuntimeError, OSError,
                subprocess.CalledProcessError) as error:  # fmt: skip
            print(f"error: {error}", file=sys.stderr)
            code = 1
    if measurement is None or not measurement.rows:
        return code
    result = measurement.result(command)
    update_docs = config.update_docs and code == 0  # a part of a run is no evidence
    part = f"serving-{result['precision']}"
    _write(result, DATA / f"{part}.json" if update_docs else config.out)
    print(tables(result))
    if update_docs:
        fill(DOCUMENT, {part: report(result)})
        fill(README, {part: summary(result)})
    answered = [turn["load"]["requests"] for row in result["rows"] for turn in row["turns"]["ours"]]
    return code if all(answered) else code or 1


def _write(result: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as beside:
        beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
