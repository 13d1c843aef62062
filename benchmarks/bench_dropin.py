"""The drop-in against the loop it replaces, from the objects that its callers hold; equality asserted before timing.

"one by one" calls ``compute_action_masks`` for each environment and stacks, as the loop does; "batch" is one call of
``compute_batch_masks``.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from benchmarks import loops_2025_12, loops_2026_06
from benchmarks.inputs import LIMIT, random_states

BATCHES = (1, 4, 16, 64, 256, 4096)
GENERATIONS: dict[str, tuple[Any, ModuleType]] = {
    "esper-2025-12": (em.compat.esper_2025_12, loops_2025_12),
    "esper-2026-06": (em.compat.esper_2026_06, loops_2026_06),
}
WAYS = ("small_tensors", "drop-in, one by one", "drop-in, batch")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("rules", GENERATIONS)
def test_dropin(benchmark: Any, rules: str, batch: int, way: str) -> None:
    dropin, loop = GENERATIONS[rules]
    engine = em.MaskEngine(em.ruleset(rules))
    slot_ids, empty = list(engine.slot_ids), int(engine.rules.empty)
    states, totals = random_states(engine, batch)
    rows = [{s: None if v[0] == empty else tuple(v) for s, v in zip(slot_ids, env)} for env in states.tolist()]
    infos = [{s: None if v is None else dropin.MaskSeedInfo(*v) for s, v in env.items()} for env in rows]
    counts = totals.tolist()

    def one_by_one() -> dict[str, Tensor]:
        envs = [dropin.compute_action_masks(env, slot_ids, total, LIMIT) for env, total in zip(infos, counts)]
        return envs[0] if batch == 1 else {head: torch.stack([env[head] for env in envs]) for head in envs[0]}

    def looped() -> dict[str, Tensor]:
        if batch == 1:
            return loop.env_masks(rows[0], slot_ids, slot_ids, counts[0], LIMIT)
        return loop.small_tensors(rows, slot_ids, slot_ids, counts, LIMIT)

    ways: dict[str, Callable[[], dict[str, Tensor]]] = {
        "small_tensors": looped,
        "drop-in, one by one": one_by_one,
        "drop-in, batch": lambda: dropin.compute_batch_masks(infos, slot_ids, counts, LIMIT),
    }
    run, expected = ways[way], dropin.compute_batch_masks(infos, slot_ids, counts, LIMIT)
    for head, mask in run().items():
        assert torch.equal(mask.reshape(expected[head].shape), expected[head]), head
    benchmark.extra_info.update(rules=rules, batch=batch, slots=len(slot_ids), way=way)
    benchmark(run)
