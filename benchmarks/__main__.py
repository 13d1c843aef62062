"""Run the suites and print their tables: ``python -m benchmarks [masks] [distributions] [dropin] [pytest options]``.

A whole run of a suite writes ``benchmarks/results/<version>/<suite>-cpu.json``. Each part of a suite has a process of
its own.
"""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

import esper_masks as em
from benchmarks.results import merged
from benchmarks.tables import print_table
from esper_masks.bench.libraries import LIBRARIES, PEERS

HERE = Path(__file__).parent
SUITES = {"masks": ("",), "distributions": ("", *PEERS), "dropin": ("",)}  # the parts: our own, and one for each peer
OPTIONS = ("-q", "--benchmark-disable-gc", "--benchmark-warmup=on", "--benchmark-quiet")


def main(arguments: Sequence[str]) -> int:
    names = list(takewhile(SUITES.__contains__, arguments))
    options = arguments[len(names) :]
    return max([run_suite(name, options) for name in names or SUITES])


def run_suite(name: str, options: Sequence[str]) -> int:
    """All parts of a suite; returns the exit code. Only a whole run that passed replaces the result."""
    missing = [part for part in SUITES[name] if not is_installed(part)]
    for part in missing:
        print(f"{LIBRARIES[part].package} is not installed: no rows of it")
    present = [part for part in SUITES[name] if part not in missing]
    parts = []
    for part in present:
        code, measured = run_part(name, part, options)
        if code:
            return code
        parts += [measured] if measured else []
    if not parts:
        print(f"{name}: no benchmark matches {' '.join(options)}")
        return int(pytest.ExitCode.NO_TESTS_COLLECTED)
    result = merged(parts)
    packages = [LIBRARIES[part].package for part in present if part]
    if packages:
        result["peers"] = {package: importlib.metadata.version(package) for package in packages}
    print_table(name, result)
    target = HERE / "results" / em.__version__ / f"{name}-cpu.json"
    if missing:
        print(f"{target.relative_to(HERE.parent)} is left as it was: it would lack {', '.join(missing)}")
    elif not options:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(result, indent=4), encoding="utf-8")
        print(f"written to {target.relative_to(HERE.parent)}")
    return 0


def is_installed(part: str) -> bool:
    return not part or importlib.util.find_spec(LIBRARIES[part].module) is not None


def run_part(name: str, peer: str, options: Sequence[str]) -> tuple[int, dict[str, Any] | None]:
    """One process; returns its exit code and what it measured, None where the options leave nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.json"
        own = [f"benchmarks/bench_{name}.py", *OPTIONS, f"--benchmark-json={part}", f"--peer={peer}"]
        done = subprocess.run([sys.executable, "-m", "pytest", *own, *options], cwd=HERE.parent, check=False)
        if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
            return 0, None
        return done.returncode, json.loads(part.read_text()) if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
