"""No host read, and an op count that the batch does not change; rows of ``vmap``, leaves of a pytree."""

from math import ceil, log2

import pytest
import torch

import esper_masks as em
from tests.helpers import HOST_READS, OpRecorder, as_bools, assert_same_masks, random_states, states_and_totals
from tests.programs import consume


def test_vmap() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), max_seeds=2)
    states, totals = states_and_totals(engine, 12)
    expected = engine(states, totals)
    masks = torch.vmap(lambda s, t: engine(s, t))(states, totals)
    assert isinstance(masks, em.ActionMasks)
    assert masks.shape == (12,)
    assert_same_masks(masks, as_bools(expected))
    outer = torch.vmap(torch.vmap(lambda s, t: engine(s, t).joint()))(states.reshape(3, 4, 3, 3), totals.reshape(3, 4))
    assert torch.equal(outer.reshape(12, -1), expected.joint())
    heads = torch.vmap(lambda m: (m["style"], m.forced, m.slot_by_op))(masks)
    for ours, other in zip(heads, (expected["style"], expected.forced, expected.slot_by_op)):
        assert torch.equal(ours, other)
    narrow = torch.vmap(lambda m: m.restrict(slot=torch.tensor([True, False, True])))(masks)
    assert_same_masks(narrow, as_bools(expected.restrict(slot=torch.tensor([True, False, True]))))


def test_masks_are_a_pytree() -> None:
    from torch.utils import _pytree as pytree

    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    masks = engine(random_states(engine, 6)).restrict(op=torch.arange(6) != 3)
    leaves, spec = pytree.tree_flatten(masks)
    assert len(leaves) == 3  # slot words, op words, the slots that the words no longer tell
    assert_same_masks(pytree.tree_unflatten(leaves, spec), as_bools(masks))
    doubled = pytree.tree_map(lambda t: torch.cat([t, t]), masks)
    assert doubled.shape == (12,)
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(masks)[0]]
    assert paths == [".slot_words", ".op_words", ".slot"]


def ops_of(engine: em.MaskEngine, batch: int) -> list[str]:
    states, totals = states_and_totals(engine, batch)
    with OpRecorder() as recorder:
        engine(states, totals, enabled=torch.ones(len(engine.slot_ids), dtype=torch.bool))
    return [op for op in recorder.ops if "ones" not in op]


@pytest.mark.parametrize("name", em.rulesets())
def test_op_count_grows_with_log_slots_alone(name: str) -> None:
    counts = {}
    for slots in (1, 2, 3, 4, 7, 8, 9, 16, 33, 64):
        engine = em.MaskEngine(em.ruleset(name), [f"s{i}" for i in range(slots)], max_seeds=2)
        ops = ops_of(engine, 2)
        assert ops == ops_of(engine, 1000) == ops_of(engine, 0), "the batch must not change the ops"
        counts[slots] = len(ops)
    assert counts[1] <= 30
    for slots, count in counts.items():
        halves = 3 * ceil(log2(slots))  # two views and one OR a step
        assert count == counts[1] + (slots - 1 if slots <= 8 else halves)


def test_nothing_reads_the_device() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"), max_seeds=2)
    states, totals = states_and_totals(engine, 50)
    consume(engine(states, totals))  # constants are made once
    with OpRecorder() as recorder:
        masks = engine(states, totals, max_seeds=totals, enabled=torch.rand(50, 3) < 0.5)
        consume(masks)
        engine.joint_actions.encode(engine.joint_actions.decode(masks.op_words))
    assert len(recorder.ops) > 100
    assert [op for op in recorder.ops if any(name in op for name in HOST_READS)] == []


def test_the_recorder_sees_host_reads() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2026-06"))
    with OpRecorder() as recorder:
        engine.check_slots(engine.empty_slots(2))
        int(engine(engine.empty_slots(1)).op_words)
    assert any("nonzero" in op for op in recorder.ops)
    assert any("_local_scalar_dense" in op for op in recorder.ops)
