"""The tests of CUDA, and those of engine, masks, distributions, decisions and buffer with tensors on the device."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pytest

from benchmarks.gpu.report import Report

OF_CUDA = ("tests/test_cuda.py",)
ON_DEVICE = tuple(
    f"tests/{room}/test_{name}.py"
    for room, names in (
        ("masks", ("engine", "masks")),
        ("distributions", ("categorical", "factored")),
        ("decision", ("step", "buffer")),
    )
    for name in names
)
QUICK = (
    "any_leading_shape or any_strides or refusals or expand or compiled_equals or what_is_stored or picked_one_by_one"
)
WORKERS = 7  # of each run, where there is pytest-xdist and as many cores
TEST_S = 60  # of one test, where there is pytest-timeout


def run(told: Report, device: str, quick: bool) -> None:
    options = ["-p", "no:cacheprovider", "-q", "--tb=short", "--show-capture=no", "-ra"]
    workers = min(WORKERS, (os.cpu_count() or 1) // 2)
    if find_spec("xdist") and workers > 1:
        options += ["--numprocesses", str(workers), "--dist", "worksteal"]
    if find_spec("pytest_timeout"):
        options += ["--timeout", str(TEST_S)]
    select = ["-k", QUICK] if quick else []
    runs = {  # side by side: most of what they wait for is Python
        f"tests of CUDA: {OF_CUDA[0]}": [*OF_CUDA, *options],
        f"tests with --device {device}": [*ON_DEVICE, f"--device={device}", *options, *select],
    }
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "quick"}
    command = [sys.executable, "-m", "benchmarks.gpu.tests", str(told.path)]
    processes = [subprocess.Popen([*command, name, *each], env=environment) for name, each in runs.items()]
    for process in processes:
        process.wait()


class Reporter:
    """Tells of each test that fails when it does, and how many there were."""

    def __init__(self, told: Report, name: str):
        self.told, self.name = told, name
        self.counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
        self.deselected = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.told.check(report.nodeid, str(report.longrepr) if crash is None else f"{crash.message}\n{crash.path}")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.told.check(report.nodeid, str(report.longrepr))

    def pytest_deselected(self, items: Sequence[Any]) -> None:
        self.deselected += len(items)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        counts = {**self.counts, "deselected": self.deselected}
        said = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        fine = exitstatus == pytest.ExitCode.OK and (self.counts["passed"] or self.counts["skipped"])
        self.told.check(
            f"{self.name} ({said})", "" if fine else f"pytest ended with exit status {exitstatus!r}: {said}"
        )


def main(told: str, name: str, *arguments: str) -> int:
    return int(pytest.main(list(arguments), plugins=[Reporter(Report(told), name)]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
