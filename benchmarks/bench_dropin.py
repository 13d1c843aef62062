"""The drop-in against the loop it replaces, from the objects that its callers hold; equality asserted before timing.

"one by one" calls ``compute_action_masks`` for each environment and stacks, as the loop does; "batch" is one call of
``compute_batch_masks``.
"""

from collections.abc import Callable
from itertools import cycle
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.bench import loops_2025_12, loops_2026_06
from esper_masks.bench.inputs import LIMIT, random_states

BATCHES = (1, 4, 16, 64, 256, 4096)
GENERATIONS: dict[str, tuple[Any, ModuleType]] = {
    "esper-2025-12": (em.compat.esper_2025_12, loops_2025_12),
    "esper-2026-06": (em.compat.esper_2026_06, loops_2026_06),
}
GRID = [(rules, 3, batch) for rules in GENERATIONS for batch in BATCHES] + [("esper-2026-06", 16, 1)]
POOL = 256  # environments that a batch of one takes turns with, so that no row is that of one lucky state
WAYS = ("small_tensors", "drop-in, one by one", "drop-in, batch")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("rules", "slots", "batch"), GRID)
def test_dropin(benchmark: Any, rules: str, slots: int, batch: int, way: str) -> None:
    dropin, loop = GENERATIONS[rules]
    ids = None if slots == 3 else tuple(f"slot{i}" for i in range(slots))
    settings = {} if ids is None else {"slot_config": dropin.SlotConfig(ids)}
    engine = em.MaskEngine(em.ruleset(rules), ids)
    slot_ids, empty = list(engine.slot_ids), int(engine.rules.empty)
    states, totals = random_states(engine, POOL if batch == 1 else batch)
    rows = [{s: None if v[0] == empty else tuple(v) for s, v in zip(slot_ids, env)} for env in states.tolist()]
    infos = [{s: None if v is None else dropin.MaskSeedInfo(*v) for s, v in env.items()} for env in rows]
    counts, turn = totals.tolist(), cycle(range(POOL))

    def one(env: int) -> dict[str, Tensor]:
        return dropin.compute_action_masks(infos[env], slot_ids, counts[env], LIMIT, **settings)

    def one_by_one() -> dict[str, Tensor]:
        envs = [one(env) for env in range(batch)]
        return {head: torch.stack([env[head] for env in envs]) for head in envs[0]}

    def together() -> dict[str, Tensor]:
        return dropin.compute_batch_masks(infos, slot_ids, counts, LIMIT, **settings)

    def one_together() -> dict[str, Tensor]:
        env = next(turn)
        return dropin.compute_batch_masks([infos[env]], slot_ids, [counts[env]], LIMIT, **settings)

    def one_looped(env: int) -> dict[str, Tensor]:
        return loop.env_masks(rows[env], slot_ids, slot_ids, counts[env], LIMIT)

    ways: dict[str, Callable[[], dict[str, Tensor]]] = {
        "small_tensors": lambda: loop.small_tensors(rows, slot_ids, slot_ids, counts, LIMIT),
        "drop-in, one by one": one_by_one,
        "drop-in, batch": together,
    }
    if batch == 1:
        ways = {
            "small_tensors": lambda: one_looped(next(turn)),
            "drop-in, one by one": lambda: one(next(turn)),
            "drop-in, batch": one_together,
        }
    run, expected = ways[way], together()
    for env in range(POOL if batch == 1 else 1):
        for head, mask in run().items():
            wanted = expected[head][env] if batch == 1 else expected[head]
            assert torch.equal(mask.reshape(wanted.shape), wanted), head
    benchmark.extra_info.update(rules=rules, batch=batch, slots=len(slot_ids), way=way)
    benchmark(run)
