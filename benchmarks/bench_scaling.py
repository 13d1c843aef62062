"""The rows of ``esper-masks bench`` under pytest-benchmark, in one process: to look at single rows, or profile them.

``pytest benchmarks/bench_scaling.py -k "eager and 4096"``. The committed figures are those of the command.
"""

import os
from typing import Any

import pytest
import torch

from benchmarks.timing import measure
from esper_masks.bench.cases import Case, star
from esper_masks.bench.ways import prepare

# the others switch off torch's validation for the whole process
CASES = [case for case in star("cpu", os.cpu_count() or 1) if case.way not in ("torchrl eager", "sb3 eager")]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.name}-{case.batch}" for case in CASES])
def test_scaling(benchmark: Any, case: Case) -> None:
    torch.set_num_threads(case.threads)
    run, verify = prepare(case, "cpu")
    verify(run())
    benchmark.extra_info.update(case=case.name, batch=case.batch, way=case.way)
    measure(benchmark, run)
