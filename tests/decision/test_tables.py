"""Lookup tables, which no trace can make, are there when a step is traced: in copies, elsewhere, for equal layouts."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from tests.decision.inputs import graphs
from tests.helpers import assert_near, seeded
from tests.pods import engine_of, inputs, rows

pytestmark = pytest.mark.usefixtures("traced")

BATCH = 12
COPIES: list[Callable[[em.DecisionStep], em.DecisionStep]] = [
    copy.deepcopy,
    lambda step: pickle.loads(pickle.dumps(step)),
]


def call_of(kind: str, engine: em.MaskEngine) -> dict[str, Any]:
    """Arguments of a step: a head is masked in each slot, or has logits in each."""
    states, logits, noise = inputs(engine, BATCH)
    given: dict[str, Any] = {"states": states, "logits": logits, "noise": noise, "row": rows(BATCH)}
    room = torch.rand(BATCH, 3, 5, generator=seeded(1))
    if kind == "head masks":
        return {**given, "head_masks": {"node": room < 0.6}}
    parts = dict(zip(engine.layout.head_names, logits.split([head.size for head in engine.layout.heads], -1)))
    return {**given, "logits": {**parts, "node": room}}


def step_of(kind: str) -> em.DecisionStep:
    return em.DecisionStep(engine_of(), by_slot=("node",) if kind == "logits" else ())


@pytest.mark.parametrize("kind", ["head masks", "logits"])
def test_a_copy_has_tables_of_its_own(kind: str) -> None:
    step = step_of(kind)
    given = call_of(kind, step.engine)
    made = step(**given)
    for copied in COPIES:
        again = copied(step)(**given)
        assert torch.equal(again.actions, made.actions)
        assert torch.equal(again.packed, made.packed)


@pytest.mark.cpu  # from which it moves
@pytest.mark.parametrize("kind", ["head masks", "logits"])
def test_a_step_that_moved_has_tables_there(kind: str) -> None:
    step = step_of(kind)
    given = call_of(kind, step.engine)
    step(**given)
    there = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), given)
    assert step.to("meta")(**there).actions.is_meta


# -- evaluate ---------------------------------------------------------------------------------------------------------


def layout_of() -> em.ActionLayout:
    return em.ActionLayout.of(op=("WAIT", "GO"), slot=2, heads={"way": 3}, uses={"GO": ("slot", "way")})


def scored_as_by_its_pieces(step: em.DecisionStep, masks: em.ActionMasks, logits: Any = None) -> bool:
    logits = torch.randn(*masks.shape, masks.layout.logit_size, generator=seeded(2)) if logits is None else logits
    actions = torch.zeros(*masks.shape, len(masks.layout.heads), dtype=torch.int64)
    scored = step.evaluate(logits, masks, actions)
    joint = em.FactoredCategorical(logits, masks, by_slot=step.by_slot, validate="flag")
    assert_near(scored.log_prob, joint.log_prob(actions), 1e-5)
    assert_near(scored.raw_entropy, joint.raw_entropy(), 1e-5)
    return bool(torch.isfinite(scored.log_prob).any())


@pytest.mark.parametrize("limited", [False, True])
def test_masks_of_an_equal_layout_are_scored(limited: bool) -> None:
    """Of a layout that nobody made tables of, as that of a buffer that was read from a file."""
    step = em.DecisionStep(layout_of())
    masks = em.ActionMasks.from_bools(layout_of(), {"op": torch.ones(3, 2) > 0, "slot": torch.ones(3, 2) > 0})
    assert masks.layout is not step.layout
    assert scored_as_by_its_pieces(step, masks.restrict(way=torch.arange(3) != 1) if limited else masks)


@pytest.mark.parametrize("by_slot", [(), ("node",)])
def test_masks_of_a_buffer_that_was_read_from_a_file_are_scored(by_slot: tuple[str, ...]) -> None:
    engine = engine_of()
    states, logits, _ = inputs(engine, BATCH)
    node = torch.rand(BATCH, 3, 5, generator=seeded(1))
    masks = engine(states, row=rows(BATCH), head_masks={} if by_slot else {"node": node < 0.6})
    buffer = em.RolloutBuffer(engine, 1, BATCH)
    buffer.store(0, masks, torch.zeros(BATCH, 4, dtype=torch.int64), torch.zeros(BATCH))
    read: em.RolloutBuffer = pickle.loads(pickle.dumps(buffer))
    given: Any = logits
    if by_slot:
        sizes = [head.size for head in engine.layout.heads]
        given = {**dict(zip(engine.layout.head_names, logits.split(sizes, -1))), "node": node}
    assert scored_as_by_its_pieces(em.DecisionStep(engine, by_slot=by_slot), read.masks(0), given)


def test_the_order_of_constraints_needs_no_graph() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    step, masks = em.DecisionStep(engine), engine(inputs(engine, BATCH)[0])
    kept = {"blueprint": torch.arange(5) != 2, "blend": torch.arange(3) != 1}
    for constraints in (kept, dict(reversed(kept.items()))):
        assert scored_as_by_its_pieces(step, masks.restrict(**constraints))
    assert graphs(step) == 1
