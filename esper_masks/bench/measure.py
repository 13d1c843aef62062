"""One row, in a process of its own: ``python -m esper_masks.bench.measure '{"device": "cpu", "batch": 4096, ...}'``.

A process a row has a peak of memory that is its own, code that nobody compiled before, and a library that changes
torch's switches for itself alone; and where it runs out of memory, the others go on.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

import esper_masks as em
from esper_masks.bench import loops_2025_12, loops_2026_06
from esper_masks.bench.cases import LOOPS, OURS, PEERS, Case
from esper_masks.bench.inputs import LIMIT, Decision, random_states
from esper_masks.bench.libraries import FILL
from esper_masks.bench.rows import Row, check

Run = Callable[[], Any]
SECONDS = 1.0  # that a row is timed for
ALIKE = 0.999  # share of rows whose action must be the same: the noise of others falls within rounding of an edge


def measure(case: Case, device: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Check the outputs of a row, then time it.

    Returns: ``ns_per_env`` (fastest block), ``_median``, ``_q1`` and ``_q3`` of it, ``blocks``; ``first_call_s``, which
        for a compiled way is the time to build it; ``peak_bytes``, what a call takes at most beyond its inputs;
        ``copy_gb_per_s`` of copying as many bytes, ``limit_ns_per_env`` and ``share_of_limit``.
    Raises:
        AssertionError: outputs that are not what they should be.
    """
    torch.manual_seed(0)
    torch.set_num_threads(case.threads)
    if "compiled" in case.way or case.way == "cuda-graph":  # the first graph of a process takes some seconds more
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    run, verify = prepare(case, device)
    start = time.perf_counter()
    result = run()
    _wait(device)
    first = time.perf_counter() - start
    verify(result)
    del result
    peak = _peak(run, device)
    source = torch.empty(max(1, case.limit_bytes * case.batch // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    blocks = _times(lambda: target.copy_(source), case.threads, seconds / 5)
    bandwidth = 2 * source.nbytes / min(blocks) / 1e9
    times = [t / case.batch * 1e9 for t in _times(run, case.threads, seconds)]
    q1, median, q3 = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    limit = case.limit_bytes / bandwidth
    return {
        "ns_per_env": min(times),
        "ns_per_env_median": median,
        "ns_per_env_q1": q1,
        "ns_per_env_q3": q3,
        "blocks": len(times),
        "first_call_s": first,
        "peak_bytes": peak,
        "copy_gb_per_s": bandwidth,
        "limit_ns_per_env": limit,
        "share_of_limit": limit / min(times),
    }


def prepare(case: Case, device: str) -> tuple[Run, Callable[[Any], None]]:
    """What is timed, and the check of what it gives."""
    if case.way in PEERS:
        inputs = Decision(case.rules, case.batch, device)
        row = Row(inputs, case.way)
        function = row.forward() if case.step == "forward" else row.score()
        if "compiled" in case.way:
            function = torch.compile(function, fullgraph=True)
        peer = row.run(case.step)

        def run_peer() -> Any:
            with torch.set_grad_enabled(case.step != "forward"):
                return peer(function)

        return run_peer, lambda result: check(row, case.step, result)
    engine = em.MaskEngine(em.ruleset(case.rules), slot_names(case.slots), max_seeds=LIMIT, device=device)
    states, totals = random_states(engine, case.batch)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(case.batch, sum(head.size for head in engine.layout.heads), generator=generator).to(device)
    if case.layout == "batch-last":
        logits = logits.T.contiguous().T
    if case.way in LOOPS:
        return loop(case, engine, states, totals, logits)
    return ours(case, engine, states, totals, logits)


def slot_names(slots: int) -> list[str]:
    return [f"slot{i}" for i in range(slots)]


def ours(
    case: Case, engine: em.MaskEngine, states: Tensor, totals: Tensor, logits: Tensor
) -> tuple[Run, Callable[[Any], None]]:
    """The step in one of its modes, against the distribution and the engine in eager code."""
    step: em.DecisionStep = em.DecisionStep(engine, mode=case.way)  # type: ignore[arg-type]
    if case.work == "words":

        def verify_words(masks: em.ActionMasks) -> None:
            rows = slice(0, 1000)
            assert torch.equal(masks.op_words, engine(states, totals).op_words)
            expected = _masks_of_loop(case, engine, states[rows], totals[rows])
            for head, mask in expected.items():
                assert torch.equal(mask, masks[head][rows].cpu()), head

        return lambda: step.masks(states, totals), verify_words
    masks = engine(states, totals)
    if case.step == "forward":

        def verify(made: em.Decision) -> None:
            joint = em.FactoredCategorical(logits, masks)
            assert joint.legal(made.actions).all()
            _near(made.log_prob, joint.log_prob(made.actions))
            _near(made.raw_entropy, joint.raw_entropy())
            noise = torch.rand(case.batch, len(engine.layout.heads), device=logits.device)
            again = step(states, logits, totals, noise=noise).actions
            assert (again == joint.sample(noise=noise)).all(-1).float().mean() >= min(ALIKE, 1 - 1.5 / case.batch)

        return lambda: step(states, logits, totals), verify
    leaf = logits.clone().requires_grad_()
    with torch.no_grad():
        actions = em.FactoredCategorical(logits, masks).sample()

    def backward() -> tuple[Tensor, Tensor]:
        leaf.grad = None
        made = step.evaluate(leaf, masks, actions)
        (made.log_prob + made.raw_entropy).sum().backward()
        assert leaf.grad is not None
        return made.log_prob.detach(), leaf.grad

    def verify_backward(result: tuple[Tensor, Tensor]) -> None:
        own = logits.clone().requires_grad_()
        joint = em.FactoredCategorical(own, masks)
        log_prob = joint.log_prob(actions)
        (log_prob + joint.raw_entropy()).sum().backward()
        _near(result[0], log_prob)
        _near(result[1], own.grad)

    return backward, verify_backward


def loop(
    case: Case, engine: em.MaskEngine, states: Tensor, totals: Tensor, logits: Tensor
) -> tuple[Run, Callable[[Any], None]]:
    """Masks environment by environment, then torch's ``Categorical`` head by head: what the engine replaces."""
    module = loops_2025_12 if case.rules == "esper-2025-12" else loops_2026_06
    function = getattr(module, "small_tensors" if case.way == LOOPS[0] else "one_tensor")
    ids, counts = list(engine.slot_ids), totals.tolist()
    dicts = _dicts(engine, states)
    sizes = [head.size for head in engine.layout.heads]

    def masks() -> Any:
        return function(dicts, ids, ids, counts, LIMIT)

    def decide() -> Any:
        made = masks()
        parts = zip(engine.layout.head_names, logits.split(sizes, -1))
        heads = [torch.distributions.Categorical(logits=part.masked_fill(~made[name], FILL)) for name, part in parts]
        actions = [head.sample() for head in heads]
        scores = [head.log_prob(action) for head, action in zip(heads, actions)]
        entropies = [head.entropy() for head in heads]
        return made, torch.stack(actions, -1), torch.stack(scores).sum(0), torch.stack(entropies).sum(0)

    def verify(result: Any) -> None:
        made, expected = result if case.work == "words" else result[0], engine(states, totals)
        for head in expected:
            assert torch.equal(made[head], expected[head]), head

    return masks if case.work == "words" else decide, verify


def _dicts(engine: em.MaskEngine, states: Tensor) -> list[dict[str, tuple[int, ...] | None]]:
    empty = int(engine.rules.empty)
    return [
        {slot: None if seed[0] == empty else tuple(seed) for slot, seed in zip(engine.slot_ids, env)}
        for env in states.tolist()
    ]


def _masks_of_loop(case: Case, engine: em.MaskEngine, states: Tensor, totals: Tensor) -> dict[str, Tensor]:
    if case.rules not in ("esper-2025-12", "esper-2026-06"):
        return {}
    module, ids = loops_2025_12 if case.rules == "esper-2025-12" else loops_2026_06, list(engine.slot_ids)
    masks: dict[str, Tensor] = module.one_tensor(_dicts(engine, states), ids, ids, totals.tolist(), LIMIT)
    return {head: masks[head] for head in engine.layout.head_names}


def _near(ours: Tensor | None, expected: Tensor | None) -> None:
    assert ours is not None
    assert expected is not None
    torch.testing.assert_close(ours.detach(), expected.detach(), rtol=1e-4, atol=1e-5, check_stride=False)


def _times(run: Run, threads: int, seconds: float) -> list[float]:
    """Seconds of a call, block by block."""
    timer = Timer("run()", globals={"run": run}, num_threads=threads)
    return list(timer.blocked_autorange(min_run_time=seconds).times)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak(run: Run, device: str) -> int | None:
    """Bytes that a call takes at most, beyond what was there before; None where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    status, refs = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        refs.write_text("5")  # forget the peak so far
        before = _field(status, "VmRSS")
        run()
        return max(0, _field(status, "VmHWM") - before)
    except (OSError, ValueError):
        return None


def _field(status: Path, name: str) -> int:
    [line] = [line for line in status.read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is short."""
    words = ("can't allocate memory", "out of memory", "not enough memory", "Cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in words)


def main(argument: str) -> int:
    """Print the measurements of a row as JSON: or ``{"error": ...}``."""
    options = json.loads(argument)
    device, seconds = options.pop("device"), options.pop("seconds", SECONDS)
    case = Case(**options)
    assert case.way in (*OURS, *LOOPS, *PEERS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # what is built is built anew
        try:
            print(json.dumps(measure(case, device, seconds)))
        except Exception as error:
            if not out_of_memory(error):
                raise
            print(json.dumps({"error": "out of memory"}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
