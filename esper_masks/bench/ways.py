"""What a row runs, and the check of its outputs that comes before any timing."""

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import esper_masks as em
from esper_masks.bench import dropin, loops_2025_12, loops_2026_06, training
from esper_masks.bench.cases import (
    BOOLS,
    FROM_OBJECTS,
    LOOPS,
    ROW_MAJOR_STATES,
    TRAININGS,
    VECTORIZED,
    Case,
    Run,
    Verify,
)
from esper_masks.bench.inputs import LIMIT, Decision, Head, random_states, state_dicts
from esper_masks.bench.libraries import FILL, LIBRARIES
from esper_masks.bench.rows import Row, check, near, separate
from esper_masks.decision.step import Mode

LOOP_MODULES: dict[str, ModuleType] = {"esper-2025-12": loops_2025_12, "esper-2026-06": loops_2026_06}
ALIKE = 0.999  # share of rows whose action must be the same: the noise of others falls within rounding of an edge
PIECE = 1 << 16  # rows that are checked at a time, so that a check takes no more memory than what it checks
LOOPED = 4096  # rows whose masks a loop makes again
ALL_ROWS_AT_ONCE: dict[str, Any] = {
    "cpp.enable_tiling_heuristics": False
}  # else row-major rows of few actions are taken one by one


def prepare(case: Case, device: str, step: em.DecisionStep | None = None, *, alike: bool = True) -> tuple[Run, Verify]:
    """What is timed, and the check of what it gives: an AssertionError where that is not what it should be.

    Args:
        case: the row.
        device: "cpu" or "cuda".
        step: ours, of ``make_step`` for this row but for the batch: what it has compiled serves. By default a new one.
        alike: whether actions for given noise are compared with those of eager code, for which one more graph is built.
    """
    if case.work in TRAININGS:
        return training.prepare(case)
    if case.work == "dropin":
        return dropin.prepare(case, LOOP_MODULES[case.rules])
    if case.way.split()[0] in LIBRARIES:
        return distribution(case, device)
    engine = make_engine(case, device) if step is None else step.engine
    states, totals = random_states(engine, case.batch)
    generator = torch.Generator(device).manual_seed(1)
    logits = torch.randn(case.batch, engine.layout.logit_size, generator=generator, device=device)
    if case.layout == "batch-last":
        logits = logits.T.contiguous().T
    if case.way == ROW_MAJOR_STATES:
        states = states.contiguous()
    if case.way in LOOPS:
        return loop(case, engine, states, totals, logits)
    if case.way == FROM_OBJECTS:
        return objects(case, engine, states, totals)
    if case.way in BOOLS:
        return bools(case, engine, states, totals)
    step = _step(case, engine) if step is None else step
    if case.work == "words":
        return words(case, step, states, totals)
    return (
        update(case, step, states, totals, logits)
        if _is_update(case)
        else decision(case, step, states, totals, logits, alike)
    )


def make_engine(case: Case, device: str) -> em.MaskEngine:
    """The engine of a row."""
    ids = [f"slot{i}" for i in range(case.slots)]
    return em.MaskEngine(em.ruleset(case.rules), ids, max_seeds=LIMIT, device=device)


def make_step(case: Case, device: str) -> em.DecisionStep:
    """Our step of a row, for rows of any batch."""
    return _step(case, make_engine(case, device))


def _is_update(case: Case) -> bool:
    return case.step == "forward+backward"


def distribution(case: Case, device: str) -> tuple[Run, Verify]:
    """A library's distribution of one head or of a decision, given masks that lie ready; ours is not a step here."""
    inputs = Head(case.width, case.batch) if case.width else Decision(case.rules, case.batch, device)
    row = Row(inputs, case.way, case.layout)
    function = row.score() if _is_update(case) else row.forward()
    if "compiled" in case.way:
        options = ALL_ROWS_AT_ONCE if case.way == VECTORIZED else None
        function = torch.compile(function, fullgraph=True, options=options)
    timed = row.run(case.step)

    def run() -> Any:
        with torch.set_grad_enabled(_is_update(case)):
            return timed(function)

    return run, lambda result: check(row, case.step, result)


def decision(
    case: Case, step: em.DecisionStep, states: Tensor, totals: Tensor, logits: Tensor, alike: bool
) -> tuple[Run, Verify]:
    """Our step from states: legal, scored as the distribution in eager code scores, on masks that a loop makes too."""
    engine = step.engine
    out = step.allocate(case.batch) if case.memory == "allocated" else None

    def verify(made: em.Decision) -> None:
        made = tree_map(torch.clone, made)  # a CUDA graph writes the next call to the same place
        assert made.raw_entropy is not None
        noise = torch.rand(case.batch, len(engine.layout.heads), device=logits.device)
        again, same = step(states, logits, totals, noise=noise).actions if alike else None, 0
        for rows in _pieces(case.batch):
            masks = engine(states[rows], totals[rows])
            joint = em.FactoredCategorical(logits[rows], masks)
            assert masks.permits(made.actions[rows]).all()
            assert torch.equal(made.slot_words[rows].int(), masks.slot_words)
            near(made.log_prob[rows], joint.log_prob(made.actions[rows]))
            near(made.raw_entropy[rows], joint.raw_entropy())
            if again is not None:
                same += int((again[rows] == joint.sample(noise=noise[rows])).all(-1).sum())
        assert again is None or same >= min(ALIKE * case.batch, case.batch - 1), (
            f"{case.batch - same} other actions for the same noise"
        )
        check_masks(case, engine, states, totals)

    return lambda: step(states, logits, totals, out=out), verify


def update(case: Case, step: em.DecisionStep, states: Tensor, totals: Tensor, logits: Tensor) -> tuple[Run, Verify]:
    """Our scores of given actions under ready masks, and their gradient."""
    engine = step.engine
    masks, leaf = engine(states, totals), logits.clone().requires_grad_()
    with torch.no_grad():
        actions = em.FactoredCategorical(logits, masks).sample()

    def run() -> tuple[Tensor, Tensor]:
        leaf.grad = None
        made = step.evaluate(leaf, masks, actions)
        score = made.log_prob + made.raw_entropy
        score.sum().backward()
        assert leaf.grad is not None
        return score.detach(), leaf.grad

    def verify(result: tuple[Tensor, Tensor]) -> None:
        for rows in _pieces(case.batch):
            own = logits[rows].clone().requires_grad_()
            joint = em.FactoredCategorical(own, masks.select(rows))
            score = joint.log_prob(actions[rows]) + joint.raw_entropy()
            score.sum().backward()
            near(result[0][rows], score)
            near(result[1][rows], own.grad)

    return run, verify


def words(case: Case, step: em.DecisionStep, states: Tensor, totals: Tensor) -> tuple[Run, Verify]:
    """Our masks alone, as words."""
    engine = step.engine

    def verify(masks: em.ActionMasks) -> None:
        expected = engine(states, totals)
        assert torch.equal(masks.slot_words, expected.slot_words)
        assert torch.equal(masks.op_words, expected.op_words)
        check_masks(case, engine, states, totals)

    return lambda: step.masks(states, totals), verify


def objects(case: Case, engine: em.MaskEngine, states: Tensor, totals: Tensor) -> tuple[Run, Verify]:
    """Our masks from the Python objects that a loop begins with, packed at each call."""
    dicts = state_dicts(engine, states)
    seeds = [{slot: None if seed is None else em.SlotState(*seed) for slot, seed in env.items()} for env in dicts]

    def verify(made: em.ActionMasks) -> None:
        assert torch.equal(made.slot_words, engine(states, totals).slot_words)
        check_masks(case, engine, states, totals)

    return lambda: engine(engine.pack_slots(seeds), totals), verify


def bools(case: Case, engine: em.MaskEngine, states: Tensor, totals: Tensor) -> tuple[Run, Verify]:
    """What the loops give: a bool mask for each head, and ``slot_by_op`` where the original has it."""
    with_slot_by_op = case.rules == "esper-2026-06"

    def masks(states: Tensor, totals: Tensor) -> dict[str, Tensor]:
        made = engine(states, totals)
        return {**{head: made[head] for head in made}, **({"slot_by_op": made.slot_by_op} if with_slot_by_op else {})}

    def verify(made: dict[str, Tensor]) -> None:
        same_masks(made, engine(states, totals))
        check_masks(case, engine, states, totals)

    function = torch.compile(masks, fullgraph=True) if case.is_built else masks
    return lambda: function(states, totals), verify


def same_masks(made: Mapping[str, Any], expected: em.ActionMasks) -> None:
    """Bool masks of heads, and ``slot_by_op``, are those that are expected."""
    for head, mask in made.items():
        if head in expected or head == "slot_by_op":
            ours = expected.slot_by_op if head == "slot_by_op" else expected[head]
            assert torch.equal(ours.cpu(), torch.as_tensor(mask).cpu()), head


def loop(case: Case, engine: em.MaskEngine, states: Tensor, totals: Tensor, logits: Tensor) -> tuple[Run, Verify]:
    """Masks environment by environment, then torch's ``Categorical`` head by head: what the engine replaces.

    The masks are made on the CPU and moved once, which on a GPU is kinder than what such loops do.
    """
    function = getattr(LOOP_MODULES[case.rules], "small_tensors" if case.way == LOOPS[0] else "one_tensor")
    ids, counts = list(engine.slot_ids), totals.tolist()
    dicts = state_dicts(engine, states)
    sizes = [head.size for head in engine.layout.heads]

    def masks() -> dict[str, Tensor]:
        return {head: mask.to(logits.device) for head, mask in function(dicts, ids, ids, counts, LIMIT).items()}

    def decide() -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        made = masks()
        parts = zip(engine.layout.head_names, logits.split(sizes, -1))
        heads = [torch.distributions.Categorical(logits=part.masked_fill(~made[name], FILL)) for name, part in parts]
        actions = [head.sample() for head in heads]
        scores = [head.log_prob(action) for head, action in zip(heads, actions)]
        entropies = [head.entropy() for head in heads]
        return made, torch.stack(actions, -1), torch.stack(scores).sum(0), torch.stack(entropies).sum(0)

    def verify_masks(made: dict[str, Tensor]) -> None:
        same_masks(made, engine(states, totals))

    def verify(result: tuple[dict[str, Tensor], Tensor, Tensor, Tensor]) -> None:
        made, actions, log_prob, entropy = result
        verify_masks(made)
        head_masks = [made[name] for name in engine.layout.head_names]
        assert all(m.gather(1, a[:, None]).all() for m, a in zip(head_masks, actions.unbind(-1)))
        for value, other in zip((log_prob, entropy), separate(logits, head_masks, actions)):
            near(value, other)

    return (masks, verify_masks) if case.work == "words" else (decide, verify)


def check_masks(case: Case, engine: em.MaskEngine, states: Tensor, totals: Tensor) -> None:
    """The engine's masks of the first rows are those of a loop, or of the oracle for rules that have no loop."""
    rows = slice(0, LOOPED if case.rules in LOOP_MODULES else LOOPED // 16)  # the oracle takes its time
    states, totals, ids = states[rows], totals[rows], list(engine.slot_ids)
    if case.rules in LOOP_MODULES:
        made = LOOP_MODULES[case.rules].one_tensor(state_dicts(engine, states), ids, ids, totals.tolist(), LIMIT)
    else:
        made = em.reference.masks(engine.rules, states.tolist(), totals.tolist(), max_seeds=LIMIT)
    same_masks(made, engine(states, totals))


def _step(case: Case, engine: em.MaskEngine) -> em.DecisionStep:
    return em.DecisionStep(engine, mode=cast(Mode, case.way.split(",")[0]))  # prepare sends no other way here


def _pieces(batch: int) -> Iterator[slice]:
    return (slice(start, start + PIECE) for start in range(0, batch, PIECE))
