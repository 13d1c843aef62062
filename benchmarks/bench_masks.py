"""Mask building: the engine against two loops, equality asserted before anything is timed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from benchmarks.timing import compiled
from esper_masks.bench.inputs import LIMIT, random_states, state_dicts
from esper_masks.bench.ways import LOOP_MODULES

BATCHES = (1, 4, 256, 4096, 65536)
GRID = [("esper-2025-12", batch, slots) for slots in (3, 64) for batch in BATCHES] + [
    ("esper-2026-06", batch, 3) for batch in (4, 4096, 65536)
]
WAYS = (
    "copy",
    "small_tensors",
    "one_tensor",
    "engine from objects",
    "bools eager",
    "bools compiled",
    "words eager",
    "words compiled",
    "words compiled, row-major",
)


class Case:
    """One batch in both forms: packed states for the engine, dicts of tuples for the loops."""

    def __init__(self, rules_name: str, batch: int, slots: int):
        self.rules = em.ruleset(rules_name)
        self.slot_ids = [f"slot{i}" for i in range(slots)]
        self.engine = em.MaskEngine(self.rules, self.slot_ids, max_seeds=LIMIT)
        states, self.totals = random_states(self.engine, batch)
        self.states = states
        self.dicts = state_dicts(self.engine, states)

    def loop(self, way: str) -> Callable[[], dict[str, Tensor]]:
        function = getattr(LOOP_MODULES[self.rules.name], way)
        totals = self.totals.tolist()
        return lambda: function(self.dicts, self.slot_ids, self.slot_ids, totals, LIMIT)


def words(masks: em.ActionMasks) -> tuple[Tensor, Tensor]:
    return masks.slot_words, masks.op_words


def bools(masks: em.ActionMasks, with_slot_by_op: bool) -> dict[str, Tensor]:
    """What the loops give: one bool mask per head, and ``slot_by_op`` where the original has it."""
    return {**{head: masks[head] for head in masks}, **({"slot_by_op": masks.slot_by_op} if with_slot_by_op else {})}


@pytest.fixture(scope="module")
def cases() -> Callable[..., Case]:
    made: dict[tuple[str, int, int], Case] = {}

    def get(*key: Any) -> Case:
        if key not in made:
            made.clear()  # one at a time: the dicts of 65,536 environments are large
            made[key] = Case(*key)
        return made[key]

    return get


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("rules", "batch", "slots"), GRID)
def test_masks(benchmark: Any, cases: Callable[..., Case], rules: str, batch: int, slots: int, way: str) -> None:
    case = cases(rules, batch, slots)
    engine, states, totals = case.engine, case.states, case.totals
    with_slot_by_op = rules == "esper-2026-06"
    benchmark.extra_info.update(rules=rules, batch=batch, slots=slots, way=way)

    if way == "copy":
        target = torch.empty_like(states)
        benchmark.extra_info["bytes_per_env"] = 2 * states.nbytes / batch
        benchmark(target.copy_, states)
        return

    if way in ("small_tensors", "one_tensor"):
        run = case.loop(way)
        expected = bools(engine(states, totals), with_slot_by_op)
        for head, mask in run().items():
            assert torch.equal(mask, expected[head]), head
        seconds = batch * slots * 5e-6  # roughly; slow ones are run a few times, quick ones as often as the tool likes
        if seconds > 0.2:
            benchmark.pedantic(run, rounds=3 if batch * slots > 1_000_000 else 8, iterations=1)
        else:
            benchmark(run)
        return

    if way == "engine from objects":
        mappings = [{s: None if seed is None else em.SlotState(*seed) for s, seed in env.items()} for env in case.dicts]
        packed = engine.pack_slots(mappings)
        assert torch.equal(engine(packed, totals).slot_words, engine(states, totals).slot_words)

        def run() -> tuple[Tensor, Tensor]:
            return words(engine(engine.pack_slots(mappings), totals))

        if batch * slots > 50_000:
            benchmark.pedantic(run, rounds=8, iterations=1)
        else:
            benchmark(run)
        return

    def eager(states: Tensor, totals: Tensor) -> Any:
        masks = engine(states, totals)
        return bools(masks, with_slot_by_op) if way.startswith("bools") else words(masks)

    if way.startswith("words"):
        benchmark.extra_info["bytes_per_env"] = (states.nbytes + totals.nbytes) / batch + 4 * (slots + 1)
    if way.endswith("row-major"):
        states = states.contiguous()
    step = eager
    if "compiled" in way:
        # for this batch size, as a rollout with a fixed batch would
        step, benchmark.extra_info["compile_s"] = compiled(eager, lambda step: step(states, totals))
        _assert_equal(step(states, totals), eager(states, totals))
    benchmark(step, states, totals)


def _assert_equal(ours: Any, expected: Any) -> None:
    pairs = zip(ours.values(), expected.values()) if isinstance(ours, dict) else zip(ours, expected)
    for left, right in pairs:
        assert torch.equal(left, right)
