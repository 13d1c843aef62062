"""Masked distributions: ours, torch's on pre-filled logits, TorchRL's and sb3-contrib's; outputs checked, then timed.

forward             a sample, its log-probability and the entropy in nats, without gradients
forward+backward    log-probability of one given legal action and the entropy, their sum, ``backward()`` to the logits

One head of several widths, and the whole decision of a rule set. **The decisions are not the same distribution.** Ours
draws the op first and then what the op permits, so that every action is legal; the peers have one distribution a head,
drawn independently under the same head masks, of which many pairs of op and slot are illegal. Their rows are what
people run today, not the same result; ours also gives the normalized entropy of each head. The masks of all ways lie
ready in the form each takes, logits are row-major but in the batch-last row.

Eager ways run with their default validation, ours with ``"flag"``. A compiled way is one graph for all batches. What it
returns are values for each row: a sum over the batch inside it would be compiled anew above 4,096 rows. "Vectorized"
is compiled with the option ``VECTORIZED``: by default inductor takes row-major rows of few actions one at a time.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import pytest
import torch

from benchmarks.timing import compiled, measure
from esper_masks.bench.inputs import Decision, Head
from esper_masks.bench.libraries import PEERS
from esper_masks.bench.rows import Row, check

BATCHES = (4, 4096, 65536)
CASES = {f"one head, width {width}": width for width in (4, 13, 128, 1000)} | {
    f"decision, {rules}": rules for rules in ("esper-2025-12", "esper-2026-06")
}
STEPS = ("forward", "forward+backward")
OF_HEADS, OF_DECISIONS = "ours compiled, vectorized", "ours compiled, batch-last"  # timed in one kind of case only
WAYS = ("ours eager", "ours compiled", OF_HEADS, OF_DECISIONS, "torch eager", "torch compiled")
VECTORIZED = {"cpp.enable_tiling_heuristics": False}
PEER_WAYS = tuple(f"{peer} eager" for peer in PEERS)
COMPILED_ON = 4096  # rows; the graph serves the other batches too


class Key(NamedTuple):
    """What tells a row from another."""

    case: str
    step: str
    way: str
    batch: int


def grid(peer: str = "") -> list[Key]:
    """The rows of one process, in order: a graph is made once and used by all batches."""
    ways = (f"{peer} eager",) if peer else WAYS
    return [
        Key(case, step, way, batch)
        for case in CASES
        for step in STEPS
        for way in ways
        if way != (OF_HEADS if isinstance(CASES[case], str) else OF_DECISIONS)
        for batch in BATCHES
    ]


def pytest_generate_tests(metafunc: Any) -> None:
    keys = grid(metafunc.config.getoption("peer"))
    metafunc.parametrize("key", keys, ids=["-".join(map(str, key)) for key in keys])


def inputs(case: str, batch: int) -> Head | Decision:
    made, key = _batches(case), CASES[case]
    if batch not in made:
        made[batch] = Decision(key, batch) if isinstance(key, str) else Head(key, batch)
    return made[batch]


@lru_cache(maxsize=1)  # one case at a time: 65,536 rows of 1,000 logits take 260 MB
def _batches(case: str) -> dict[int, Head | Decision]:
    return {}


@pytest.fixture(scope="module")
def graphs() -> dict[Any, Any]:
    return {}


@pytest.mark.benchmark(max_time=0.5)
def test_distributions(benchmark: Any, graphs: dict[Any, Any], key: Key) -> None:
    torch.manual_seed(0)
    row = Row(inputs(key.case, key.batch), key.way)
    columns = row.logits.shape[-1]
    heads = len(row.inputs.sizes) if isinstance(row.inputs, Decision) else 1
    benchmark.extra_info.update(key._asdict(), heads=heads, columns=columns)
    with torch.set_grad_enabled(key.step == "forward+backward"):
        run, function = row.run(key.step), row.forward() if key.step == "forward" else row.score()
        if "compiled" in key.way:
            if key[:3] not in graphs:
                graphs.clear()
                example = Row(inputs(key.case, COMPILED_ON), key.way)
                example.any_batch()
                graphs[key[:3]] = compiled(
                    function, example.run(key.step), options=VECTORIZED if key.way == OF_HEADS else None
                )
            function, benchmark.extra_info["compile_s"] = graphs[key[:3]]
            with torch.compiler.set_stance("fail_on_recompile"):
                result = run(function)
        else:
            result = run(function)
        check(row, key.step, result)
        del result
        measure(benchmark, lambda: run(function))
