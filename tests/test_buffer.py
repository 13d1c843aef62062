"""Stored rollouts: what is read back is what was decided, in the bytes that were promised."""

import copy
from enum import IntEnum
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.decision_rows import action_dtype, word_dtype
from tests.helpers import OpRecorder, as_bools, assert_same_masks, assert_same_words, random_states
from tests.test_compile import HOST_READS

STEPS, BATCH = 4, 6


def wide_rules(ops: int, choices: int = 2) -> em.MaskRules:
    """Two stages, as many ops as are asked for, one head of so many choices."""
    stage = IntEnum("Stage", "FREE BUSY", start=0)
    op = IntEnum("Do", [f"OP{i}" for i in range(ops)], start=0)
    return em.MaskRules(
        name="wide",
        stages=stage,
        transitions={stage.FREE: [stage.BUSY], stage.BUSY: [stage.FREE]},
        empty=stage.FREE,
        op_rules=[
            em.Op(op.OP0, always=True),
            *(em.Op(o, enters=list(stage)[o % 2], uses=["slot", "what"]) for o in list(op)[1:]),
        ],
        heads=[em.Head("slot"), em.Head("what", [f"c{i}" for i in range(choices)]), em.Head("op")],
    )


def engines() -> list[Any]:
    made = [em.MaskEngine(em.ruleset(name), [f"s{i}" for i in range(n)]) for name in em.rulesets() for n in (1, 3, 64)]
    made += [em.MaskEngine(wide_rules(ops), ["a", "b"]) for ops in (9, 17)]
    return [pytest.param(e, id=f"{e.rules.name}-{len(e.slot_ids)}-{len(e.layout.ops)}") for e in made]


def logits_of(engine: em.MaskEngine, batch: int, seed: int = 0) -> Tensor:
    columns = sum(head.size for head in engine.layout.heads)
    return torch.randn(batch, columns, generator=torch.Generator().manual_seed(seed))


def filled(engine: em.MaskEngine, **settings: Any) -> tuple[em.RolloutBuffer, list[em.ActionMasks], list[Tensor]]:
    """A buffer of rollout, the masks of its steps and its logits; environment 2 pauses at step 1."""
    buffer = em.RolloutBuffer(engine, STEPS, BATCH, **settings)
    masks, logits = [], []
    for step in range(STEPS):
        masks.append(engine(random_states(engine, BATCH, seed=step)))
        logits.append(logits_of(engine, BATCH, step))
        joint = em.FactoredCategorical(logits[-1], masks[-1])
        actions = joint.sample()
        active = torch.arange(BATCH) != 2 if step == 1 else None
        buffer.store(step, masks[-1], actions, joint.log_prob(actions), active=active)
    return buffer, masks, logits


@pytest.mark.parametrize("engine", engines())
def test_masks_come_back(engine: em.MaskEngine) -> None:
    buffer, masks, _ = filled(engine)
    whole = em.ActionMasks.stack(masks)
    assert_same_words(buffer.masks(), whole)
    assert_same_masks(buffer.masks(), as_bools(whole))
    assert_same_masks(buffer.masks(2), as_bools(masks[2]))
    index = torch.tensor([23, 0, 7, 7, 13])
    rows = buffer.minibatch(index)
    for at, row in enumerate(index.tolist()):
        step, env = divmod(row, BATCH)
        one = masks[step].select(torch.tensor([env]))
        assert_same_masks(rows.masks.select(torch.tensor([at])), as_bools(one))
        assert torch.equal(rows.actions[at], buffer.actions[step, env].long())
        assert rows.log_prob[at] == buffer.log_prob[step, env]
    envs = torch.tensor([5, 1])
    series = buffer.sequences(envs)
    assert series.masks.shape == (STEPS, 2)
    assert_same_words(series.masks, em.ActionMasks.stack([m.select(envs) for m in masks]))
    assert torch.equal(series.actions, buffer.actions.long()[:, envs])


@pytest.mark.parametrize("rules", em.rulesets())
def test_what_is_scored_from_the_buffer_is_what_was_decided(rules: str) -> None:
    engine = em.MaskEngine(em.ruleset(rules))
    buffer, _, logits = filled(engine)
    index = torch.randperm(STEPS * BATCH)
    rows = buffer.minibatch(index)
    joint = em.FactoredCategorical(torch.cat(logits)[index], rows.masks, active=rows.active)
    scores = joint.log_prob(rows.actions)
    assert torch.equal(scores[rows.active], rows.log_prob[rows.active])
    paused = index == BATCH + 2
    assert torch.equal(~rows.active, paused)
    assert scores[paused].item() == 0


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_step_writes_straight_into_the_buffer(mode: Any) -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    step = em.DecisionStep(engine, mode=mode)
    buffer = em.RolloutBuffer(engine, 3, BATCH, fields={"value": torch.zeros(()), "seen": torch.zeros(2, 5).half()})
    assert not buffer.active.any()  # nothing written yet
    for t in range(2):
        states, logits, noise = random_states(engine, BATCH, t), logits_of(engine, BATCH, t), torch.rand(BATCH, 4)
        step(states, logits, noise=noise, out=buffer.at(t))
        buffer.write(t, value=torch.full((BATCH,), float(t)), seen=torch.full((BATCH, 2, 5), t))
        expected = step(states, logits, noise=noise)
        assert torch.equal(buffer.actions[t].long(), expected.actions)
        assert torch.equal(buffer.log_prob[t], expected.log_prob)
        assert_same_words(buffer.masks(t), engine(states))
    assert buffer.active.tolist() == [[True] * BATCH] * 2 + [[False] * BATCH]
    rows = buffer.minibatch(torch.tensor([0, BATCH, 2 * BATCH]))
    assert rows.active.tolist() == [True, True, False]
    assert rows.fields["value"].tolist() == [0, 1, 0]
    assert (rows.fields["seen"].dtype, rows.fields["seen"].shape) == (torch.float16, (3, 2, 5))
    assert buffer.sequences(torch.tensor([3])).fields["seen"].shape == (3, 1, 2, 5)
    buffer.clear()
    assert not buffer.active.any()
    assert buffer.masks(0)["op"].tolist() == [[True, False, False, False]] * BATCH  # a row of padding may only wait


def test_the_narrowest_types() -> None:
    for ops, dtype in ((8, torch.uint8), (9, torch.int16), (16, torch.int16), (17, torch.int32)):
        assert word_dtype(em.MaskEngine(wide_rules(ops), ["a"]).layout) == dtype
    for choices, dtype in ((128, torch.int8), (129, torch.int16)):
        assert action_dtype(em.MaskEngine(wide_rules(3, choices), ["a"]).layout) == dtype
    engine = em.MaskEngine(wide_rules(16, 129), ["a"])
    buffer, masks, _ = filled(engine)
    buffer.actions[0, 0, 1] = 128
    assert buffer.minibatch(torch.tensor([0])).actions[0, 1] == 128
    assert_same_words(buffer.masks(), em.ActionMasks.stack(masks))  # bit 15 is the sign of an int16


@pytest.mark.parametrize(
    ("rules", "row", "bools", "with_pairs"), [("esper-2025-12", 11, 15, 27), ("esper-2026-06", 15, 41, 59)]
)
def test_bytes_of_a_row(rules: str, row: int, bools: int, with_pairs: int) -> None:
    engine = em.MaskEngine(em.ruleset(rules))
    buffer = em.RolloutBuffer(engine, 10, 100, fields={"value": torch.zeros(3)})
    assert buffer.row_bytes == row
    assert buffer.nbytes == 1000 * (row + 12)
    masks = engine(engine.empty_slots(1))
    assert masks.flat().nbytes == bools
    assert masks.flat().nbytes + masks.slot_by_op.nbytes == with_pairs


def test_memory_is_batch_last() -> None:
    buffer, _, _ = filled(em.MaskEngine(em.ruleset("esper-2025-12")))
    rows = buffer.minibatch(torch.arange(7))
    for tensor in (buffer.slot_words[0], buffer.actions[0], rows.masks.slot_words, buffer.masks(0).slot_words):
        assert tensor.stride(0) == 1
    assert buffer.masks().slot_words.stride()[:2] == (BATCH, 1)


def test_nothing_is_read_from_the_device() -> None:
    buffer, masks, _ = filled(em.MaskEngine(em.ruleset("esper-2025-12")))
    with OpRecorder() as recorder:
        buffer.store(0, masks[0], buffer.actions[0].long(), torch.zeros(BATCH), active=torch.ones(BATCH).bool())
        buffer.minibatch(torch.tensor([1, 2]))
        buffer.sequences(torch.tensor([1, 2]))
    reads = [op for op in recorder.ops if any(read in op for read in HOST_READS) and "lift_fresh" not in op]
    assert not reads


def test_checkpoints_know_their_rules() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    buffer, _, _ = filled(engine, fields={"value": torch.zeros(())})
    state = buffer.state_dict()
    assert set(state) == {"slot_words", "actions", "log_prob", "value", "_extra_state"}
    twin = em.RolloutBuffer(engine, STEPS, BATCH, fields={"value": torch.zeros(())})
    twin.load_state_dict(state)
    assert all(torch.equal(state[name], twin.state_dict()[name]) for name in state)
    other = em.RolloutBuffer(
        em.MaskEngine(em.ruleset("esper-2025-11")), STEPS, BATCH, fields={"value": torch.zeros(())}
    )
    with pytest.raises(em.RulesError, match=r"made under other rules .* the RolloutBuffer has esper-2025-11"):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        em.RolloutBuffer(engine, STEPS, BATCH + 1, fields={"value": torch.zeros(())}).load_state_dict(state)
    assert torch.equal(copy.deepcopy(buffer).actions, buffer.actions)
    assert buffer.half().actions.dtype == torch.int8


def test_written_in_inference_read_in_training() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    buffer = em.RolloutBuffer(engine, 1, BATCH)
    logits = logits_of(engine, BATCH).requires_grad_()
    with torch.inference_mode():
        em.DecisionStep(engine, mode="eager")(random_states(engine, BATCH), logits, out=buffer.at(0))
    rows = buffer.minibatch(torch.arange(BATCH))
    em.FactoredCategorical(logits, rows.masks).log_prob(rows.actions).sum().backward()
    assert logits.grad is not None


def test_restricted_masks_are_refused() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    buffer, masks, _ = filled(engine)
    narrow = masks[0].restrict(op=torch.tensor([True, False, True, True]))
    with pytest.raises(ValueError, match="words do not hold all of restricted masks: keep the constraint as a field"):
        buffer.store(0, narrow, buffer.actions[0].long(), torch.zeros(BATCH))


def test_wrong_arguments_are_named() -> None:
    engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    buffer, masks, _ = filled(engine, fields={"value": torch.zeros(())})
    actions, log_prob = buffer.actions[0].long(), torch.zeros(BATCH)
    before = copy.deepcopy(buffer.state_dict())
    other = em.MaskEngine(em.ruleset("esper-2026-06"))
    for message, call in (
        ("steps must be a positive integer, got 0", lambda: em.RolloutBuffer(engine, 0, 4)),
        ("batch must be a positive integer, got 2.0", lambda: em.RolloutBuffer(engine, 1, 2.0)),  # type: ignore[arg-type]
        ("field 'a' needs a tensor", lambda: em.RolloutBuffer(engine, 1, 2, fields={"a": 3})),  # type: ignore[dict-item]
        ("a field cannot be called 'actions'", lambda: em.RolloutBuffer(engine, 1, 2, fields={"actions": log_prob})),
        ("a field cannot be called 'step'", lambda: em.RolloutBuffer(engine, 1, 2, fields={"step": log_prob})),
        ("there is no field 'reward'; the fields are value", lambda: buffer.write(0, reward=log_prob)),
        (r"field 'value' has shape \(3,\); wanted \(6,\)", lambda: buffer.write(0, value=torch.zeros(3))),
        ("another layout", lambda: buffer.store(0, other(other.empty_slots(BATCH)), actions, log_prob)),
        ("another layout", lambda: buffer.store(0, actions, actions, log_prob)),  # type: ignore[arg-type]
        (
            r"masks have shape \(2,\); wanted \(6,\)",
            lambda: buffer.store(0, masks[0].select(slice(2)), actions, log_prob),
        ),
        ("actions must be an integer", lambda: buffer.store(0, masks[0], actions.float(), log_prob)),
        (r"actions has shape \(6, 3\); wanted \(6, 4\)", lambda: buffer.store(0, masks[0], actions[:, :3], log_prob)),
        (r"log_prob has shape \(5,\)", lambda: buffer.store(0, masks[0], actions, log_prob[:5])),
        ("active must be a bool", lambda: buffer.store(0, masks[0], actions, log_prob, active=log_prob)),
        ("there is no field 'x'", lambda: buffer.store(0, masks[0], actions, log_prob, x=log_prob)),
        ("an index must be int64", lambda: buffer.minibatch(torch.tensor([0.5]))),
        ("an index must be int64", lambda: buffer.minibatch(torch.tensor([[1]]))),
        ("an index must be int64", lambda: buffer.sequences([1])),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for step in (STEPS, -1, True, None):
        with pytest.raises(IndexError, match="there is no step"):
            buffer.at(step)  # type: ignore[arg-type]
    assert all(torch.equal(before[name], value) for name, value in buffer.state_dict().items())
