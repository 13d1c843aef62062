"""The rows of ``esper-masks bench`` under pytest-benchmark, in one process: to look at single rows, or profile them.

``pytest benchmarks/bench_scaling.py -k "scaling and eager and 4096"``. The committed figures are those of the command.
"""

import os
from timeit import timeit
from typing import Any

import pytest
import torch

from esper_masks.bench.cases import COLD, GROUPS, SCALING, WARM, Case, group
from esper_masks.bench.ways import prepare

# not here: other libraries, which switch off torch's validation for the whole process, and first calls, which need one
CASES = {
    f"{name}-{case.name}-{case.batch}": case
    for name in (SCALING, *GROUPS)
    for case in group(name, "cpu", os.cpu_count() or 1)
    if not case.way.startswith(("torchrl", "sb3", COLD, WARM))
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_row(benchmark: Any, case: Case) -> None:
    torch.set_num_threads(case.threads)
    run, verify = prepare(case, "cpu")
    verify(run())
    benchmark.extra_info.update(case=case.name, batch=case.batch, way=case.way)
    seconds = timeit(run, number=1)
    if seconds > 0.05:
        benchmark.pedantic(run, rounds=3 if seconds > 2 else min(20, max(5, int(1 / seconds))), iterations=1)
    else:
        benchmark(run)
