"""A lifecycle with dynamics of its own, of plain tensors and in place, and the same by plain loops.

Kilns stand empty or fire. A firing kiln gains heat by chance; to stop it sells its heat, and firing costs. No kiln is
lit in every third step. An episode has at most ``horizon`` steps, and may end sooner.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

import esper_masks as em
from esper_masks.decision.given import Given
from esper_masks.decision.step import Mode
from esper_masks.rollout import Dynamics, Outcome

Kiln = IntEnum("Kiln", "EMPTY FIRING", start=0)
Do = IntEnum("Do", "WAIT LIGHT STOP", start=0)
RULES = em.MaskRules(
    name="kilns",
    stages=Kiln,
    transitions={Kiln.EMPTY: [Kiln.FIRING], Kiln.FIRING: [Kiln.EMPTY]},
    empty=Kiln.EMPTY,
    op_rules=[
        em.Op(Do.WAIT, always=True),
        em.Op(Do.LIGHT, enters=Kiln.FIRING, seed_limit=True, when=[em.Row("open", in_=(True,))], uses=["slot"]),
        em.Op(Do.STOP, enters=Kiln.EMPTY, min_age=2, uses=["slot"]),
    ],
    heads=[em.Head("slot"), em.Head("op")],
    row_features={"open": bool},
    slot_ids=["left", "right"],
)
PRICE, EARLY = 0.25, 0.1


class KilnState(NamedTuple):
    heat: Tensor  # float32 [slots, batch]
    states: Tensor
    total_seeds: Tensor
    past: Tensor  # float32 [2, slots, batch]: heat one and two steps ago
    epoch: Tensor
    returns: Tensor


class Kilns(Dynamics):
    def __init__(self, engine: em.MaskEngine, horizon: int = 6):
        super().__init__(engine)
        self.uniforms, self.episode_length = 2, horizon
        slots, self.calls, self.resets = engine.slot_ids, 0, 0  # how often they ran, but for compiled code
        self.obs_names = (*[f"{slot}: {name}" for name in ("firing", "heat", "before") for slot in slots], "time")
        self.fingerprint = self.digest(horizon)

    def fresh(self, batch: int) -> KilnState:
        heat = torch.zeros(len(self.engine.slot_ids), batch, dtype=torch.float32, device=self.engine.device)
        whole, real = torch.zeros_like(heat[0], dtype=torch.int32), torch.zeros_like(heat[0])
        return KilnState(heat, self.engine.empty_slots(batch), whole, torch.stack([heat, heat]), whole.clone(), real)

    def check(self, mode: Mode) -> None:
        super().check(mode)
        self.calls = self.resets = 0

    def given(self, state: KilnState) -> Given:
        return {"row": {"open": state.epoch % 3 != 2}}

    def advance(self, state: KilnState, actions: Tensor, noise: Tensor) -> tuple[KilnState, Outcome]:
        self.calls += not torch.compiler.is_compiling()
        legal = self.masks(state).permits(actions)
        slot, op = actions.unbind(-1)
        at = torch.arange(len(self.engine.slot_ids), device=op.device).unsqueeze(-1) == slot  # [slots, batch]
        lit, stopped = legal & (op == int(Do.LIGHT)) & at, legal & (op == int(Do.STOP)) & at
        stage, age = state.states.unbind(-1)
        fires = ((int(Kiln.FIRING) == stage.T) | lit) & ~stopped
        heat = torch.where(fires, state.heat + noise[:, 0], 0)
        cost = PRICE * fires.sum(0)
        reward = torch.where(stopped, state.heat, 0).sum(0) - cost
        ages = torch.where(lit | stopped, 0, age.T) + fires
        states = torch.stack([fires.int(), ages.int()]).permute(2, 1, 0)
        ends = (state.epoch + 1 >= self.episode_length) | (noise[:, 1] < EARLY)
        seeds = state.total_seeds + lit.sum(0, dtype=torch.int32)
        past = torch.stack([state.heat, state.past[0]])
        after = state._replace(heat=heat, states=states, total_seeds=seeds, past=past)
        return after, Outcome(reward, ends, ~legal)

    def reset(self, state: KilnState, where: Tensor) -> KilnState:
        self.resets += not torch.compiler.is_compiling()
        made: KilnState = super().reset(state, where)
        return made

    def observe(self, state: KilnState) -> Tensor:
        rows = [(int(Kiln.FIRING) == state.states[..., 0].T).float(), state.heat, state.past[1]]
        time = state.epoch.float() / self.episode_length
        return torch.cat([*rows, time.unsqueeze(0)]).movedim(0, -1)


class KilnsInPlace(Kilns):
    modes, in_place = ("eager",), True

    def advance(self, state: KilnState, actions: Tensor, noise: Tensor) -> tuple[KilnState, Outcome]:
        after, outcome = super().advance(state, actions, noise)
        for mine, new in zip(state, after):
            mine.copy_(new)
        return state, outcome

    def reset(self, state: KilnState, where: Tensor) -> KilnState:
        for mine, new in zip(state, super().reset(state, where)):
            mine.copy_(new)
        return state

    def heuristic(self, state: KilnState) -> Tensor:
        """Stop a kiln that is old enough, the first of them, or else light one."""
        may = self.masks(state).slot_by_op  # [batch, ops, slots]
        op = torch.where(may[:, Do.STOP].any(-1), int(Do.STOP), torch.where(may[:, Do.LIGHT].any(-1), int(Do.LIGHT), 0))
        slot = may[torch.arange(len(op)), op].int().argmax(-1)
        return torch.stack([torch.where(op > 0, slot, 0), op], -1)


@dataclass
class Twin:
    """One environment, by plain loops over Python numbers."""

    horizon: int = 6
    max_seeds: int = 0
    fires: list[bool] = field(default_factory=lambda: [False, False])
    age: list[int] = field(default_factory=lambda: [0, 0])
    heat: list[list[float]] = field(default_factory=lambda: [[0.0] * 3, [0.0] * 3])  # now, and before
    epoch: int = 0
    seeds: int = 0
    returns: float = 0.0

    def is_legal(self, slot: int, op: int) -> bool:
        if op == Do.WAIT:
            return True
        if slot not in (0, 1) or op not in (Do.LIGHT, Do.STOP):
            return False
        if op == Do.STOP:
            return self.fires[slot] and self.age[slot] >= 2
        room = self.max_seeds == 0 or self.seeds < self.max_seeds
        return not self.fires[slot] and room and self.epoch % 3 != 2

    def step(self, action: Sequence[int], noise: Sequence[float]) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal; not yet the next episode."""
        slot, op = action
        legal, reward = self.is_legal(slot, op), 0.0
        for at in range(2):
            acted = legal and op != Do.WAIT and at == slot
            if acted and op == Do.STOP:
                self.fires[at], self.age[at] = False, 0
                reward += self.heat[at][0]
            if acted and op == Do.LIGHT:
                self.fires[at], self.age[at], self.seeds = True, 0, self.seeds + 1
            self.age[at] += self.fires[at]
            now = self.heat[at][0] + noise[0] if self.fires[at] else 0.0
            self.heat[at] = [now, *self.heat[at][:2]]
        reward -= PRICE * sum(self.fires)
        self.epoch, self.returns = self.epoch + 1, self.returns + reward
        return reward, self.epoch >= self.horizon or noise[1] < EARLY, legal

    def observe(self) -> list[float]:
        heats = [self.heat[at][0] for at in range(2)], [self.heat[at][2] for at in range(2)]
        return [*map(float, self.fires), *heats[0], *heats[1], self.epoch / self.horizon]
