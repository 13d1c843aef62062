"""What a row runs, and the check of its outputs that comes before any timing."""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

import esper_masks as em
from esper_masks.bench import dropin, loops, training
from esper_masks.bench.cases import (
    ANY_BATCH,
    BOOLS,
    FROM_OBJECTS,
    LIBRARY_WAYS,
    LOOPS,
    ROW_MAJOR_STATES,
    TRAININGS,
    VECTORIZED,
    Case,
    Run,
    Verify,
)
from esper_masks.bench.checking import (
    Scored,
    check_masks,
    check_oracle,
    check_scores,
    pieces,
    scores,
    with_gradient,
)
from esper_masks.bench.inputs import LIMIT, Decision, Head
from esper_masks.bench.libraries import INDEPENDENT, LIBRARIES, ours_decision
from esper_masks.compiled.torch_private import mark_dynamic
from esper_masks.decision.step import Mode

ALIKE = 0.999  # share of rows whose action must be the same: the noise of others falls within rounding of an edge
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
        return dropin.prepare(case)
    if case.width:
        return distribution(case, Head(case.width, case.batch, case.layout))
    inputs = Decision(make_engine(case, device) if step is None else step.engine, case.batch, case.layout)
    if case.way in LIBRARY_WAYS:
        return distribution(case, inputs)
    if case.work == "words":
        return masks(case, inputs, step), partial(check_masks, inputs)
    if case.way in LOOPS:
        return loop(case, inputs)
    step = _step(case, inputs.engine) if step is None else step
    return update(step, inputs) if case.is_update else decision(case, step, inputs, alike)


def make_engine(case: Case, device: str) -> em.MaskEngine:
    """The engine of a row."""
    return em.MaskEngine(em.ruleset(case.rules), case.slot_ids, max_seeds=LIMIT, device=device)


def make_step(case: Case, device: str) -> em.DecisionStep:
    """Our step of a row, for rows of any batch."""
    return _step(case, make_engine(case, device))


def _step(case: Case, engine: em.MaskEngine) -> em.DecisionStep:
    return em.DecisionStep(engine, mode=cast(Mode, case.way.split(",")[0]))  # prepare sends no other way here


def distribution(case: Case, inputs: Head | Decision) -> tuple[Run, Verify]:
    """A library's distribution of one head or of a decision, given masks that lie ready; ours is not a step here."""
    library, ours = LIBRARIES[case.way.split()[0]], LIBRARIES["ours"]
    (make, masks), expected = library.of(inputs), (ours if library is ours else INDEPENDENT).of(inputs)
    leaf, given = inputs.logits.detach().requires_grad_(), inputs.action

    def draw(logits: Tensor, masks: Any) -> Scored:
        dist = make(logits, masks)
        action = dist.sample()
        return Scored(action, scores(dist, action))

    def score(logits: Tensor, masks: Any, action: Tensor) -> tuple[Tensor, ...]:
        return scores(make(logits, masks), action)

    function: Any = score if case.is_update else draw
    if case.is_built:
        options = ALL_ROWS_AT_ONCE if case.way == VECTORIZED else None
        function = torch.compile(function, fullgraph=True, options=options)
    if case.way == ANY_BATCH:
        for tensor in tree_leaves((leaf, masks, given)):
            mark_dynamic(tensor, 0)

    def run() -> Scored:
        if case.is_update:
            return with_gradient(lambda logits: function(logits, masks, given), leaf, given)
        with torch.no_grad():
            made: Scored = function(leaf, masks)
        return made

    def verify(made: Scored) -> None:
        check_scores(expected[0], inputs.logits, expected[1], made)
        if isinstance(inputs, Decision) and library is ours:
            check_oracle(inputs, made)

    return run, verify


def decision(case: Case, step: em.DecisionStep, inputs: Decision, alike: bool) -> tuple[Run, Verify]:
    """Our step from states: legal, scored as the distribution in eager code scores, on masks that a loop makes too."""
    states, totals, logits = inputs.states, inputs.totals, inputs.logits
    out = step.allocate(case.batch) if case.memory == "allocated" else None

    def verify(made: em.Decision) -> None:
        made = tree_map_only(Tensor, torch.clone, made)  # a CUDA graph writes the next call to the same place
        assert made.raw_entropy is not None
        words = em.ActionMasks.from_words(step.engine.layout, made.slot_words)
        check_masks(inputs, words)
        check_scores(ours_decision, logits, inputs.masks, Scored(made.actions, (made.log_prob, made.raw_entropy)))
        if alike:
            check_draws(step, inputs)

    return lambda: step(states, logits, totals, out=out), verify


def check_draws(step: em.DecisionStep, inputs: Decision) -> None:
    """For given noise, a step draws what the distribution in eager code draws."""
    batch, same = len(inputs.logits), 0
    noise = torch.rand(batch, len(inputs.engine.layout.heads), device=inputs.logits.device)
    actions = step(inputs.states, inputs.logits, inputs.totals, noise=noise).actions
    for rows in pieces(batch):
        drawn = ours_decision(inputs.logits[rows], inputs.masks.select(rows)).sample(noise=noise[rows])
        same += int((actions[rows] == drawn).all(-1).sum())
    assert same >= min(ALIKE * batch, batch - 1), f"{batch - same} other actions for the same noise"


def update(step: em.DecisionStep, inputs: Decision) -> tuple[Run, Verify]:
    """Our scores of given actions under ready masks, and their gradient."""
    masks, leaf, given = inputs.masks, inputs.logits.clone().requires_grad_(), inputs.action

    def score(logits: Tensor) -> tuple[Tensor, Tensor]:
        made = step.evaluate(logits, masks, given)
        return made.log_prob, made.raw_entropy

    return (
        lambda: with_gradient(score, leaf, given),
        lambda made: check_scores(ours_decision, inputs.logits, masks, made),
    )


def masks(case: Case, inputs: Decision, step: em.DecisionStep | None = None) -> Run:
    """Masks alone: words of ours, or what the loops give, a bool mask for each head and ``slot_by_op`` if they have it.

    Where a loop begins with Python objects, "from objects" does so too, and packs them at each call.
    """
    engine, states, totals = inputs.engine, inputs.states, inputs.totals

    def as_bools(states: Tensor, totals: Tensor) -> dict[str, Tensor]:
        made = engine(states, totals)
        by_op = {"slot_by_op": made.slot_by_op} if case.rules == "esper-2026-06" else {}
        return {**{head: made[head] for head in made}, **by_op}

    if case.way in LOOPS:
        ids, counts, device = list(engine.slot_ids), totals.tolist(), inputs.logits.device
        is_usual, dicts = case.way == LOOPS[0], inputs.dicts
        looped = partial(loops.small_tensors, case.rules) if is_usual else loops.MODULES[case.rules].one_tensor
        # made on the CPU and moved once, which on a GPU is kinder than what such loops do
        return lambda: {head: mask.to(device) for head, mask in looped(dicts, ids, ids, counts, LIMIT).items()}
    if case.way == FROM_OBJECTS:
        seeds = [{slot: None if v is None else em.SlotState(*v) for slot, v in env.items()} for env in inputs.dicts]
        return lambda: engine(engine.pack_slots(seeds), totals)
    if case.way in BOOLS:
        function = torch.compile(as_bools, fullgraph=True) if case.is_built else as_bools
        return lambda: function(states, totals)
    taken = states.contiguous() if case.way == ROW_MAJOR_STATES else states
    ours = _step(case, engine) if step is None else step
    return lambda: ours.masks(taken, totals)


def loop(case: Case, inputs: Decision) -> tuple[Run, Verify]:
    """Masks environment by environment, then torch's ``Categorical`` head by head: what the engine replaces."""
    looped, names, make = masks(case, inputs), inputs.engine.layout.head_names, LIBRARIES["torch"].decision

    def run() -> tuple[dict[str, Tensor], Scored]:
        made = looped()
        dist = make(inputs.logits, [made[name] for name in names])
        action = dist.sample()
        return made, Scored(action, scores(dist, action))

    def verify(result: tuple[dict[str, Tensor], Scored]) -> None:
        made, scored = result
        check_masks(inputs, made)
        check_scores(INDEPENDENT.decision, inputs.logits, [made[name] for name in names], scored)

    return run, verify
