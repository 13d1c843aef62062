"""Masks and decisions of both rule sets, over batches: eager, compiled, as a CUDA graph, with share of the limit."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from time import perf_counter

import torch

import esper_masks as em
from benchmarks.gpu.child import in_turn
from benchmarks.gpu.measuring import captured, launches, seconds
from benchmarks.gpu.report import Report, l2_cache
from esper_masks.bench.cases import CENTRE, Case, Run, Verify
from esper_masks.bench.report import count
from esper_masks.bench.ways import make_step, prepare

RULES = ("esper-2025-12", "esper-2026-06")
WORKS = {  # name -> fields of the cases
    "decision": {"work": "decision"},
    "masks": {"work": "words"},
    "update": {"work": "decision", "step": "forward+backward"},
}
TITLES = {
    "decision": "a decision from states and logits",
    "masks": "mask words",
    "update": "scores of given actions and their gradient (forward + backward)",
}
BATCHES, QUICK = tuple(1 << power for power in range(12, 23, 2)), (1 << 12,)  # the first of them is the same
COPIED = 1 << 30  # bytes of the largest copy
CACHED = "in L2"  # what the fewest bytes fit into, so that no memory may have been read
GRAPH = "cuda-graph"
COMPARED = "times as fast as eager"


def run(told: Report, device: str, quick: bool) -> None:
    with told.piece("copies"):
        for size, rate in copies(device, quick).items():
            told.cell("copy on the device, GB/s read and written", "copy", f"{size / 2**20:g} MiB", rate)
    in_turn(told, "decisions", device, quick, [[work, rules] for rules in RULES for work in WORKS])


def copies(device: str, quick: bool) -> dict[int, float]:
    """GB/s of copies by their bytes, of which as many are read as written; the last one is the largest."""
    large = COPIED >> 5 if quick else COPIED
    source = torch.randint(0, 256, (large,), dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    target.copy_(source)
    assert torch.equal(target, source)
    sizes = (large >> 8, large >> 4, large)
    return {n: 2 * n / seconds(partial(target[:n].copy_, source[:n]), device) / 1e9 for n in sizes}


def ways(device: str) -> list[str]:
    return ["eager", "compiled", *([GRAPH] if device == "cuda" else [])]


def work(told: Report, device: str, quick: bool, name: str, rules: str) -> Iterator[None]:
    """Build the graphs of two batches, which serve all; then check and measure every batch in every way."""
    centre, batches = replace(CENTRE, rules=rules, **WORKS[name]), QUICK if quick else BATCHES
    # what a CUDA graph gives lies ready: to copy it elsewhere would be more
    cases = {way: replace(centre, way=way, memory="fresh" if way == GRAPH else "allocated") for way in ways(device)}
    steps = {way: make_step(case, device) for way, case in cases.items()}
    built: dict[str, float] = {}
    for way, case in cases.items():
        if case.is_built and not _is_captured_here(case):
            began = perf_counter()
            for batch in batches[:2]:
                call, verify = _prepare(replace(case, batch=batch), device, steps)
                verify(call())
            built[way] = perf_counter() - began
    launches(lambda: torch.zeros(1, device=device), device)  # the profiler takes a second to begin
    yield
    *_, bandwidth = copies(device, quick).values()
    table = f"{TITLES[name]}, {rules}, 3 slots: ns an environment ({COMPARED}, share of the limit)"
    for batch in batches:
        for way, case in cases.items():
            with told.piece(f"{name}, {rules}, {way}, batch {batch:,}"):
                _row(told, table, replace(case, batch=batch), device, steps, bandwidth)
            if device == "cuda":
                torch.cuda.empty_cache()
    for way, took in built.items():
        told.cell(table, way, "built", f"{took:.0f} s")


def _row(
    told: Report, table: str, case: Case, device: str, steps: dict[str, em.DecisionStep], bandwidth: float
) -> None:
    """Check one way at one batch, and measure it."""
    call, verify = _prepare(case, device, steps)
    verify(call())
    each = seconds(call, device) / case.batch * 1e9
    share = case.limit_bytes / bandwidth / each
    note = CACHED if device == "cuda" and case.limit_bytes * case.batch < l2_cache() else ""
    told.cell(table, case.way, count(case.batch), each, compared="time", share=share, note=note)
    if case.batch == BATCHES[0]:
        told.cell(table, case.way, "kernels" if device == "cuda" else "ops", launches(call, device))


def _is_captured_here(case: Case) -> bool:
    """A step compiles scoring, and leaves the capture of it, with its gradient, to whoever trains."""
    return case.way == GRAPH and case.step != "forward"


def _prepare(case: Case, device: str, steps: dict[str, em.DecisionStep]) -> tuple[Run, Verify]:
    if not _is_captured_here(case):
        return prepare(case, device, steps[case.way], alike=case.batch == BATCHES[0])
    call, verify = prepare(replace(case, way="compiled"), device, steps["compiled"])
    return captured(call), verify
