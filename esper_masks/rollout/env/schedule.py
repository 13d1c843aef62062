"""The lifecycle of June 2026: what an op does to slots, and the tick after it.

A share rises by schedules, stages are left by ops through gates, and slots cool down. What a seed is worth, and whether
the gates find it healthy, is the affair of the dynamics that have this lifecycle.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from esper_masks.errors import RulesError
from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.choices import is_any, one_hot, one_of
from esper_masks.rollout.env.dynamics import BLUEPRINT
from esper_masks.rollout.env.ramps import RAMPS, SIDE, SPEEDS, TARGETS, TEMPOS
from esper_masks.rules import MaskRules
from esper_masks.rules.names import AGE, OP, SLOT, STAGE
from esper_masks.rulesets.esper_2026_06 import RULES, AlphaMode, LifecycleOp, SeedStage

# plain numbers: compiled code takes a comparison of a tensor with a member of an enum for False
DORMANT, GERMINATED, TRAINING, BLENDING, HOLDING, FOSSILIZED, PRUNED, EMBARGOED, RESETTING = (
    int(stage) for stage in SeedStage if stage != SeedStage.UNKNOWN
)
HOLD, UP, DOWN = (int(mode) for mode in AlphaMode)
STAGES = (DORMANT, GERMINATED, TRAINING, BLENDING, HOLDING, FOSSILIZED, PRUNED, EMBARGOED, RESETTING)
WITH_SEED = (GERMINATED, TRAINING, BLENDING, HOLDING, FOSSILIZED)
MOVES: Sequence[tuple[int, int]] = (
    *((DORMANT, GERMINATED), (GERMINATED, TRAINING), (TRAINING, BLENDING), (BLENDING, HOLDING)),
    *((HOLDING, BLENDING), (HOLDING, FOSSILIZED), (GERMINATED, PRUNED), (TRAINING, PRUNED), (BLENDING, PRUNED)),
    *((HOLDING, PRUNED), (PRUNED, EMBARGOED), (EMBARGOED, RESETTING), (RESETTING, DORMANT)),
)

MOVING = tuple(op for op in LifecycleOp if op != LifecycleOp.WAIT)
FILL, KEEP, CULL = (int(op) for op in (LifecycleOp.GERMINATE, LifecycleOp.FOSSILIZE, LifecycleOp.PRUNE))
ADVANCE = int(LifecycleOp.ADVANCE)
GATES = {"G1": GERMINATED, "G2": TRAINING, "G3": BLENDING}  # those that may open by themselves, and out of what
LEAST = 10  # epochs in TRAINING before G2; if strict, in BLENDING before G3
EMBARGO = 5  # a slot leaves EMBARGOED at a tick that brings its count of epochs there to this

SIGMOID_ADD, SIGMOID = 2, 3  # a style, and a curve: the first ramp of that style; those of other styles are linear


class Moved(NamedTuple):
    """What op, tick and counters make of slots, each ``[slots, batch]``."""

    born: Tensor  # bool: seeds that germinated
    held: Tensor  # bool: slots with a seed, after the tick
    kept: Tensor  # bool: fossils
    faded: Tensor  # bool: seeds whose share went down in a ramp
    fields: dict[str, Tensor]  # those of the next state that are of this lifecycle


class Schedule(nn.Module):
    """How slots move under ``esper-2026-06``. ``docs/environment-june.md`` has the facts one by one.

    States have these fields of it, beside ``states`` and ``total_seeds``, each ``[slots, batch]``; what a slot has no
    seed for is 0:

        in_stage   int32: epochs since the last move, cooldowns included
        blueprint  int32
        style      int32
        tempo      int32: epochs of the first ramp
        goal       float32: target of the first ramp
        alpha      float32: the share of the seed in the network
        velocity   float32: alpha less alpha an epoch ago
        start      float32: alpha at which the ramp began
        target     float32: alpha at which it ends; 0 for a seed that is being pruned
        steps      int32: epochs of the ramp
        done       int32: those that are over
        curve      int32

    Args:
        engine: has the rules.
        who: has this lifecycle, for errors.
        automatic: see ``ScheduledDynamics``.
        strict: see ``ScheduledDynamics``.

    Raises:
        RulesError: other rules.
        ValueError: an argument of another kind, or gates by which no seed could get on.
    """

    empty, kept = DORMANT, FOSSILIZED
    without_seed = tuple(stage for stage in STAGES if stage not in WITH_SEED)
    ramps: Tensor

    def __init__(self, engine: MaskEngine, who: str, *, automatic: Sequence[str] = (), strict: bool = False):
        super().__init__()
        some = isinstance(automatic, Collection) and not isinstance(automatic, str)
        if not some or any(gate not in tuple(GATES) for gate in automatic):
            raise ValueError(f"automatic must be some of {tuple(GATES)}, got {automatic!r:.80}")
        if type(strict) is not bool:
            raise ValueError(f"strict must be True or False, got {strict!r:.80}")
        _check_rules(engine, who)
        layout = engine.layout
        closed = {gate: stage for gate, stage in GATES.items() if gate not in automatic}
        advances = layout.possible >> ADVANCE & 1
        if not closed and advances:
            raise ValueError(
                "automatic has all three gates, and then the original masks ADVANCE: give disable_advance=True, too"
            )
        if closed and not advances:
            gate, stage = next(iter(closed.items()))
            raise ValueError(
                f"no seed could ever advance from {SeedStage(stage).name}: ADVANCE is disabled and automatic, "
                f"{automatic!r:.80}, lacks {gate}; give all of {tuple(GATES)}"
            )
        self.automatic, self.strict = tuple(gate for gate in GATES if gate in automatic), strict
        head, self.styles = layout.head(BLUEPRINT), layout.head("style").choices
        self.blueprints = tuple(sorted(head.by_op[FILL]))
        self.register_buffer("ramps", torch.tensor(RAMPS, dtype=torch.float32, device=engine.device), persistent=False)
        self.seen = [f"stage {SeedStage(number).name}" for number in STAGES]
        self.seen += [f"blueprint {head.choices[number]}" for number in self.blueprints]
        self.seen += [f"style {name}" for name in self.styles]
        self.seen += ["age", "epochs in stage", "tempo", "goal", "alpha", "alpha velocity", "target", "alpha mode"]
        self.seen += ["steps", "steps done", "steps left"]

    def move(
        self,
        old: Any,
        heads: Mapping[str, Tensor],
        acted: Tensor,
        healthy: Callable[[Tensor, Tensor], Tensor],
        worthy: Tensor | bool = True,
    ) -> Moved:
        """What an op, the tick, and the counters of the next epoch make of slots.

        Args:
            old: the state before.
            heads: actions, each int32 ``[batch]``.
            acted: bool ``[slots, batch]``, the slot in which an action acts; none where it is illegal.
            healthy: of blueprints and styles after the op: which seeds G2 finds healthy, bool ``[slots, batch]``.
            worthy: bool ``[slots, batch]``: which seeds G5 lets pass.
        """
        stage, age, mode = (old.states[..., column].movedim(-1, 0) for column in range(3))  # [slots, batch]

        # 1. the op
        born, retargets, prunes, fossilizes, advances = (acted & (heads[OP] == int(op)) for op in MOVING)
        blueprint = torch.where(born, heads[BLUEPRINT], old.blueprint)
        style = torch.where(born | retargets, heads["style"], old.style)
        tempo = torch.where(born, one_of(heads["tempo"], TEMPOS).int(), old.tempo)
        wanted = one_of(heads["alpha_target"], TARGETS)  # [batch]
        goal = torch.where(born, wanted, old.goal)
        passes = healthy(blueprint, style)
        there = (old.target == 1) & (old.alpha == 1) & (mode == HOLD)
        to_blending = advances & (stage == TRAINING) & passes & (old.in_stage >= LEAST)
        to_holding = advances & (stage == BLENDING) & there & self._is_long(old.in_stage)
        fossilized = fossilizes & worthy
        epochs = one_of(heads["alpha_speed"], SPEEDS).int()
        at_once = prunes & ((epochs == 0) | (old.alpha == 0))
        fades = prunes & ~at_once & (mode == HOLD)  # a ramp begins from HOLD alone

        begins = retargets | fades
        start = torch.where(begins, old.alpha, old.start)
        target = torch.where(fades, 0, torch.where(retargets, wanted, old.target))
        steps = torch.where(begins, epochs, old.steps)
        done = torch.where(begins, 0, old.done)
        curve = torch.where(begins, heads["alpha_curve"], old.curve)
        alpha = torch.where(begins & (epochs == 0), target, old.alpha)
        mode = torch.where(begins, (target > alpha).int() * UP + (target < alpha).int() * DOWN, mode)  # HOLD is 0

        after = torch.where(born, GERMINATED, stage)
        after = torch.where(advances & (stage == GERMINATED), TRAINING, after)
        after = torch.where(to_blending, BLENDING, after)
        after = torch.where(to_holding, HOLDING, after)
        after = torch.where(begins & (stage == HOLDING) & (target < 1), BLENDING, after)
        after = torch.where(fossilized, FOSSILIZED, after)
        after = torch.where(at_once, PRUNED, after)
        in_stage = torch.where(after != stage, 0, old.in_stage)

        # 2. the tick: at most one move. What begins here goes on in the next one
        risen = torch.zeros_like(to_blending)
        if "G2" in self.automatic:
            risen = (after == TRAINING) & passes & (in_stage >= LEAST)
        enters = to_blending | risen
        start, target = torch.where(enters, 0, start), torch.where(enters, goal, target)
        steps, done = torch.where(enters, tempo, steps), torch.where(enters, 0, done)
        mode = mode.masked_fill(enters, UP)
        curve = torch.where(enters, (style == SIGMOID_ADD).int() * SIGMOID, curve)  # LINEAR is 0
        ticks, down = (after == BLENDING) & (mode != HOLD), mode == DOWN
        done = done + ticks.int()
        arrives = ticks & (done >= steps)
        alpha = torch.where(arrives, target, torch.where(ticks, self._ramp(start, target, curve, steps, done), alpha))
        mode = mode.masked_fill(arrives, HOLD)
        following = torch.where(arrives & (target == 0), PRUNED, after)
        following = torch.where(risen, BLENDING, following)
        if "G1" in self.automatic:
            following = torch.where(after == GERMINATED, TRAINING, following)
        if "G3" in self.automatic:
            there = (after == BLENDING) & (target == 1) & (alpha == 1) & (mode == HOLD)
            following = torch.where(there & self._is_long(in_stage), HOLDING, following)
        in_stage = in_stage + (after == EMBARGOED).int()
        following = torch.where(after == PRUNED, EMBARGOED, following)
        following = torch.where((after == EMBARGOED) & (in_stage >= EMBARGO), RESETTING, following)
        following = torch.where(after == RESETTING, DORMANT, following)

        # 3. counters
        held = is_any(following, WITH_SEED)
        alpha = torch.where(held, alpha, 0)
        ints = {"blueprint": blueprint, "style": style, "tempo": tempo, "steps": steps, "done": done, "curve": curve}
        floats = {"goal": goal, "velocity": alpha - old.alpha, "start": start, "target": target}
        empty = following == DORMANT
        in_stage = torch.where(empty, 0, torch.where(following != after, 0, in_stage) + 1)
        fields = {
            "states": _states(following, torch.where(empty, 0, age + 1), torch.where(held, mode, HOLD)),
            "total_seeds": held.sum(0, dtype=torch.int32),
            "in_stage": in_stage,
            "alpha": alpha,
            **{name: torch.where(held, field, 0) for name, field in {**ints, **floats}.items()},
        }
        return Moved(born, held, following == FOSSILIZED, ticks & down, fields)

    def onward(self, state: Any) -> Tensor:
        """The op by which each seed comes nearer to be kept, if it is time for one, else -1; int32."""
        stage, _, mode = (state.states[..., column].movedim(-1, 0) for column in range(3))
        opens = {"G1": stage == GERMINATED, "G2": (stage == TRAINING) & (state.in_stage >= LEAST)}
        opens["G3"] = (stage == BLENDING) & (state.alpha == 1) & (mode == HOLD) & self._is_long(state.in_stage)
        op = torch.full_like(stage, -1)
        for gate, here in opens.items():
            if gate not in self.automatic:
                op = op.masked_fill(here, ADVANCE)
        return op.masked_fill(self.judged(state), KEEP)

    def judged(self, state: Any) -> Tensor:
        """Which seeds wait for a decision, bool ``[slots, batch]``."""
        judged: Tensor = state.states[..., 0].movedim(-1, 0) == HOLDING
        return judged

    def op(self, what: str) -> int:
        """The op that fills an empty slot, keeps a seed or culls it: ``"fill"``, ``"keep"`` or ``"cull"``."""
        return {"fill": FILL, "keep": KEEP, "cull": CULL}[what]

    def rows(self, state: Any, length: int) -> list[Tensor]:
        """What is observed of slots, in the order of ``seen``: each float32 ``[slots, batch]``.

        Args:
            state: now.
            length: epochs of an episode.
        """
        stage, age, mode = (state.states[..., column].movedim(-1, 0) for column in range(3))
        held, longest = is_any(stage, WITH_SEED), max(SPEEDS)
        rows = one_hot(stage, STAGES)
        rows += [((state.blueprint == b) & held).float() for b in self.blueprints]
        rows += [((state.style == s) & held).float() for s in range(len(self.styles))]
        rows += [age.float() / length, state.in_stage.float() / length]
        rows += [state.tempo.float() / longest, state.goal, state.alpha, state.velocity, state.target]
        rows += [(mode == UP).float() - (mode == DOWN).float()]
        return rows + [value.float() / longest for value in (state.steps, state.done, state.steps - state.done)]

    def cleared(self, states: Tensor, where: Tensor) -> Tensor:
        """Slot states, all empty where, bool ``[batch]``, an episode begins."""
        stage, age, mode = (states[..., column].movedim(-1, 0) for column in range(3))
        return _states(torch.where(where, DORMANT, stage), torch.where(where, 0, age), torch.where(where, HOLD, mode))

    # -- parts --------------------------------------------------------------------------------------------------------

    def _is_long(self, in_stage: Tensor) -> Tensor:
        """Whether G3 finds a seed long enough in its stage."""
        return in_stage >= (LEAST if self.strict else 0)

    def _ramp(self, start: Tensor, target: Tensor, curve: Tensor, steps: Tensor, done: Tensor) -> Tensor:
        """Alpha after some epochs of a ramp, float32 ``[slots, batch]``."""
        return start + (target - start) * self.ramps[(curve * SIDE + steps) * SIDE + done]


def _states(*columns: Tensor) -> Tensor:
    """Slot states of columns ``[slots, batch]``."""
    return torch.stack(columns).permute(2, 1, 0)


def _check_rules(engine: MaskEngine, who: str) -> None:
    """Raise ``RulesError`` for rules under which the facts of ``esper-2026-06`` say nothing."""
    rules, layout = engine.rules, engine.layout
    stages, ops = ({member.name: int(member) for member in enum} for enum in (rules.stages, rules.ops))
    choices = {head.name: head.choices for head in layout.heads if head.name != SLOT}
    for what, got, wanted in (
        ("stages", stages, {stage.name: int(stage) for stage in SeedStage}),
        ("ops", ops, {op.name: int(op) for op in LifecycleOp}),
        ("features", engine.feature_names, (STAGE, AGE, "alpha_mode")),
        ("heads", choices, {**{h.name: h.choices for h in RULES.heads if h.choices}, OP: RULES.op_names}),
    ):
        if got != wanted:
            raise RulesError(
                f"{what} of {rules.name} are {got!r:.80}, and {who} knows what those of "
                f"{RULES.name} do: give dynamics of your own"
            )
    for op, shipped in zip(rules.op_rules, RULES.op_rules):
        known = _ways(RULES, shipped.id)
        for stage, to in _ways(rules, op.id).items():
            if known.get(stage) == to:
                continue
            here, there = f"may be legal in {SeedStage(stage).name}", "it is not"
            if stage in known:
                here = f"leads from {SeedStage(stage).name} to {SeedStage(to).name}"
                there = f"to {SeedStage(known[stage]).name}"
            raise RulesError(
                f"{op.name} of {rules.name} {here}, under {RULES.name} {there}, and {who} knows "
                "what it does there: give dynamics of your own"
            )
    for source, to in MOVES:
        if rules.stages(to) not in rules.transitions[rules.stages(source)]:
            names = rules.stages(source).name, rules.stages(to).name
            raise RulesError(f"{rules.name} has no transition {names[0]} to {names[1]}, which {who} takes")


def _ways(rules: MaskRules, op: IntEnum) -> dict[int, int]:
    """Stage in which an op may be legal -> the stage in which a slot is after it, that one where the op only acts."""
    edges = rules.edges(op)
    return {int(stage): int(edges.get(stage, stage)) for stage in sorted(rules.legal_stages(op))}
