"""What a row runs, and the check of its outputs that comes before any timing."""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

import esper_masks as em
from esper_masks.bench import cases, checking, dropin, loops, loops_pods, networks, training
from esper_masks.bench.cases import LOOPS, Case, Run, Verify
from esper_masks.bench.checking import Scored, draw, scores, with_gradient
from esper_masks.bench.inputs import LIMIT, Decision, Head
from esper_masks.bench.libraries import INDEPENDENT, LIBRARIES, ours_decision
from esper_masks.bench.lifecycles import PODS, rules_of
from esper_masks.bench.loops import stacked
from esper_masks.compiled.torch_private import mark_dynamic
from esper_masks.decision.step import Mode

# else row-major rows of few actions are taken one by one
ALL_ROWS_AT_ONCE: dict[str, Any] = {"cpp.enable_tiling_heuristics": False}


def prepare(case: Case, device: str, step: em.DecisionStep | None = None, *, alike: bool = True) -> tuple[Run, Verify]:
    """What is timed, and the check of what it gives: an AssertionError where that is not what it should be.

    Args:
        case: the row.
        device: "cpu" or "cuda".
        step: ours, of ``make_step`` for this row but for the batch: what it has compiled serves. By default a new one.
        alike: whether actions for given noise are compared with those of eager code, for which one more graph is built.
    """
    if case.work in cases.TRAININGS:
        return training.prepare(case)
    if case.work.startswith(cases.EPOCH):
        return networks.prepare(case, device)
    if case.work == "dropin":
        return dropin.prepare(case)
    if case.width:
        return distribution(case, Head(case.width, case.batch, case.layout))
    inputs = Decision(make_engine(case, device) if step is None else step.engine, case.batch, case.layout)
    if case.way in cases.LIBRARY_WAYS:
        return distribution(case, inputs)
    if case.work == "words":
        return words(case, inputs, step)
    if case.way in LOOPS:
        return loop(case, inputs)
    step = _step(case, inputs.engine) if step is None else step
    return update(step, inputs) if case.is_update else decision(case, step, inputs, alike)


def make_engine(case: Case, device: str) -> em.MaskEngine:
    """The engine of a row."""
    rules = rules_of(case.rules)
    limit = LIMIT if any(op.seed_limit for op in rules.op_rules) else 0
    return em.MaskEngine(rules, case.slot_ids, max_seeds=limit, device=device)


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

    def forward(logits: Tensor, masks: Any) -> Scored:
        return draw(make, logits, masks)

    def score(logits: Tensor, masks: Any, action: Tensor) -> tuple[Tensor, ...]:
        return scores(make(logits, masks), action)

    function: Any = score if case.is_update else forward
    if case.is_built:
        options = ALL_ROWS_AT_ONCE if case.way == cases.VECTORIZED else None
        function = torch.compile(function, fullgraph=True, options=options)
    if case.way == cases.ANY_BATCH:
        for tensor in tree_leaves((leaf, masks, given)):
            mark_dynamic(tensor, 0)

    def run() -> Scored:
        if case.is_update:
            return with_gradient(lambda logits: function(logits, masks, given), leaf, given)
        with torch.no_grad():
            made: Scored = function(leaf, masks)
        return made

    def verify(made: Scored) -> dict[str, float]:
        checking.check_scores(expected[0], inputs.logits, expected[1], made)
        if isinstance(inputs, Head):
            return {}
        if library is ours:
            checking.check_oracle(inputs, made)
        return {} if case.is_update else {"illegal_share": checking.illegal_share(inputs, made)}

    return run, verify


def decision(case: Case, step: em.DecisionStep, inputs: Decision, alike: bool) -> tuple[Run, Verify]:
    """Our step from states: legal, scored as the distribution in eager code scores, on masks that a loop makes too."""
    states, totals, logits, given = inputs.states, inputs.totals, inputs.logits, inputs.given
    masked = tuple(given.get("head_masks", ()))
    out = step.allocate(case.batch, head_masks=masked) if case.memory == "allocated" else None

    def verify(made: em.Decision) -> None:
        made = tree_map_only(Tensor, torch.clone, made)  # a CUDA graph writes the next call to the same place
        assert made.raw_entropy is not None
        assert made.slot_words is not None
        # all their bits: ``from_words`` ignores those of no op
        assert torch.equal(made.slot_words.to(inputs.masks.slot_words), inputs.masks.slot_words), (
            "words are not those of the engine"
        )
        checking.check_masks(inputs, checking.masks_of(step.engine.layout, made))
        scored = Scored(made.actions, (made.log_prob, made.raw_entropy))
        checking.check_scores(ours_decision, logits, inputs.masks, scored)
        if alike:
            checking.check_draws(step, inputs)

    return lambda: step(states, logits, totals, out=out, **given), verify


def update(step: em.DecisionStep, inputs: Decision) -> tuple[Run, Verify]:
    """Our scores of given actions under ready masks, and their gradient."""
    masks, leaf, given = inputs.masks, inputs.logits.clone().requires_grad_(), inputs.action

    def score(logits: Tensor) -> tuple[Tensor, Tensor]:
        made = step.evaluate(logits, masks, given)
        return made.log_prob, made.raw_entropy

    run = partial(with_gradient, score, leaf, given)
    return run, partial(checking.check_scores, ours_decision, inputs.logits, masks)


def words(case: Case, inputs: Decision, step: em.DecisionStep | None) -> tuple[Run, Verify]:
    """Masks alone, and the check of them; of ours in eager code it gives the number of calls of torch, too."""
    run = masks(case, inputs, step)

    def verify(made: em.ActionMasks | dict[str, Tensor]) -> dict[str, int]:
        checking.check_masks(inputs, made)
        return {"aten_ops": checking.aten_ops(run)} if case.way == "eager" else {}

    return run, verify


def masks(case: Case, inputs: Decision, step: em.DecisionStep | None = None) -> Run:
    """Masks alone: words of ours, or what the loops give, a bool mask for each head and ``slot_by_op`` if they have it.

    Where a loop begins with Python objects, "from objects" does so too, and packs them at each call.
    """
    engine, states, totals, given = inputs.engine, inputs.states, inputs.totals, inputs.given

    def as_bools(states: Tensor, totals: Tensor) -> dict[str, Tensor]:
        made = engine(states, totals, **given)
        by_op = {"slot_by_op": made.slot_by_op} if case.rules == "esper-2026-06" else {}
        return {**{head: made[head] for head in made}, **by_op}

    if case.way in LOOPS:
        ids, counts, device = list(engine.slot_ids), totals.tolist(), inputs.logits.device
        is_usual, dicts = case.way == LOOPS[0], inputs.dicts
        if case.rules == PODS.name:
            throttled, room = given["row"]["throttled"].tolist(), given["head_masks"]["node"].tolist()
            envs = list(zip(dicts, throttled, room))
            return lambda: stacked([loops_pods.env_masks(pods, ids, *more) for pods, *more in envs])
        looped = partial(loops.small_tensors, case.rules) if is_usual else loops.MODULES[case.rules].one_tensor
        # made on the CPU and moved once, which on a GPU is kinder than what such loops do
        return lambda: {head: mask.to(device) for head, mask in looped(dicts, ids, ids, counts, LIMIT).items()}
    if case.way == cases.FROM_OBJECTS:
        seeds = [{slot: None if v is None else em.SlotState(*v) for slot, v in env.items()} for env in inputs.dicts]
        return lambda: engine(engine.pack_slots(seeds), totals, **given)
    if case.way in cases.BOOLS:
        function = torch.compile(as_bools, fullgraph=True) if case.is_built else as_bools
        return lambda: function(states, totals)
    taken = states.contiguous() if case.way == cases.ROW_MAJOR_STATES else states
    ours = _step(case, engine) if step is None else step
    return lambda: ours.masks(taken, totals, **given)


def loop(case: Case, inputs: Decision) -> tuple[Run, Verify]:
    """Masks environment by environment, then torch's ``Categorical`` head by head: what the engine replaces."""
    looped, names, make = masks(case, inputs), inputs.engine.layout.head_names, LIBRARIES["torch"].decision

    def run() -> tuple[dict[str, Tensor], Scored]:
        made = looped()
        return made, draw(make, inputs.logits, [made[name] for name in names])

    def verify(result: tuple[dict[str, Tensor], Scored]) -> None:
        made, scored = result
        checking.check_masks(inputs, made)
        checking.check_scores(INDEPENDENT.decision, inputs.logits, [made[name] for name in names], scored)

    return run, verify
