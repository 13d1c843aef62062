"""The decision step: what it composes, in every mode, written where it is told to, with errors in the pieces' words."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.compiled.methods import GraphedMethod
from esper_masks.decision.step import DecisionInputs
from tests.decision.inputs import BATCH, composed, engine_of, inputs
from tests.helpers import (
    HERE,
    HOST_READS,
    OpRecorder,
    assert_equal_on_cpu,
    assert_near,
    assert_same_words,
    random_states,
)


def assert_equal(ours: em.Decision, expected: em.Decision) -> None:
    for mine, other in zip(ours, expected, strict=True):
        if other is None:
            assert mine is None
        else:
            assert_equal_on_cpu(mine.to(other.dtype), other)


@pytest.mark.parametrize("rules", em.rulesets())
@pytest.mark.parametrize("settings", [{}, {"min_prob": 0.02}, {"active": torch.arange(BATCH) % 3 != 0}])
def test_an_eager_step_is_its_pieces(rules: str, settings: dict[str, Any]) -> None:
    engine = engine_of(rules)
    states, logits, noise = inputs(engine)
    logits[7] = torch.nan
    active = {"active": settings["active"]} if "active" in settings else {}
    step = em.DecisionStep(engine, mode="eager", min_prob=settings.get("min_prob"))
    made = step(states, logits, noise=noise, **active)
    assert_equal(made, composed(engine, states, logits, noise, **settings))
    assert_same_words(step.masks(states), engine(states))
    assert_same_words(em.ActionMasks.from_words(engine.layout, made.slot_words), engine(states))
    masks = engine(states)
    scored = step.evaluate(logits, masks, made.actions, head_entropies=True, **active)
    joint = em.FactoredCategorical(logits, masks, validate="flag", **settings)
    expected = joint.log_prob(made.actions), joint.raw_entropy(), joint.head_entropies(), joint.faults
    assert all(torch.equal(mine, other) for mine, other in zip(scored, expected, strict=True))
    assert step.evaluate(logits, masks, made.actions, **active).head_entropies is None
    assert made.actions[7].tolist() == [-1] * len(engine.layout.heads)


@pytest.mark.parametrize("layout", ["row-major", "batch-last"])
def test_compiled_equals_eager(compiled: em.DecisionStep, layout: str) -> None:
    engine = compiled.engine
    for batch in (BATCH, 333):
        states, logits, noise = inputs(engine, batch)
        if layout == "batch-last":
            logits = logits.T.contiguous().T
        made, expected = compiled(states, logits, noise=noise), composed(engine, states, logits, noise)
        same = (made.actions == expected.actions).all(-1)  # but where the noise falls on an edge
        assert same.float().mean() > 0.99
        assert engine(states).permits(made.actions).all()
        assert torch.equal(made.slot_words, expected.slot_words)
        assert_near(made.raw_entropy, expected.raw_entropy, tolerance=1e-5)
        scored = em.FactoredCategorical(logits, engine(states)).log_prob(made.actions)
        assert_near(made.log_prob, scored, tolerance=1e-5)


@pytest.mark.cpu
def test_the_ratio_of_update_and_rollout_is_one(compiled: em.DecisionStep) -> None:
    engine = compiled.engine
    states, logits, noise = inputs(engine, 333)
    made = compiled(states, logits, noise=noise)
    masks = em.ActionMasks.from_words(engine.layout, made.slot_words)
    leaf = logits.clone().requires_grad_()
    scored = compiled.evaluate(leaf, masks, made.actions)
    assert torch.equal(scored.log_prob, made.log_prob)
    (scored.log_prob + scored.raw_entropy).sum().backward()
    eager = logits.clone().requires_grad_()
    joint = em.FactoredCategorical(eager, masks)
    (joint.log_prob(made.actions) + joint.raw_entropy()).sum().backward()
    assert_near(leaf.grad, eager.grad, tolerance=1e-5)
    rows = torch.randperm(333)
    moved = compiled.evaluate(logits[rows].requires_grad_(), masks.select(rows), made.actions[rows])
    assert torch.equal(moved.log_prob, made.log_prob[rows])


@pytest.mark.slow
@pytest.mark.cpu
def test_the_ratio_is_one_for_long_heads_in_chunks_too() -> None:
    engine = engine_of(slot_ids=[f"s{i}" for i in range(20)])
    states, logits, _ = inputs(engine, 101)
    step = em.DecisionStep(engine)
    step.chunk_values = 20 * 30  # chunks of 34, 34 and 33 rows
    made = step(states, logits)
    masks = em.ActionMasks.from_words(engine.layout, made.slot_words)
    assert masks.permits(made.actions).all()
    scored = step.evaluate(logits.requires_grad_(), masks, made.actions)
    assert torch.equal(scored.log_prob, made.log_prob)


@pytest.mark.usefixtures("traced")
def test_head_entropies_have_a_gradient_too() -> None:
    engine = engine_of()
    states, logits, noise = inputs(engine, 333)
    masks = engine(states)
    actions = em.FactoredCategorical(logits, masks).sample(noise=noise)
    sizes = [head.size for head in engine.layout.heads]
    leaves = [dict(zip(masks, logits.clone().split(sizes, -1))) for _ in range(2)]  # by head
    for leaf in leaves:
        for part in leaf.values():
            part.requires_grad_()
    scored = em.DecisionStep(engine).evaluate(leaves[0], masks, actions.to(torch.int8), head_entropies=True)
    joint = em.FactoredCategorical(leaves[1], masks)
    assert_near(scored.head_entropies, joint.head_entropies(), tolerance=1e-5)
    weight = torch.randn(len(sizes))
    (scored.log_prob + scored.head_entropies @ weight).sum().backward()
    (joint.log_prob(actions) + joint.head_entropies() @ weight).sum().backward()
    for mine, other in zip(leaves[0].values(), leaves[1].values(), strict=True):
        assert_near(mine.grad, other.grad, tolerance=1e-5)


def test_nothing_is_kept_for_the_gradient_but_the_arguments(compiled: em.DecisionStep) -> None:
    engine = compiled.engine
    states, logits, noise = inputs(engine, 333)
    made, masks, leaf = compiled(states, logits, noise=noise), engine(states), logits.clone().requires_grad_()
    scored = compiled.evaluate(leaf, masks, made.actions)  # torch 2.11 frees what is kept when this goes
    kept = [t for t in scored.log_prob.grad_fn.saved_tensors if t is not None]
    own = {t.data_ptr() for t in (leaf, masks.slot_words, masks.op_words, made.actions)}
    assert kept
    assert {t.data_ptr() for t in kept} <= own


@pytest.mark.parametrize("entropy", [True, False])
def test_out_is_written_in_its_own_dtypes(compiled: em.DecisionStep, entropy: bool) -> None:
    states, logits, noise = inputs(compiled.engine)
    out = compiled.allocate(BATCH, entropy=entropy)
    assert [out.actions.dtype, out.slot_words.dtype] == [torch.int8, torch.uint8]
    assert out.actions.stride(0) == out.slot_words.stride(0) == 1
    assert compiled(states, logits, noise=noise, out=out) is out
    expected = compiled(states, logits, noise=noise)
    assert_equal(out, expected if entropy else expected._replace(raw_entropy=None))
    assert (out.raw_entropy is None) == (not entropy)
    eager = em.DecisionStep(compiled.engine, mode="eager")
    expected = eager(states, logits, noise=noise)
    assert_equal(
        eager(states, logits, noise=noise, out=out), expected if entropy else expected._replace(raw_entropy=None)
    )


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_step_writes_straight_into_the_buffer(compiled: em.DecisionStep, mode: str) -> None:
    step = compiled if mode == "compiled" else em.DecisionStep(compiled.engine, mode="eager")
    engine = step.engine
    buffer = em.RolloutBuffer(engine, 3, BATCH, fields={"value": torch.zeros(()), "seen": torch.zeros(2, 5)})
    assert not buffer.active.any()  # nothing written yet
    for t in range(2):
        states, logits, noise = random_states(engine, BATCH, t), inputs(engine, seed=t)[1], torch.rand(BATCH, 4)
        step(states, logits, noise=noise, out=buffer.at(t))
        buffer.write(t, value=torch.full((BATCH,), float(t)), seen=torch.full((BATCH, 2, 5), float(t)))
        expected = step(states, logits, noise=noise)
        assert torch.equal(buffer.actions[t].long(), expected.actions)
        assert_equal_on_cpu(buffer.log_prob[t], expected.log_prob)
        assert_same_words(buffer.masks(t), engine(states))
    assert buffer.active.tolist() == [[True] * BATCH] * 2 + [[False] * BATCH]
    rows = buffer.minibatch(torch.tensor([0, BATCH, 2 * BATCH]))
    assert rows.active.tolist() == [True, True, False]
    assert rows.fields["value"].tolist() == [0, 1, 0]
    assert rows.fields["seen"].shape == (3, 2, 5)
    assert buffer.sequences(torch.tensor([3])).fields["seen"].shape == (3, 1, 2, 5)
    buffer.clear()
    assert not buffer.active.any()
    assert buffer.masks(0)["op"].tolist() == [[True, False, False, False]] * BATCH  # a row of padding may only wait


@pytest.mark.usefixtures("traced")
def test_all_arguments_at_once() -> None:
    engine = engine_of()
    step, eager = em.DecisionStep(engine), em.DecisionStep(engine, mode="eager")
    states, logits, noise = inputs(engine, 333)
    totals = torch.arange(333, dtype=torch.int32) % 4
    settings = {
        "max_seeds": totals.flip(0),
        "enabled": torch.tensor([True, False, True]),
        "active": torch.arange(333) % 5 != 0,
        "noise": noise,
    }
    made, expected = step(states, logits, totals, **settings), eager(states, logits, totals, **settings)
    assert torch.equal(made.actions, expected.actions)
    assert torch.equal(made.slot_words, expected.slot_words)
    assert_near(made.log_prob, expected.log_prob, 1e-5)
    out = step.allocate(333, entropy=False)
    assert torch.equal(step(states, logits, totals, **settings, out=out).actions.long(), expected.actions)
    with pytest.raises(em.SlotStateError, match=r"total_seeds has shape \(334,\)"):
        step(states, logits, torch.zeros(334, dtype=torch.int32), max_seeds=2)
    with pytest.raises(ValueError, match="noise is"):
        step(states, logits, noise=noise[:100])


@pytest.mark.cpu  # whose caches the chunks are for
@pytest.mark.usefixtures("traced")
def test_a_head_of_many_choices_is_decided_in_chunks() -> None:
    engine = engine_of(slot_ids=[f"s{i}" for i in range(20)])
    states, logits, noise = inputs(engine, 90)
    rows = {"states": states, "noise": noise, "total_seeds": torch.arange(90) % 4, "max_seeds": torch.arange(90) % 3}
    rows |= {"active": torch.arange(90) % 7 != 0}
    shape = 45, 2
    given = {name: of.view(*shape, *of.shape[1:]) for name, of in rows.items()}
    given["logits"] = dict(zip(engine.layout.head_names, logits.view(*shape, -1).split([20, 5, 3, 4], -1)))
    step, eager = em.DecisionStep(engine), em.DecisionStep(engine, mode="eager")
    slots = None, torch.arange(20) % 3 != 0, torch.rand(*shape, 20) < 0.8
    expected = [eager(**given, enabled=enabled) for enabled in slots]
    step.chunk_values = eager.chunk_values = 20 * 25  # so that 90 rows are three chunks
    sizes: list[int] = []
    counting = step.register_forward_pre_hook(
        lambda _, __, named: sizes.append(named["states"].shape[:-2].numel()), with_kwargs=True
    )
    for enabled, whole in zip(slots, expected):
        again = eager(**given, enabled=enabled)  # in chunks too; eager sums depend on where a row stands
        assert_equal(again._replace(raw_entropy=None), whole._replace(raw_entropy=None))
        assert_near(again.raw_entropy, whole.raw_entropy)
        made = step(**given, enabled=enabled)
        assert torch.equal(made.actions, whole.actions)
        assert torch.equal(made.slot_words, whole.slot_words)
        assert_near(made.log_prob, whole.log_prob)
        assert_near(made.raw_entropy, whole.raw_entropy)
        assert made.actions.movedim(-1, 0).is_contiguous()
        out = step.allocate(*shape, entropy=False)
        assert step(**given, enabled=enabled, out=out) is out
        assert_equal(out, made._replace(raw_entropy=None))
    counting.remove()
    assert sizes == [90, 30, 30, 30] * 6
    drawn = step(states[:1].expand(90, -1, -1), logits[:1].expand(90, -1)).actions
    assert not torch.equal(drawn[:30], drawn[30:60])
    with pytest.raises(ValueError, match=r"logits have shape \(91, 32\)"):
        step(states, torch.zeros(91, 32))
    square, of_columns = states[:81].view(9, 9, 20, 2), torch.arange(9) % 2 == 0  # active is broadcast over rows
    inactive = step(square, logits[:81].view(9, 9, -1), active=of_columns).actions[..., 3] == -1
    assert torch.equal(inactive, ~of_columns.expand(9, 9))
    with torch.inference_mode():
        decided = step(states, logits)
    assert not decided.actions.is_inference()
    logits[77] = torch.nan
    raising = em.DecisionStep(engine, mode="eager", validate="raise")
    raising.chunk_values = eager.chunk_values
    with pytest.raises(em.InvalidStateMachineError, match="77"):  # not the row of a chunk
        raising(states, logits)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("validate", ["flag", pytest.param("raise", marks=pytest.mark.cpu)])  # it ends a CUDA context
def test_what_is_not_decided_has_no_gradient(validate: Any) -> None:
    engine = engine_of()
    step = em.DecisionStep(engine, validate=validate)
    states, logits, _ = inputs(engine)
    masks, active = engine(states), torch.arange(BATCH) % 3 != 0
    actions = em.FactoredCategorical(logits, masks, active=active).sample()
    logits[[6, 7]] = torch.nan  # one is inactive, the other at fault
    active[7] = validate == "flag"
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    scored = step.evaluate(leaves[0], masks, actions, active=active)
    joint = em.FactoredCategorical(leaves[1], masks, active=active, validate="flag")
    assert torch.equal(scored.faults, joint.faults)
    assert scored.faults.ne(0).sum() == (validate == "flag")
    (scored.log_prob + scored.raw_entropy).sum().backward()
    (joint.log_prob(actions) + joint.raw_entropy()).sum().backward()
    assert not leaves[0].grad[[0, 6, 7]].any()
    assert_near(leaves[0].grad, leaves[1].grad, tolerance=1e-5)
    if validate == "raise":
        with pytest.raises(RuntimeError, match="a row is faulty"):
            step.evaluate(leaves[0], masks, actions, active=torch.ones(BATCH, dtype=torch.bool))


def changed_masks(engine: em.MaskEngine, batch: int) -> tuple[Tensor, Tensor, em.ActionMasks, Tensor]:
    """Logits, actions that were decided, and other masks; where these forbid them. Row 0 is at fault, 1 is inactive."""
    states, logits, noise = inputs(engine, batch)
    logits[0] = torch.nan
    actions = em.FactoredCategorical(logits, engine(states), validate="flag").sample(noise=noise)
    actions[2] = -1
    masks = engine(random_states(engine, batch, seed=7))
    illegal = ~masks.permits(actions)
    illegal[:2] = False
    return logits, actions, masks, illegal


@pytest.mark.parametrize("rules", ["esper-2025-12", "esper-2026-06"])
def test_stored_actions_under_other_masks_are_a_fault(rules: str) -> None:
    engine = engine_of(rules)
    logits, actions, masks, illegal = changed_masks(engine, 60)
    heads, active = engine.layout.head_names, torch.arange(60) != 1
    step = em.DecisionStep(engine, mode="eager")
    with OpRecorder() as recorder:
        scored = step.evaluate(logits, masks, actions, active=active)
    assert not [op for op in recorder.ops if any(read in op for read in HOST_READS)]
    own = em.FactoredCategorical(logits, masks, active=active, validate="flag").faults
    assert own[0] != 0
    assert 10 < illegal.sum() < 59
    assert illegal[2]  # an action of -1 in a row that acts
    assert torch.equal(scored.faults, own + (illegal.long() << len(heads)))
    assert (scored.log_prob[illegal] == -torch.inf).all()
    with pytest.raises(
        em.InvalidStateMachineError, match=r"row 2 \(illegal action\), .* masks or actions were written"
    ):
        em.raise_on_fault(faults=scored.faults, heads=heads)
    steps = em.ActionMasks.stack([masks, engine(random_states(engine, 60, seed=8))])
    deep = step.evaluate(torch.stack([logits] * 2), steps, torch.stack([actions] * 2), active=active)
    assert torch.equal(deep.faults[0], scored.faults)


@pytest.mark.parametrize("kind", ["whole", "long heads", "logits by op", "restricted"])
def test_compiled_code_finds_illegal_actions_too(compiled: em.DecisionStep, traced: None, kind: str) -> None:
    engine = engine_of(slot_ids=[f"s{i}" for i in range(20)]) if kind == "long heads" else compiled.engine
    logits, actions, masks, illegal = changed_masks(engine, 60)
    given: Any = logits
    if kind == "logits by op":
        given = dict(zip(masks, logits.split([head.size for head in engine.layout.heads], -1)))
        given |= {"slot": torch.randn(60, 4, 3), "blend": torch.randn(60, 4, 3)}
    if kind == "restricted":
        masks = masks.restrict(blend=torch.arange(3) != 1)
        illegal[2:] = ~masks.permits(actions)[2:]
    active = torch.arange(60) != 1
    expected = em.FactoredCategorical(given, masks, active=active, validate="flag").action_faults(actions)
    step = compiled if kind == "whole" else em.DecisionStep(engine)
    scored = step.evaluate(given, masks, actions.to(torch.int8), active=active)
    assert torch.equal(scored.faults, expected)
    assert torch.equal(scored.faults >= 16, illegal)
    assert 0 < scored.faults[0] < 16


@pytest.mark.usefixtures("traced")
def test_one_head_in_double_precision_is_all() -> None:
    engine = engine_of()
    states, logits, noise = inputs(engine)
    parts = dict(zip(engine.layout.head_names, logits.split([h.size for h in engine.layout.heads], -1)))
    parts["slot"] = parts["slot"].double()
    made, expected = em.DecisionStep(engine)(states, parts, noise=noise), composed(engine, states, parts, noise)
    assert made.log_prob.dtype == expected.log_prob.dtype == torch.float64
    assert_near(made.log_prob, expected.log_prob, 1e-12)


def test_integers_that_no_compiler_vectorizes(compiled: em.DecisionStep) -> None:
    states, logits, noise = inputs(compiled.engine, 333)
    expected, out = compiled(states, logits, noise=noise), compiled.allocate(333)
    out = out._replace(actions=out.actions.short(), slot_words=out.slot_words.short())
    assert_equal(compiled(states, logits, noise=noise, out=out), expected)


def test_a_default_device_is_not_where_a_step_draws() -> None:
    step = em.DecisionStep(engine_of(), mode="eager")
    states, logits, _ = inputs(step.engine)
    with torch.device("meta"):
        assert step(states, logits).actions.device == states.device


def test_each_row_of_vmap_draws_for_itself() -> None:
    step = em.DecisionStep(engine_of(), mode="eager")
    states, logits, _ = inputs(step.engine)
    run = torch.vmap(lambda s, x: step(s, x).actions, randomness="different")
    actions = run(states[:1].expand(500, 3, 2).unsqueeze(1), logits[:1].expand(500, 15).unsqueeze(1))
    assert step.engine(states[:1].expand(500, 3, 2)).permits(actions[:, 0]).all()
    assert len(actions.unique(dim=0)) > 1


def test_compiled_code_follows_its_arguments(compiled: em.DecisionStep) -> None:
    """Guards on the module are dropped, those on arguments must not be."""
    engine = compiled.engine
    states = inputs(engine)[0]
    totals = torch.arange(BATCH, dtype=torch.int32) % 4
    limits = torch.arange(BATCH) % 3
    enabled = torch.rand(BATCH, 3) < 0.5
    calls: list[dict[str, Any]] = [
        {},
        {"total_seeds": totals},
        {"total_seeds": totals, "max_seeds": 1},
        {"total_seeds": totals, "max_seeds": 3},
        {"total_seeds": totals, "max_seeds": 2},
        {"total_seeds": totals, "max_seeds": limits},
        {"enabled": enabled[0]},
        {"enabled": enabled},
        {"total_seeds": totals.long(), "max_seeds": 1},
        {},
    ]
    for call in calls:
        assert_same_words(compiled.masks(states, **call), engine(states, **call))
    assert_same_words(compiled.masks(states.long()), engine(states))
    assert_same_words(compiled.masks(states[:1]), engine(states[:1]))
    assert_same_words(compiled.masks(states[:0]), engine(states[:0]))
    assert_same_words(compiled.masks(states.contiguous()), engine(states))


@pytest.mark.slow
def test_the_limit_is_the_engines_of_the_moment() -> None:
    engine = engine_of(max_seeds=2)
    step = em.DecisionStep(engine)
    states, totals = engine.empty_slots(4), torch.tensor([0, 1, 2, 3], dtype=torch.int32)
    assert step.masks(states, totals)["op"][:, 1].tolist() == [True, True, False, False]
    engine.max_seeds = 1
    assert step.masks(states, totals)["op"][:, 1].tolist() == [True, False, False, False]


@pytest.mark.usefixtures("traced")
def test_any_leading_shape_has_a_graph() -> None:
    step = em.DecisionStep(engine_of())
    for shape in [(64,), (1,), (8,), (), (1, 8), (8, 1), (1, 1), (4, 8), (3, 9), (2, 3, 4), (2, 1, 4), (2, 3, 1), (0,)]:
        states = step.engine.empty_slots(1)[0].expand(*shape, 3, 2)
        assert step.masks(states).shape == shape


WRONG_OUT: list[tuple[str, Callable[[em.DecisionStep], Any]]] = [
    (rf"actions of out is \(8, 4\) on {HERE}; wanted \(50, 4\) on {HERE}", lambda step: step.allocate(8)),
    (r"actions of out is \(2, 50, 4\)", lambda step: step.allocate(2, BATCH)),
    (r"log_prob of out is \(1,\)", lambda step: step.allocate(BATCH)._replace(log_prob=torch.zeros(1))),
    ("slot_words of out is NoneType", lambda step: step.allocate(BATCH)._replace(slot_words=None)),
    (
        "log_prob of out cannot be torch.int64",
        lambda step: step.allocate(BATCH)._replace(log_prob=torch.zeros(50).long()),
    ),
    ("actions of out cannot be torch.float32", lambda step: step.allocate(BATCH)._replace(actions=torch.zeros(50, 4))),
    ("out must be a Decision, got tuple", lambda step: tuple(step.allocate(BATCH))),
]


@pytest.mark.parametrize(("words", "make"), WRONG_OUT, ids=[words for words, _ in WRONG_OUT])
def test_memory_that_does_not_fit_is_named(words: str, make: Callable[[em.DecisionStep], Any]) -> None:
    """Broadcast, one decision would fill many rows."""
    step = em.DecisionStep(engine_of(), mode="eager")
    states, logits, _ = inputs(step.engine)
    with pytest.raises(ValueError, match=words):
        step(states, logits, out=make(step))


def test_memory_has_its_own_dtype() -> None:
    step = em.DecisionStep(engine_of(), mode="eager")
    try:
        torch.set_default_dtype(torch.float16)
        assert step.allocate(4).log_prob.dtype == torch.float32
        assert em.RolloutBuffer(step.engine, 2, 2).log_prob.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_settings_are_fixed() -> None:
    step = em.DecisionStep(engine_of(), min_prob=0.01)
    for name in ("min_prob", "validate"):
        with pytest.raises(AttributeError):
            setattr(step, name, None)


@pytest.mark.slow
def test_any_batch_has_one_of_two_graphs() -> None:
    step = em.DecisionStep(engine_of())
    for batch in range(2, 30):  # more sizes than the compiler has graphs for
        assert step.masks(step.engine.empty_slots(batch)).shape == (batch,)


WRONG: list[tuple[type[Exception], str, Callable[[em.DecisionStep, Tensor, Tensor], Any]]] = [
    (em.SlotStateError, "states must be an int32", lambda step, s, x: step(s.float(), x)),
    (em.SlotStateError, "states have shape", lambda step, s, x: step(s[:, :2], x)),
    (em.SlotStateError, "needs total_seeds", lambda step, s, x: step(s, x, max_seeds=3)),
    (em.SlotStateError, "enabled must be a bool", lambda step, s, x: step(s, x, enabled=torch.ones(3))),
    (ValueError, "logits must be a tensor of float16", lambda step, s, x: step(s, x.int())),
    (ValueError, r"logits have shape \(50, 14\)", lambda step, s, x: step(s, x[:, 1:])),
    (ValueError, "active must be a bool tensor", lambda step, s, x: step(s, x, active=torch.ones(BATCH))),
    (ValueError, "noise is", lambda step, s, x: step(s, x, noise=torch.rand(BATCH, 3))),
    (ValueError, "actions must be an integer", lambda step, s, x: step.evaluate(x, step.engine(s), x[:, :4])),
    (em.SlotStateError, "states must be a tensor of integers, got NoneType", lambda step, s, x: step(None, x)),
    (ValueError, "logits must be a tensor or a mapping", lambda step, s, x: step(s, [1, 2])),
    (ValueError, "masks must be ActionMasks, got NoneType", lambda step, s, x: step.evaluate(x, None, x)),
    (ValueError, "another layout", lambda step, s, x: step.evaluate(x, OTHER, torch.zeros(1, 8).long())),
]
OTHER = em.MaskEngine(em.ruleset("esper-2026-06"))(em.MaskEngine(em.ruleset("esper-2026-06")).empty_slots(1))


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize(("error", "words", "call"), WRONG, ids=[words for _, words, _ in WRONG])
def test_wrong_arguments_are_named(
    compiled: em.DecisionStep, mode: str, error: type[Exception], words: str, call: Callable[..., Any]
) -> None:
    step = compiled if mode == "compiled" else em.DecisionStep(compiled.engine, mode="eager")
    with pytest.raises(error, match=words):
        call(step, *inputs(compiled.engine)[:2])


def test_wrong_settings_are_named() -> None:
    engine = engine_of()
    with pytest.raises(ValueError, match="mode='fast' is not one of 'eager', 'compiled', 'cuda-graph'"):
        em.DecisionStep(engine, mode="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="engine must be a MaskEngine or an ActionLayout, got MaskRules"):
        em.DecisionStep(engine.rules)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="validate='loud'"):
        em.DecisionStep(engine, validate="loud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_prob of head 'blueprint'"):
        em.DecisionStep(engine, min_prob={"blueprint": 1})
    with pytest.raises(RuntimeError, match="needs an engine on a CUDA device; this one is on cpu"):
        em.DecisionStep(engine_of(device="cpu"), mode="cuda-graph")


def test_validation_raises_in_eager_code() -> None:
    engine = engine_of()
    states, logits, _ = inputs(engine)
    logits[3] = torch.nan
    with pytest.raises(em.InvalidStateMachineError, match="row 3"):
        em.DecisionStep(engine, mode="eager", validate="raise")(states, logits)


def test_nothing_is_read_from_the_device() -> None:
    engine = engine_of("esper-2026-06")
    states, logits, noise = inputs(engine)
    step = em.DecisionStep(engine, mode="eager")
    with OpRecorder() as recorder:
        made = step(states, logits, noise=noise)
        step.evaluate(logits, engine(states), made.actions)
    assert not [op for op in recorder.ops if any(read in op for read in HOST_READS)]


def test_a_step_is_copied_without_its_code(compiled: em.DecisionStep) -> None:
    states, logits, noise = inputs(compiled.engine)
    for step in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert step.runs == {}
        step.mode = "eager"
        assert_near(
            step(states, logits, noise=noise).raw_entropy, compiled(states, logits, noise=noise).raw_entropy, 1e-5
        )
    assert set(compiled.state_dict()) == {"engine._extra_state"}


@pytest.mark.usefixtures("traced")
def test_logits_by_head_and_in_double_precision() -> None:
    engine = engine_of()
    states, logits, noise = inputs(engine, 40)
    step = em.DecisionStep(engine)
    parts = dict(zip(engine.layout.head_names, logits.double().split([h.size for h in engine.layout.heads], -1)))
    made, expected = step(states, parts, noise=noise), composed(engine, states, parts, noise.double())
    assert made.log_prob.dtype == torch.float64
    assert torch.equal(made.actions, expected.actions)
    assert_near(made.log_prob, expected.log_prob, 1e-12)


# -- drawn and scored at once -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["esper-2025-12", "esper-2026-06"])
@pytest.mark.parametrize("kind", ["plain", "floor", "logits by op", "restricted"])
def test_sample_and_log_prob_is_both(rules: str, kind: str) -> None:
    engine = engine_of(rules)
    states, logits, noise = inputs(engine)
    masks, given, floor = engine(states), logits, 0.01 if kind == "floor" else None
    if kind == "restricted":
        masks = masks.restrict(blueprint=torch.arange(masks["blueprint"].shape[-1]) != 2)
    if kind == "logits by op":
        given = dict(zip(masks, logits.split([head.size for head in engine.layout.heads], -1)))
        given["blueprint"] = torch.randn(BATCH, len(engine.layout.ops), given["blueprint"].shape[-1])
    leaves = [t.requires_grad_() for t in (given.values() if isinstance(given, dict) else [given])]

    def both(noise: Tensor) -> tuple[Tensor, ...]:
        joint = em.FactoredCategorical(given, masks, min_prob=floor, validate="flag")
        action, log_prob = joint.sample_and_log_prob(noise=noise)
        return action, log_prob, joint.sample(noise=noise), joint.log_prob(action)

    graph = torch.compile(both, fullgraph=True, backend="aot_eager")
    for run in (both, graph) if rules == "esper-2025-12" else (both,):
        action, log_prob, again, scored = run(noise)
        assert torch.equal(action, again)
        assert torch.equal(log_prob, scored)
        if run is both:
            ours = torch.autograd.grad(log_prob.sum(), leaves, retain_graph=True, allow_unused=True)
            theirs = torch.autograd.grad(scored.sum(), leaves, allow_unused=True)
            for mine, other in zip(ours, theirs, strict=True):
                assert mine is other is None or torch.equal(mine, other)
    joint = em.FactoredCategorical(logits, engine(states))
    action, log_prob = joint.sample_and_log_prob((4,))
    assert (action.shape[:2], log_prob.shape) == ((4, BATCH), (4, BATCH))
    narrow, _ = joint.sample_and_log_prob(noise=noise, dtype=torch.int8)
    assert narrow.dtype == torch.int8
    assert torch.equal(narrow.long(), joint.sample(noise=noise))


# -- graphs of calls --------------------------------------------------------------------------------------------------


def test_a_graph_is_replayed_on_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA graph does, without one: it reads and writes the memory of its capture."""
    captured: list[int] = []

    def make_graphed(call: Any, static: tuple[Tensor, ...], num_warmup_iters: int) -> Any:
        captured.append(len(static))
        outputs = call(*static)
        assert all(isinstance(output, Tensor) for output in outputs)

        def replay(*tensors: Tensor) -> Any:
            for place, tensor in zip(static, tensors, strict=True):
                assert place.data_ptr() != tensor.data_ptr()
                place.copy_(tensor)
            for place, value in zip(outputs, call(*static), strict=True):
                place.copy_(value)
            return outputs

        return replay

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed)
    step = em.DecisionStep(engine_of(), mode="eager")
    graphed = GraphedMethod(step.decide)
    for batch, seed in ((5, 0), (5, 1), (9, 2), (5, 3)):
        states, logits, noise = inputs(step.engine, batch, seed)
        given = DecisionInputs(states, logits, None, 0, noise=noise)
        assert_equal(graphed(given), composed(step.engine, states, logits, noise))
    learning = given._replace(logits=logits.detach().requires_grad_())  # needs no graph of its own
    with torch.no_grad():
        assert_equal(graphed(learning), composed(step.engine, states, logits, noise))
    assert captured == [3, 3]
    limited = graphed(given._replace(total_seeds=torch.full((5,), 2), max_seeds=2))
    assert_same_words(
        em.ActionMasks.from_words(step.engine.layout, limited.slot_words),
        step.engine(states, torch.full((5,), 2), max_seeds=2),
    )
    out = step.allocate(5, entropy=False)
    for _ in range(2):
        graphed(given._replace(dtype=torch.int8, entropy=False), out)
        assert_equal(out, composed(step.engine, states, logits, noise)._replace(raw_entropy=None))
    assert captured == [3, 3, 4, 3]
