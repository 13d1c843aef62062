"""The lifecycles of 2025: ops move seeds along the edges of the rules, and stages are left by themselves after a time.

How long a stage lasts is the affair of the dynamics that have such a lifecycle.
"""

from typing import Any

import torch
from torch import Tensor

from esper_masks.errors import RulesError
from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.choices import is_any, one_hot
from esper_masks.rollout.env.dynamics import BLUEPRINT
from esper_masks.rollout.env.mechanics import Mechanics


class Dwells:
    """How slots move, in numbers of stages and ops. Values of slots are ``[slots, batch]``.

    Args:
        engine: has the rules.
        mechanics: what the lifecycle does by itself; they fit the rules.
        who: has this lifecycle, for errors.

    Attributes:
        empty: the stage of an empty slot.
        kept: that of a seed that stays.
        blending: the one in which a seed's share in the network rises.
        full: those in which it is 1.
        without_seed: those of slots without a seed.
        waiting: those in which a seed waits for a decision.
        advances: pairs: a stage that is left by itself, and the one after it.
        moves: triples: an op, a stage in which it is legal, and the one to which it leads.
        stages: all that can be reached.
        blueprints: choices of a blueprint that are ever legal.

    Raises:
        RulesError: rules without blueprints, or without an op that fills a slot; or in which an op does more than to
            move its slot.
    """

    def __init__(self, engine: MaskEngine, mechanics: Mechanics, who: str):
        rules, layout = engine.rules, engine.layout
        for op in rules.op_rules:
            moving = [head.name for head in rules.slot_heads if head.name in op.uses and (head.moves or head.sets)]
            more = [f"sets {', '.join(op.sets)}"] if op.sets else []
            if more := more + [f"moves or sets the slot of the head {name!r}" for name in moving]:
                raise RulesError(
                    f"op {op.name} of {rules.name} {' and '.join(more)}, and in {who} ops only move their own slot: "
                    "give dynamics of your own"
                )
        if BLUEPRINT not in layout.head_names:
            raise RulesError(f"{rules.name} has no head {BLUEPRINT!r}, by which seeds differ")
        stage = {member.name: int(member) for member in rules.stages}
        self.empty, self.kept, self.blending = int(rules.empty), stage[mechanics.kept], stage[mechanics.blending]
        self.full = tuple(stage[name] for name in mechanics.full)
        self.without_seed = (self.empty, *(stage[name] for name in mechanics.cleared))
        self.advances = tuple((stage[source], stage[target]) for source, target in mechanics.advances.items())
        self.waiting = tuple(s for s in self.full if s != self.kept and s not in dict(self.advances))
        self.moves = tuple(
            (int(op.id), int(source), int(target))
            for op in rules.op_rules
            for source, target in sorted(rules.edges(op.id).items())
        )
        if not any(source == self.empty and target not in self.without_seed for _, source, target in self.moves):
            raise RulesError(f"no op of {rules.name} fills an empty slot")
        reached = {self.empty, *(s for pair in self.advances for s in pair), *(target for _, _, target in self.moves)}
        self.stages = tuple(sorted(reached))
        head = layout.head(BLUEPRINT)
        self.blueprints = tuple(sorted({c for op, row in enumerate(head.by_op) if head.users >> op & 1 for c in row}))
        self.seen = [f"stage {rules.stages(number).name}" for number in self.stages]
        self.seen += [f"blueprint {head.choices[number]}" for number in self.blueprints]
        self.seen += ["age", "epochs in stage"]
        self.rules, self.further = rules.name, len(engine.feature_names) - 2

    def entered(self, stage: Tensor, op: Tensor, acted: Tensor) -> Tensor:
        """Stages after an op.

        Args:
            stage: before it.
            op: int32 ``[batch]``.
            acted: bool, the slot in which it acts; none where the action is illegal.
        """
        entered = stage
        for number, source, target in self.moves:
            entered = torch.where(acted & (op == number) & (stage == source), target, entered)
        return entered

    def share(self, stage: Tensor, elapsed: Tensor, dwell: Tensor | int) -> Tensor:
        """The share of each seed in the network, float32: it rises by equal steps in BLENDING, and then it is 1.

        Args:
            stage: in which it is.
            elapsed: epochs there, with the one that begins.
            dwell: epochs after which the stage is left, at least 1.
        """
        full = is_any(stage, self.full).float()
        return torch.where(stage == self.blending, (elapsed.float() / dwell).clamp_max(1), full)

    def left(self, stage: Tensor, due: Tensor) -> Tensor:
        """Stages after those that are due, bool, were left by themselves."""
        following = stage
        for source, target in self.advances:
            following = torch.where((stage == source) & due, target, following)
        return following

    def op(self, what: str) -> int:
        """The op that fills an empty slot, keeps a seed or culls it: ``"fill"``, ``"keep"`` or ``"cull"``.

        Raises:
            RulesError: there is none.
        """
        for op, source, target in self.moves:
            fills, clears = source == self.empty, target in self.without_seed
            if {"fill": fills and not clears, "keep": target == self.kept, "cull": clears and not fills}[what]:
                return op
        raise RulesError(f"no op of {self.rules} could {what} a seed")

    def states(self, stage: Tensor, age: Tensor) -> Tensor:
        """Slot states ``[batch, slots, features]``; further features are 0."""
        further = [torch.zeros_like(age)] * self.further
        return torch.stack([stage, age, *further]).permute(2, 1, 0)

    def judged(self, state: Any) -> Tensor:
        """Which seeds wait for a decision, bool."""
        return is_any(state.states[..., 0].movedim(-1, 0), self.waiting)

    def onward(self, state: Any) -> Tensor:
        """The op by which each seed comes nearer to be kept, if it is time for one, else -1; int32."""
        judged = self.judged(state)
        return torch.where(judged, self.op("keep"), -torch.ones_like(judged, dtype=torch.int32))

    def rows(self, state: Any, length: int) -> list[Tensor]:
        """What is observed of slots, in the order of ``seen``: each float32.

        Args:
            state: with ``elapsed`` and ``blueprint`` of slots, each int32.
            length: epochs of an episode.
        """
        stage, age = (state.states[..., column].movedim(-1, 0) for column in (0, 1))
        held = ~is_any(stage, self.without_seed)
        of_blueprints = [((state.blueprint == number) & held).float() for number in self.blueprints]
        return [*one_hot(stage, self.stages), *of_blueprints, age.float() / length, state.elapsed.float() / length]
