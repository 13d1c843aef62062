"""The whole suite under each pair of Python and torch that is promised: ``make matrix``. Standard library only.

Each pair has an environment of its own in ``.matrix``, made when it is first needed, some gigabytes each, and a log and
a report beside it. A pair whose Python is missing is named and skipped.
"""

import argparse
import glob
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PAIRS = (("3.12", "2.11.0"), ("3.11", "2.13.0"), ("3.13", "2.13.0"), ("3.12", "2.12.0"))
COLUMNS = ("Python", "torch", "passed", "failed", "skipped", "minutes", "verdict")


class Result(NamedTuple):
    """What became of one pair; numbers are of tests."""

    python: str
    torch: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    minutes: float = 0.0
    verdict: str = ""


def find_python(version: str) -> str | None:
    """A Python of this version, on the PATH or among pyenv's; None where there is none that runs."""
    root = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}")
    for python in ([on_path] if on_path else []) + sorted(glob.glob(f"{root}/versions/{version}.*/bin/python")):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if found.stdout.strip() == version:  # a shim may be there without its Python
            return python
    return None


def make_environment(python: str, torch: str, folder: Path, root: Path) -> None:
    """An environment with the package and everything its tests need; one that is there, and of today, stays.

    Raises:
        subprocess.CalledProcessError: something could not be installed.
    """
    stamp, wanted = folder / "ready", hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, f"torch=={torch}", "-e", ".[dev]"], cwd=root, check=True)
    stamp.write_text(wanted)


def read_report(path: Path) -> tuple[int, int, int]:
    """Tests passed, failed and skipped, of a report by pytest."""
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    tests, failed, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites for name in names)
        for names in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return tests - failed - skipped, failed, skipped


def run_pair(version: str, torch: str, arguments: Sequence[str], root: Path = ROOT) -> Result:
    """Make the environment, run the tests of ``root`` in it, and read what they reported."""
    name, place, began = f"py{version}-torch{torch}", root / ".matrix", monotonic()
    python = find_python(version)
    if python is None:
        return Result(version, torch, verdict=f"skipped: no Python {version} here")
    folder, report = place / name, place / f"{name}.xml"
    try:
        make_environment(python, torch, folder, root)
    except (subprocess.CalledProcessError, OSError) as error:
        return Result(version, torch, minutes=(monotonic() - began) / 60, verdict=f"not installed: {error}")
    report.unlink(missing_ok=True)
    log, began = place / f"{name}.log", monotonic()
    command = [str(folder / "bin/python"), "-m", "pytest", "-o", f"cache_dir={place / name}.cache"]
    command += ["--numprocesses", "auto", "--dist", "worksteal", f"--junitxml={report}", *arguments]
    with open(log, "w", encoding="utf-8") as stream:
        code = subprocess.run(command, cwd=root, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    minutes = (monotonic() - began) / 60
    if not report.exists():
        return Result(version, torch, minutes=minutes, verdict=f"pytest ended with {code}: see .matrix/{log.name}")
    verdict = "passed" if code == 0 else f"failed: see .matrix/{log.name}"
    return Result(version, torch, *read_report(report), minutes, verdict)


def table(results: Sequence[Result]) -> str:
    """The results as a table in Markdown."""
    rows = [[f"{value:.1f}" if isinstance(value, float) else str(value) for value in result] for result in results]
    return "\n".join(f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run all pairs, or those that are named; 1 if a test failed an environment could not be made, or no pair ran."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    known = ["/".join(pair) for pair in PAIRS]
    parser.add_argument("--pairs", nargs="+", choices=known, default=known, metavar="PYTHON/TORCH")
    options, rest = parser.parse_known_args(arguments)
    (root / ".matrix").mkdir(exist_ok=True)
    results = []
    for pair in options.pairs:
        version, torch = pair.split("/")
        print(f"Python {version}, torch {torch} ...", flush=True)
        results.append(run_pair(version, torch, rest, root))
        print(f"  {results[-1].verdict}", flush=True)
    print(table(results))
    if all(result.verdict.startswith("skipped") for result in results):
        print("no pair ran: none of these Pythons is here", file=sys.stderr)
        return 1
    return 0 if all(result.verdict.startswith(("passed", "skipped")) for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
