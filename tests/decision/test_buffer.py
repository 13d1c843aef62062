"""RolloutBuffer: what comes back is what was stored, row by row, in fewer bytes."""

import copy
import pickle
from dataclasses import replace
from enum import IntEnum
from typing import Any, NamedTuple

import pytest
import torch
import torch.utils._pytree as pytree
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import esper_masks as em
from tests.helpers import (
    HERE,
    HOST_READS,
    OpRecorder,
    as_bools,
    assert_same_masks,
    assert_same_words,
    random_states,
    seeded,
)
from tests.strategies import Case, random_cases

STEPS, BATCH = 4, 6
FIELDS = {"value": torch.zeros(()), "observation": torch.zeros(2, 3), "done": torch.zeros((), dtype=torch.bool)}


def many(ops: int, choices: int = 2) -> em.MaskRules:
    """Rules with any number of ops, each acting in one of three stages, and a head of any size."""
    stages = IntEnum("Level", {f"L{i}": i for i in range(3)})
    acts = IntEnum("Do", {f"OP{i}": i for i in range(ops)})
    first, *others = acts
    return em.MaskRules(
        name="many",
        stages=stages,
        transitions={stage: [] for stage in stages},
        empty=stages(0),
        op_rules=[
            em.Op(first, always=True),
            *(em.Op(op, acts_in=[stages(op % 3)], min_age=op % 2, uses=["slot", "size"]) for op in others),
        ],
        heads=[em.Head("size", [f"C{i}" for i in range(choices)]), em.Head("slot"), em.Head("op")],
    )


def engine_of(name: str, slots: int = 3) -> em.MaskEngine:
    rules = many(int(name)) if name.isdigit() else em.ruleset(name)
    return em.MaskEngine(rules, [f"s{i}" for i in range(slots)])


ENGINES = [(name, slots) for name in em.rulesets() for slots in (1, 3, 64)] + [
    (n, 3) for n in ("9", "16", "17", "31", "62")
]


class Step(NamedTuple):
    """What one step of a rollout gives, and what scored it."""

    masks: em.ActionMasks
    actions: Tensor
    log_prob: Tensor
    active: Tensor
    logits: Tensor
    fields: dict[str, Tensor]


def make_step(engine: em.MaskEngine, seed: int, batch: int = BATCH) -> Step:
    """One step with random states, enabled slots, logits and agents that do not act; the first always acts."""
    generator = seeded(seed)
    states = random_states(engine, batch, seed, stages=range(-1, 11))
    enabled = torch.rand(batch, len(engine.slot_ids), generator=generator) < 0.7
    masks = engine(states, enabled=enabled)
    logits = torch.randn(batch, masks.flat().shape[-1], generator=generator)
    active = torch.rand(batch, generator=generator) < 0.8
    active[0] = True
    policy = em.FactoredCategorical(logits, masks, active=active)
    actions = policy.sample(noise=torch.rand(batch, len(engine.layout.heads), generator=generator))
    fields = {
        "value": torch.randn(batch, generator=generator),
        "observation": torch.randn(batch, 2, 3, generator=generator),
        "done": torch.rand(batch, generator=generator) < 0.5,
    }
    return Step(masks, actions, policy.log_prob(actions), active, logits, fields)


def rollout(engine: em.MaskEngine, steps: int = STEPS, batch: int = BATCH) -> tuple[em.RolloutBuffer, list[Step]]:
    """A buffer and the steps stored in it; the last one of the buffer stays unwritten."""
    buffer = em.RolloutBuffer(engine, steps + 1, batch, fields=FIELDS)
    made = [make_step(engine, seed, batch) for seed in range(steps)]
    for at, step in enumerate(made):
        buffer.store(at, step.masks, step.actions, step.log_prob, active=step.active, **step.fields)
    return buffer, made


def assert_same_rows(ours: em.RolloutBuffer, theirs: em.RolloutBuffer) -> None:
    rows, others = dict(ours.named_buffers()), dict(theirs.named_buffers())
    assert rows.keys() == others.keys()
    for name, row in rows.items():
        assert row.dtype == others[name].dtype
        assert torch.equal(row, others[name]), name


# -- what comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "slots"), ENGINES)
def test_stored_masks_are_the_engines(name: str, slots: int) -> None:
    buffer, steps = rollout(engine_of(name, slots))
    stacked = em.ActionMasks.stack([step.masks for step in steps])
    assert_same_words(buffer.masks(slice(0, STEPS)), stacked)
    for at, step in enumerate(steps):
        assert_same_words(buffer.masks(at), step.masks)
        assert_same_masks(buffer.masks(at), {**step.masks, "slot_by_op": step.masks.slot_by_op})
    assert buffer.masks().shape == (STEPS + 1, BATCH)
    assert_same_words(buffer.masks().select(slice(0, STEPS)), stacked)


@pytest.mark.parametrize(("name", "slots"), ENGINES)
def test_a_minibatch_is_rows_picked_one_by_one(name: str, slots: int) -> None:
    buffer, steps = rollout(engine_of(name, slots))
    index = torch.randperm(STEPS * BATCH, generator=seeded(0))
    index = torch.cat([index, index[:3]])  # a row may come twice
    rows = buffer.minibatch(index)
    assert rows.masks.shape == rows.log_prob.shape == rows.active.shape == (len(index),)
    assert rows.actions.dtype == torch.int64
    assert list(rows.fields) == list(FIELDS)
    for at, row in enumerate(index.tolist()):
        step, env = steps[row // BATCH], row % BATCH
        assert_same_words(rows.masks.select(at), step.masks.select(env))
        assert rows.actions[at].tolist() == step.actions[env].tolist()
        assert rows.log_prob[at] == step.log_prob[env]
        assert rows.active[at] == step.active[env]
        for field, values in step.fields.items():
            assert torch.equal(rows.fields[field][at], values[env])


@pytest.mark.parametrize(("name", "slots"), ENGINES)
def test_sequences_are_environments_picked_one_by_one(name: str, slots: int) -> None:
    buffer, steps = rollout(engine_of(name, slots))
    envs = torch.tensor([4, 0, 4, 5])
    rows = buffer.sequences(envs)
    assert rows.masks.shape == rows.log_prob.shape == rows.active.shape == (STEPS + 1, 4)
    assert rows.actions.dtype == torch.int64
    for at, step in enumerate(steps):
        assert_same_words(rows.masks.select(at), step.masks.select(envs))
        assert torch.equal(rows.actions[at], step.actions[envs])
        assert torch.equal(rows.log_prob[at], step.log_prob[envs])
        assert torch.equal(rows.active[at], step.active[envs])
        for field, values in step.fields.items():
            assert torch.equal(rows.fields[field][at], values[envs])
    assert not rows.active[STEPS].any()


@given(random_cases())
def test_words_are_enough_under_any_rules(case: Case) -> None:
    masks = case.masks()
    batch = len(masks.op_words)
    buffer = em.RolloutBuffer(case.engine, 2, batch)
    buffer.store(1, masks, torch.zeros(batch, len(masks), dtype=torch.int64), torch.zeros(batch))
    assert_same_masks(buffer.masks(1), as_bools(masks))
    assert_same_masks(buffer.minibatch(torch.arange(batch, 2 * batch)).masks, as_bools(masks))


@pytest.mark.parametrize(("name", "slots"), [("esper-2025-12", 3), ("esper-2026-06", 64), ("9", 3)])
@pytest.mark.usefixtures("form")
def test_a_minibatch_scores_like_the_rollout(name: str, slots: int) -> None:
    """To the last bit, so that the first ratio of an update is exactly 1; padding rows included, as 0."""
    buffer, steps = rollout(engine_of(name, slots))
    every = buffer.minibatch(torch.arange(STEPS * BATCH))
    logits = torch.cat([step.logits for step in steps])
    policy = em.FactoredCategorical(logits, every.masks, active=every.active)
    expected = [em.FactoredCategorical(s.logits, s.masks, active=s.active).log_prob(s.actions) for s in steps]
    assert torch.equal(policy.log_prob(every.actions), torch.cat(expected))
    assert torch.equal((policy.log_prob(every.actions) - every.log_prob).exp(), torch.ones(STEPS * BATCH))
    shuffled = torch.randperm(STEPS * BATCH, generator=seeded(1))
    rows = buffer.minibatch(shuffled)
    policy = em.FactoredCategorical(logits[shuffled], rows.masks, active=rows.active)
    assert torch.equal(policy.log_prob(rows.actions), rows.log_prob)


# -- padding ----------------------------------------------------------------------------------------------------------


def test_padding_rows_are_neutral() -> None:
    buffer, steps = rollout(engine_of("esper-2026-06"))
    assert torch.equal(buffer.active[:STEPS], torch.stack([step.active for step in steps]))
    assert not buffer.active[:STEPS].all()  # else there is nothing to see
    assert not buffer.active[STEPS].any()
    rows = buffer.minibatch(torch.arange((STEPS + 1) * BATCH))
    assert torch.equal(rows.active, buffer.active.flatten())
    assert rows.actions[~rows.active].eq(-1).all()
    assert rows.log_prob[~rows.active].eq(0).all()
    logits = torch.randn(len(rows.active), rows.masks.flat().shape[-1], requires_grad=True)
    policy = em.FactoredCategorical(logits, rows.masks, active=rows.active)
    log_prob = policy.log_prob(rows.actions)
    assert log_prob[~rows.active].eq(0).all()
    assert log_prob[rows.active].isfinite().all()
    (log_prob.sum() + policy.raw_entropy().sum()).backward()
    assert logits.grad is not None
    assert logits.grad[~rows.active].eq(0).all()
    without = em.FactoredCategorical(logits, rows.masks).log_prob(rows.actions)
    assert without[~rows.active].eq(-torch.inf).all()


def test_rows_never_written_have_valid_masks_without_slots() -> None:
    buffer = em.RolloutBuffer(engine_of("esper-2026-06"), 2, 3, fields=FIELDS)
    masks = buffer.masks()
    assert not masks["slot"].any()
    assert masks["op"].tolist() == [[[True] + [False] * 5] * 3] * 2
    assert masks.forced.all()
    assert not buffer.active.any()
    assert not any(rows.any() for rows in buffer.fields.values())


def test_whatever_an_inactive_row_holds_is_dropped() -> None:
    engine = engine_of("esper-2025-12")
    buffer = em.RolloutBuffer(engine, 1, 2)
    actions, log_prob = torch.tensor([[1, 2, 0, 2], [9_999, 0, 0, 0]]), torch.tensor([-0.5, torch.nan])
    buffer.store(0, engine(engine.empty_slots(2)), actions, log_prob, active=torch.tensor([True, False]))
    assert buffer.actions.tolist() == [[[1, 2, 0, 2], [-1] * 4]]
    assert buffer.log_prob.tolist() == [[-0.5, 0]]
    assert actions.tolist() == [[1, 2, 0, 2], [9_999, 0, 0, 0]]  # the caller's own are left alone


def test_faulty_rows_are_padding() -> None:
    engine = engine_of("esper-2025-12")
    masks = engine(engine.empty_slots(2))
    policy = em.FactoredCategorical(torch.tensor([[0.0] * 15, [torch.nan] * 15]), masks, validate="flag")
    actions = policy.sample()
    buffer = em.RolloutBuffer(engine, 1, 2)
    buffer.store(0, masks, actions, policy.log_prob(actions))
    assert buffer.active.tolist() == [[True, False]]


def test_clear_makes_a_new_buffer() -> None:
    engine = engine_of("esper-2025-12")
    buffer, _ = rollout(engine)
    buffer.clear()
    assert_same_rows(buffer, em.RolloutBuffer(engine, STEPS + 1, BATCH, fields=FIELDS))


# -- writing ----------------------------------------------------------------------------------------------------------


def test_at_gives_views_into_storage() -> None:
    engine = engine_of("esper-2025-12")
    buffer, (step, *_) = rollout(engine)
    before = buffer.masks(slice(0, STEPS))
    rows = buffer.at(STEPS)
    assert rows.raw_entropy is None
    assert rows.slot_words.dtype == torch.uint8
    assert rows.slot_words.stride(0) == rows.actions.stride(0) == 1
    rows.slot_words.copy_(step.masks.slot_words)
    rows.actions.copy_(step.actions)
    rows.log_prob.copy_(step.log_prob)
    buffer.write(STEPS, value=step.fields["value"])
    buffer.write(STEPS, done=step.fields["done"], observation=step.fields["observation"])
    assert_same_words(buffer.masks(STEPS), buffer.masks(0))
    assert_same_words(buffer.masks(slice(0, STEPS)), before)
    assert torch.equal(buffer.actions[STEPS], buffer.actions[0])
    assert torch.equal(buffer.active[STEPS], step.active)
    assert all(torch.equal(rows[STEPS], rows[0]) for rows in buffer.fields.values())
    assert torch.equal(em.ActionMasks.from_words(engine.layout, rows.slot_words).op_words, step.masks.op_words)


def test_masks_that_were_read_do_not_change_with_the_next_rollout() -> None:
    """Words of 17 ops need no widening, which would make the copy."""
    for name in ("esper-2025-12", "17"):
        buffer, steps = rollout(engine_of(name))
        every, first, rows = buffer.masks(), buffer.masks(0), buffer.minibatch(torch.arange(BATCH))
        buffer.clear()
        assert_same_words(every.select(0), steps[0].masks)
        assert_same_words(first, steps[0].masks)
        assert_same_words(rows.masks, steps[0].masks)
        assert torch.equal(rows.actions, steps[0].actions)


def test_nothing_is_written_if_something_does_not_fit() -> None:
    buffer, (step, *_) = rollout(engine_of("esper-2025-12"))
    before = copy.deepcopy(buffer)
    with pytest.raises(ValueError, match="field 'done'"):
        buffer.store(1, step.masks, step.actions, step.log_prob, **{**step.fields, "done": step.fields["value"]})
    with pytest.raises(ValueError, match="field 'done'"):
        buffer.write(1, value=step.fields["value"], done=step.fields["value"])
    assert_same_rows(buffer, before)


def test_gradients_stay_outside() -> None:
    engine = engine_of("esper-2025-12")
    buffer = em.RolloutBuffer(engine, 1, 2, fields={"value": torch.zeros((), requires_grad=True)})
    weight = torch.ones(2, requires_grad=True)
    actions = torch.zeros(2, 4, dtype=torch.int32)
    buffer.store(0, engine(engine.empty_slots(2)), actions, weight * 2, value=weight * 3)
    assert not any(rows.requires_grad for rows in buffer.buffers())
    assert buffer.log_prob.tolist() == [[2, 2]]
    assert buffer.fields["value"].tolist() == [[3, 3]]


@pytest.mark.parametrize(
    ("given", "held"),
    [
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float32, torch.float64),
        (torch.float64, torch.float64),
    ],
)
def test_log_probabilities_are_never_narrowed(given: torch.dtype, held: torch.dtype) -> None:
    engine = engine_of("esper-2025-12")
    buffer = em.RolloutBuffer(engine, 1, 2, dtype=held)
    log_prob = torch.tensor([-1.7, -0.3], dtype=given)
    for active in (None, torch.tensor([True, True])):
        buffer.clear()
        buffer.store(0, engine(engine.empty_slots(2)), torch.zeros(2, 4, dtype=torch.uint8), log_prob, active=active)
        assert torch.equal(buffer.minibatch(torch.arange(2)).log_prob, log_prob.to(held))
    assert buffer.to("cpu").float().log_prob.dtype == held
    assert buffer.row_bytes == 3 + 4 + held.itemsize


def test_a_buffer_in_single_precision_refuses_doubles() -> None:
    engine = engine_of("esper-2025-12")
    buffer, masks = em.RolloutBuffer(engine, 1, 2), engine(engine.empty_slots(2))
    actions = torch.zeros(2, 4, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=r"log_prob is torch.float64, the buffer holds torch.float32: make it with dtype"
    ):
        buffer.store(0, masks, actions, torch.zeros(2).double())
    assert not buffer.active.any()
    with pytest.raises(
        ValueError, match=r"log_prob of out is torch.float32, and of float64 logits it is torch.float64"
    ):
        em.DecisionStep(engine, mode="eager")(engine.empty_slots(2), torch.zeros(2, 15).double(), out=buffer.at(0))


def test_a_decision_in_double_precision_is_kept_as_it_is() -> None:
    engine = engine_of("esper-2025-12")
    step, states = em.DecisionStep(engine, mode="eager"), random_states(engine, BATCH)
    logits, noise = torch.randn(BATCH, 15).double(), torch.rand(BATCH, 4).double()
    expected = step(states, logits, noise=noise)
    try:
        torch.set_default_dtype(torch.float64)
        buffers = [em.RolloutBuffer(engine, 2, BATCH)]
        assert step.allocate(3).raw_entropy.dtype == torch.float64  # type: ignore[union-attr]
    finally:
        torch.set_default_dtype(torch.float32)
    buffers.append(em.RolloutBuffer(engine, 2, BATCH, dtype=torch.float64))
    for buffer in buffers:
        step(states, logits, noise=noise, out=buffer.at(1))
        rows = buffer.minibatch(torch.arange(BATCH, 2 * BATCH))
        assert torch.equal(rows.log_prob, expected.log_prob)
        scored = step.evaluate(logits, rows.masks, rows.actions)
        assert torch.equal((scored.log_prob - rows.log_prob).exp(), torch.ones(BATCH).double())
    out = step(states, logits, noise=noise, out=step.allocate(BATCH, dtype=torch.float64))
    assert torch.equal(out.log_prob, expected.log_prob)


@settings(max_examples=100)
@given(random_cases(), st.data())
def test_masks_with_slots_closed_to_some_ops_are_all_in_their_words(case: Case, data: st.DataObject) -> None:
    masks = case.masks()
    batch, slots, ops = len(masks.op_words), len(masks.layout.slot_ids), len(masks.layout.ops)
    for name, axes in data.draw(st.permutations([("slot_by_op", (ops, slots)), ("slot", (slots,))])):
        shape = data.draw(st.sampled_from([axes, (batch, *axes)]))
        seed = data.draw(st.integers(0, 1000))
        masks = masks.restrict(**{name: torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6})
    buffer = em.RolloutBuffer(case.engine, 1, batch)
    buffer.store(0, masks, torch.zeros(batch, len(masks), dtype=torch.int64), torch.zeros(batch))
    assert_same_masks(buffer.masks(0), as_bools(masks))
    assert_same_masks(buffer.minibatch(torch.arange(batch)).masks, as_bools(masks))


# -- widths and bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ops", "dtype"),
    [
        (8, torch.uint8),
        (9, torch.int16),
        (16, torch.int16),
        (17, torch.int32),
        (31, torch.int32),
        (32, torch.int64),
        (62, torch.int64),
    ],
)
def test_words_are_as_narrow_as_the_ops_allow(ops: int, dtype: torch.dtype) -> None:
    engine = em.MaskEngine(many(ops), ["a", "b", "c"])
    buffer = em.RolloutBuffer(engine, 1, 300)
    assert buffer.slot_words.dtype == dtype
    states = random_states(engine, 300, stages=range(3))
    masks = engine(states)
    assert masks.slot_by_op[:, ops - 1].any()  # the highest bit, which is the sign of an int16
    assert not masks.slot_by_op[:, ops - 1].all()
    buffer.store(0, masks, torch.zeros(300, 3, dtype=torch.int64), torch.zeros(300))
    assert_same_words(buffer.masks(0), masks)
    assert_same_words(buffer.minibatch(torch.arange(300)).masks, masks)


def with_choices(choices: int) -> em.MaskEngine:
    """An engine with a head of any size; the rules check names one by one, which takes long for so many."""
    engine = em.MaskEngine(many(2), ["a", "b"])
    names = tuple(map(str, range(choices)))
    heads = [replace(head, choices=names) if head.name == "size" else head for head in engine.layout.heads]
    engine.layout = replace(engine.layout, heads=tuple(heads))
    return engine


def with_slots(slots: int) -> em.MaskEngine:
    return em.MaskEngine(many(2), [f"s{i}" for i in range(slots)])


@pytest.mark.parametrize(
    ("make", "size", "dtype"),
    [
        (with_choices, 2, torch.int8),
        (with_choices, 128, torch.int8),
        (with_choices, 129, torch.int16),
        (with_choices, 32768, torch.int16),
        (with_choices, 32769, torch.int32),
        (with_slots, 1, torch.int8),
        (with_slots, 128, torch.int8),
        (with_slots, 129, torch.int16),
    ],
)
def test_actions_are_as_narrow_as_the_heads_allow(make: Any, size: int, dtype: torch.dtype) -> None:
    engine = make(size)
    buffer = em.RolloutBuffer(engine, 1, 2)
    assert buffer.actions.dtype == dtype
    actions = torch.tensor([[head.size - 1 for head in engine.layout.heads], [-1, -1, -1]])
    buffer.store(0, engine(engine.empty_slots(2)), actions, torch.zeros(2))
    assert torch.equal(buffer.minibatch(torch.arange(2)).actions, actions)


@pytest.mark.parametrize(
    ("name", "row", "bools", "with_pairs", "actions"),
    [("esper-2025-12", 11, 15, 27, 32), ("esper-2026-06", 15, 41, 59, 64)],
)
def test_bytes_of_a_row(name: str, row: int, bools: int, with_pairs: int, actions: int) -> None:
    """The table in the docstring."""
    engine = em.MaskEngine(em.ruleset(name))
    buffer = em.RolloutBuffer(engine, STEPS, BATCH)
    assert buffer.row_bytes == row == 3 + len(engine.layout.heads) + 4
    assert buffer.nbytes == row * STEPS * BATCH
    rows = buffer.minibatch(torch.arange(BATCH))
    assert rows.masks.flat()[0].nbytes == bools
    assert rows.masks.flat()[0].nbytes + rows.masks.slot_by_op[0].nbytes == with_pairs
    assert rows.actions[0].nbytes == actions
    [line] = [line for line in str(em.RolloutBuffer.__doc__).splitlines() if line.strip().startswith(name)]
    numbers = [int(word.strip("()")) for word in line.split()[1:]]
    scored = actions + 4
    head = [3, len(engine.layout.heads), 4, row]
    assert numbers == [*head, bools, with_pairs, actions, 4, bools + scored, with_pairs + scored]


def test_fields_are_counted_in_all_but_not_in_a_row() -> None:
    buffer, _ = rollout(engine_of("esper-2025-12"))
    assert buffer.row_bytes == 11
    assert buffer.nbytes == (11 + 4 + 6 * 4 + 1) * (STEPS + 1) * BATCH
    assert "row_bytes=11, fields=(value, observation, done)" in repr(buffer)
    assert em.RolloutBuffer(engine_of("9"), 1, 1).row_bytes == 2 * 3 + 3 + 4


@pytest.mark.parametrize("copied", [lambda b: b, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_memory_is_batch_last(copied: Any) -> None:
    buffer = copied(rollout(engine_of("esper-2025-12"))[0])
    rows = (STEPS + 1) * BATCH
    assert buffer.slot_words.stride() == buffer.actions.stride() == (BATCH, 1, rows)
    index = torch.tensor([3, 1, 7, 7, 2])
    assert buffer.minibatch(index).masks.slot_words.stride() == (1, 5)
    assert buffer.minibatch(index).actions.stride() == (1, 5)
    assert buffer.sequences(index.clamp_max(5)).masks.slot_words.stride() == (5, 1, (STEPS + 1) * 5)
    assert buffer.masks().slot_words.stride() == (BATCH, 1, rows)
    assert buffer.masks(2).slot_words.stride() == (1, BATCH)
    assert buffer.masks(slice(1, 3)).slot_words.stride() == (BATCH, 1, 2 * BATCH)


# -- checkpoints, copies and devices ----------------------------------------------------------------------------------


def test_a_checkpoint_brings_the_rollout_back(tmp_path: Any) -> None:
    engine = engine_of("esper-2026-06")
    buffer, _ = rollout(engine)
    assert set(buffer.state_dict()) == {"slot_words", "actions", "log_prob", *FIELDS, "_extra_state"}
    torch.save(buffer.state_dict(), tmp_path / "rollout.pt")
    other = em.RolloutBuffer(engine, STEPS + 1, BATCH, fields=FIELDS)
    other.load_state_dict(torch.load(tmp_path / "rollout.pt", weights_only=True))
    assert_same_rows(other, buffer)
    assert other.slot_words.stride() == buffer.slot_words.stride()


def test_a_checkpoint_of_other_rules_is_refused_before_a_row_is_written() -> None:
    buffer, _ = rollout(em.MaskEngine(em.ruleset("esper-2025-12")))
    other = em.RolloutBuffer(em.MaskEngine(em.ruleset("esper-2025-11")), STEPS + 1, BATCH, fields=FIELDS)
    before = copy.deepcopy(other)
    with pytest.raises(em.RulesError, match=r"other rules .* this RolloutBuffer has esper-2025-11"):
        other.load_state_dict(buffer.state_dict())
    assert_same_rows(other, before)
    policy = torch.nn.ModuleDict({"rollout": other})
    with pytest.raises(em.RulesError, match="made under other rules"):
        policy.load_state_dict(torch.nn.ModuleDict({"rollout": buffer}).state_dict())
    assert_same_rows(other, before)
    switched = em.RolloutBuffer(em.MaskEngine(em.ruleset("esper-2026-06"), topology="transformer"), 1, 1)
    with pytest.raises(em.RulesError, match="rule switches"):
        switched.load_state_dict(em.RolloutBuffer(engine_of("esper-2026-06"), 1, 1).state_dict())


def test_a_checkpoint_of_another_size_or_with_other_fields_does_not_load() -> None:
    engine = engine_of("esper-2025-12")
    state = em.RolloutBuffer(engine, 2, 3).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for slot_words"):
        em.RolloutBuffer(engine, 3, 3).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch for slot_words"):
        em.RolloutBuffer(engine_of("esper-2025-12", 2), 2, 3).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Missing key.*observation"):
        em.RolloutBuffer(engine, 2, 3, fields=FIELDS).load_state_dict(state)


def test_copies_and_pickles() -> None:
    buffer, (step, *_) = rollout(engine_of("esper-2025-12"))
    for other in (pickle.loads(pickle.dumps(buffer)), copy.deepcopy(buffer)):
        assert_same_rows(other, buffer)
        assert_same_masks(other.masks(0), as_bools(step.masks))
        other.store(1, step.masks, step.actions, step.log_prob, active=step.active, **step.fields)
        other.clear()
    assert buffer.active.any()


def test_the_buffer_moves_alone_and_is_never_cast() -> None:
    engine = engine_of("esper-2025-12")
    buffer, (step, *_) = rollout(engine)
    before = copy.deepcopy(buffer)
    assert list(buffer.modules()) == [buffer]
    for cast in (buffer.half, buffer.double, lambda: buffer.to(torch.bfloat16)):
        assert_same_rows(cast(), before)
    buffer.store(0, step.masks, step.actions, step.log_prob, active=step.active, **step.fields)
    assert buffer.to("meta").device.type == "meta"
    assert {rows.device.type for rows in buffer.buffers()} == {"meta"}
    assert engine.device == HERE
    assert em.RolloutBuffer(engine, 1, 1, device="meta").device.type == "meta"
    assert em.RolloutBuffer(em.MaskEngine(engine.rules, device="meta"), 1, 1).device.type == "meta"


def test_a_buffer_made_without_memory_comes_to_life_empty() -> None:
    engine = engine_of("esper-2025-12")
    buffer = em.RolloutBuffer(engine, STEPS + 1, BATCH, fields=FIELDS, device="meta").to_empty(device=HERE)
    assert_same_rows(buffer, em.RolloutBuffer(engine, STEPS + 1, BATCH, fields=FIELDS))
    full, (step, *_) = rollout(engine)
    assert_same_words(full.to(HERE).masks(0), step.masks)  # and any other move keeps the rows


def test_written_in_inference_mode_and_read_in_training() -> None:
    engine = engine_of("esper-2025-12")
    linear = torch.nn.Linear(3, 15)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            buffer = em.RolloutBuffer(engine, 2, BATCH, fields={"observation": torch.zeros(3)})
            buffer.to(HERE)
            observation = torch.randn(BATCH, 3)
            masks = engine(random_states(engine, BATCH))
            policy = em.FactoredCategorical(linear(observation), masks)
            actions = policy.sample()
            buffer.store(0, masks, actions, policy.log_prob(actions), observation=observation)
            rows = buffer.at(1)
            rows.actions.copy_(actions)
        rows.log_prob.fill_(-1.0)
        buffer.write(1, observation=torch.randn(BATCH, 3))
        batch = buffer.minibatch(torch.arange(BATCH))
        again = em.FactoredCategorical(linear(batch.fields["observation"]), batch.masks, active=batch.active)
        linear.zero_grad()
        (again.log_prob(batch.actions) - batch.log_prob).exp().sum().backward()
        assert linear.weight.grad is not None
        assert linear.weight.grad.abs().sum() > 0


# -- what the device sees ---------------------------------------------------------------------------------------------


def test_nothing_reads_the_device() -> None:
    buffer, (step, *_) = rollout(engine_of("esper-2025-12"))
    index, envs = torch.arange(5), torch.arange(3)
    with OpRecorder() as recorder:
        buffer.store(1, step.masks, step.actions, step.log_prob, active=step.active, **step.fields)
        buffer.write(1, value=step.fields["value"])
        buffer.at(2)
        buffer.minibatch(index)
        buffer.sequences(envs)
        buffer.masks()
        _ = buffer.active
        buffer.clear()
    assert recorder.ops
    assert [op for op in recorder.ops if any(name in op for name in HOST_READS)] == []


def test_rows_are_gathered_before_they_are_widened() -> None:
    """No tensor is made of rows that were not asked for."""
    buffer = em.RolloutBuffer(engine_of("esper-2025-12"), 50, 40)
    stored = {rows.untyped_storage().data_ptr() for rows in buffer.buffers()}
    sizes: list[int] = []

    class Sizes(OpRecorder):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = super().__torch_dispatch__(func, types, args, kwargs)
            for each in made if isinstance(made, list) else [made]:
                if each.untyped_storage().data_ptr() not in stored:
                    sizes.append(each.untyped_storage().nbytes() // each.element_size())
            return made

    index, envs = torch.arange(5), torch.arange(5)
    with Sizes():
        buffer.minibatch(index)
    assert max(sizes) == 5 * 4  # the actions
    sizes.clear()
    with Sizes():
        buffer.sequences(envs)
    assert max(sizes) == 50 * 5 * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["esper-2025-12", "9"])
def test_it_compiles_into_one_graph(name: str) -> None:
    torch.compiler.reset()
    buffer, steps = rollout(engine_of(name))
    expected = copy.deepcopy(buffer)
    read = torch.compile(buffer.minibatch, fullgraph=True, dynamic=True, backend="aot_eager")
    write = torch.compile(buffer.store, fullgraph=True, backend="aot_eager")
    for index in (torch.tensor([0, 9, 3]), torch.arange(7)):
        ours, theirs = (pytree.tree_leaves(m) for m in (read(index), buffer.minibatch(index)))
        assert len(ours) == len(theirs) == 2 + 3 + len(FIELDS)
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs))  # no entropy was asked for
    for at, step in enumerate(reversed(steps)):
        for store in (write, expected.store):
            store(at, step.masks, step.actions, step.log_prob, active=step.active, **step.fields)
    assert_same_rows(buffer, expected)


@pytest.mark.cpu  # a GPU asserts, which ends its context
def test_rows_outside_are_named() -> None:
    buffer, _ = rollout(engine_of("esper-2025-12"))
    for index, first in ((torch.tensor([3, 30, -1]), 30), (torch.tensor([-1]), -1), (torch.tensor([31]).int(), 31)):
        with pytest.raises(
            IndexError, match=rf"index {first} is out of range; wanted 0 to 29: rows step \* batch \+ env"
        ):
            buffer.minibatch(index)
        with pytest.raises(IndexError, match=rf"envs {first} is out of range; wanted 0 to 5: environments"):
            buffer.sequences(index)
    assert buffer.minibatch(torch.empty(0, dtype=torch.int64)).masks.shape == (0,)
    assert buffer.sequences(torch.empty(0, dtype=torch.int64)).actions.shape == (STEPS + 1, 0, 4)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, r"steps must be an int, 1 or more, got 0"),
        ({"steps": 2.0}, r"steps must be an int, 1 or more, got 2.0"),
        ({"dtype": torch.float16}, r"dtype must be torch.float32 or torch.float64, got torch.float16"),
        ({"dtype": "float64"}, r"dtype must be torch.float32 or torch.float64, got 'float64'"),
        ({"batch": True}, r"batch must be an int, 1 or more, got True"),
        ({"batch": -1}, r"batch must be an int, 1 or more, got -1"),
        ({"engine": em.ruleset("esper-2025-12")}, r"engine must be a MaskEngine or an ActionLayout, got "),
        ({"fields": {"value": 0.0}}, r"field 'value' must be a tensor, an example of one row, got float; a number is"),
        ({"fields": ["value"]}, r"fields must be a mapping from name to an example of one row, got list"),
        ({"fields": {"actions": torch.zeros(())}}, r"field 'actions' has a name that RolloutBuffer uses itself"),
        ({"fields": {"fields": torch.zeros(())}}, r"field 'fields' has a name"),
        ({"fields": {"active": torch.zeros(())}}, r"field 'active' has a name"),
        ({"fields": {"masks": torch.zeros(())}}, r"field 'masks' has a name"),
        ({"fields": {"log_prob": torch.zeros(())}}, r"field 'log_prob' has a name"),
        ({"fields": {"step": torch.zeros(())}}, r"field 'step' has a name"),
        ({"fields": {"self": torch.zeros(())}}, r"field 'self' has a name"),
        ({"fields": {"training": torch.zeros(())}}, r"field 'training' has a name"),
        ({"fields": {"a.b": torch.zeros(())}}, r"field 'a.b' is no name that a keyword argument can have"),
        ({"fields": {3: torch.zeros(())}}, r"field 3 is no name"),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], message: str) -> None:
    given_arguments: dict[str, Any] = {"engine": engine_of("esper-2025-12"), "steps": 2, "batch": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        em.RolloutBuffer(**given_arguments)


OTHER = make_step(em.MaskEngine(em.ruleset("esper-2025-12"), enabled=("mid",)), 0).masks


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step": STEPS + 1}, rf"no step {STEPS + 1}; wanted an int from 0 to {STEPS}"),
        ({"step": -1}, r"no step -1"),
        ({"step": True}, r"no step True"),
        ({"step": 1.0}, r"no step 1.0"),
        ({"step": torch.tensor(1)}, r"no step tensor\(1"),
        ({"masks": {}}, r"masks must be ActionMasks, got dict; an engine or ActionMasks.from_words makes them"),
        (
            {"masks": OTHER},
            r"another layout \(rules, switches or slots\) than the buffer; it takes those of",
        ),
        ({"masks": lambda m: m.select(slice(0, 3))}, rf"masks are \(3,\) on {HERE}; wanted \(6,\) on {HERE}"),
        ({"masks": lambda m: em.ActionMasks.stack([m])}, rf"masks are \(1, 6\) on {HERE}"),
        ({"masks": lambda m: m.to("meta")}, rf"masks are \(6,\) on meta; wanted \(6,\) on {HERE}"),
        ({"actions": torch.zeros(6, 4)}, r"actions must be an integer tensor, got torch.float32"),
        ({"actions": [[0] * 4] * 6}, r"actions must be an integer tensor, got list"),
        ({"actions": torch.zeros(6, 3).long()}, rf"actions is \(6, 3\) on {HERE}; wanted \(6, 4\) on {HERE}"),
        ({"actions": torch.zeros(2, 6, 4, dtype=torch.int64)}, rf"actions is \(2, 6, 4\) on {HERE}"),
        ({"actions": torch.zeros(6, 4, dtype=torch.int64, device="meta")}, rf"on meta; wanted \(6, 4\) on {HERE}"),
        ({"log_prob": torch.zeros(6, dtype=torch.int64)}, r"log_prob must be a floating-point tensor, got torch.int64"),
        ({"log_prob": 0.0}, r"log_prob must be a floating-point tensor, got float"),
        ({"log_prob": torch.zeros(1)}, rf"log_prob is \(1,\) on {HERE}; wanted \(6,\) on {HERE}"),
        ({"active": torch.ones(6)}, r"active must be a bool tensor, got torch.float32"),
        ({"active": torch.ones(1, dtype=torch.bool)}, r"active has shape \(1,\); wanted \(6,\)"),
        ({"reward": torch.zeros(6)}, r"no field 'reward'; the fields are value, observation, done"),
        ({"value": torch.zeros(6).double()}, r"field 'value' must be a torch.float32 tensor, as its example is, got "),
        ({"value": 0.0}, r"field 'value' must be a torch.float32 tensor, as its example is, got float"),
        ({"value": torch.zeros(6, 1)}, rf"field 'value' is \(6, 1\) on {HERE}; wanted \(6,\) on {HERE}"),
    ],
)
def test_refused_steps(changed: dict[str, Any], message: str) -> None:
    buffer, (step, *_) = rollout(em.MaskEngine(em.ruleset("esper-2025-12"), ["s0", "s1", "s2"]))
    arguments: dict[str, Any] = {"step": 0, "masks": step.masks, "actions": step.actions, "log_prob": step.log_prob}
    change = {name: value(step.masks) if callable(value) else value for name, value in changed.items()}
    before = copy.deepcopy(buffer)
    with pytest.raises(ValueError, match=message):
        buffer.store(**{**arguments, **step.fields, **change})
    assert_same_rows(buffer, before)


def test_refused_fields() -> None:
    buffer, (step, *_) = rollout(engine_of("esper-2025-12"))
    with pytest.raises(ValueError, match="no rows of value, done: store wants every field; write takes them one by"):
        buffer.store(0, step.masks, step.actions, step.log_prob, observation=step.fields["observation"])
    with pytest.raises(ValueError, match="no field 'reward'"):
        buffer.write(0, reward=torch.zeros(BATCH))
    plain = em.RolloutBuffer(engine_of("esper-2025-12"), 1, 1)
    with pytest.raises(ValueError, match="the fields are none"):
        plain.write(0, reward=torch.zeros(1))
    for call in (buffer.at, buffer.masks, buffer.write):
        with pytest.raises(ValueError, match="no step 'first'"):
            call("first")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("index", "got"),
    [
        (torch.tensor([0.0]), r"torch.float32 of shape \(1,\)"),
        (torch.tensor([[0]]), r"torch.int64 of shape \(1, 1\)"),
        (torch.tensor(0), r"torch.int64 of shape \(\)"),
        (torch.tensor([True]), r"torch.bool of shape \(1,\)"),
        (torch.tensor([0], dtype=torch.uint8), r"torch.uint8 of shape \(1,\)"),
        ([0], "list"),
    ],
)
def test_refused_indices(index: Any, got: str) -> None:
    buffer, _ = rollout(engine_of("esper-2025-12"))
    with pytest.raises(ValueError, match=r"index must be int64 \[n\], rows step \* batch \+ env, got " + got):
        buffer.minibatch(index)
    with pytest.raises(ValueError, match=r"envs must be int64 \[n\], environments, got " + got):
        buffer.sequences(index)


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_any_size_and_any_rows(steps: int, batch: int, data: st.DataObject) -> None:
    buffer, made = rollout(engine_of("esper-2026-06", data.draw(st.integers(1, 4))), steps, batch)
    rows = data.draw(st.lists(st.integers(0, steps * batch - 1), max_size=6))
    got = buffer.minibatch(torch.tensor(rows, dtype=torch.int64))
    words = [made[row // batch].masks.slot_words[row % batch].tolist() for row in rows]
    assert got.masks.slot_words.tolist() == words
    assert got.actions.tolist() == [made[row // batch].actions[row % batch].tolist() for row in rows]


def test_a_row_acted_if_its_op_did() -> None:
    """A head that the op ignores may hold anything, -1 as well."""
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    buffer = em.RolloutBuffer(engine, 1, 2)
    actions = torch.tensor([[-1, 0, 0, 0], [-1, -1, -1, -1]])
    buffer.store(0, engine(engine.empty_slots(2)), actions, torch.zeros(2))
    assert buffer.active.tolist() == [[True, False]]
    assert buffer.minibatch(torch.tensor([0, 1])).active.tolist() == [True, False]


def test_a_file_of_rows_is_read_without_running_code(tmp_path: Any) -> None:
    buffer, _ = rollout(engine_of("esper-2025-12"))
    saved = buffer.minibatch(torch.arange(5)), buffer.at(0)
    torch.save(saved, tmp_path / "rows.pt")
    read = torch.load(tmp_path / "rows.pt", weights_only=True)
    assert [type(part) for part in read] == [type(part) for part in saved]
    ours, theirs = pytree.tree_leaves(read), pytree.tree_leaves(saved)
    assert len(ours) == len(theirs)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs))  # no entropy was asked for
