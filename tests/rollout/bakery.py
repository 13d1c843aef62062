"""A rule set with everything, its dynamics from the rules alone, and the same by plain loops.

Loaves are kneaded or brought, baked for some time, sold, or burnt. A second slot, sets, clocks, rows of each kind,
masks of a head by slot, a seed limit; the stages have gaps, and an empty slot is no 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from esper_masks import reference
from esper_masks.rollout import RuleDynamics

Loaf = IntEnum("Loaf", {"NONE": 1, "DOUGH": 2, "BAKING": 3, "DONE": 5, "BURNT": 7})
Sort = IntEnum("Sort", {"WHITE": 0, "RYE": 4})
Day = IntEnum("Day", {"WEEK": 2, "FEAST": 5})
Do = IntEnum("Do", "WAIT KNEAD BAKE WATER SELL SWAP OPEN", start=0)
RULES = em.MaskRules(
    name="bakery",
    stages=Loaf,
    empty=Loaf.NONE,
    transitions={
        Loaf.NONE: [Loaf.DOUGH],
        Loaf.DOUGH: [Loaf.BAKING],
        Loaf.BAKING: [Loaf.DONE, Loaf.DOUGH],
        Loaf.DONE: [Loaf.BURNT, Loaf.NONE],
        Loaf.BURNT: [Loaf.NONE],
    },
    features={"sort": Sort, "wet": bool, "weight": int, "waters": int},
    row_features={"power": bool, "customers": int, "day": Day},
    switches={"strict": (False, True)},
    op_rules=[
        em.Op(Do.WAIT, always=True),
        em.Op(Do.KNEAD, moves={Loaf.NONE: Loaf.DOUGH}, seed_limit=True, uses=["slot"], sets={"sort": Sort.RYE}),
        em.Op(Do.BAKE, moves={Loaf.DOUGH: Loaf.BAKING}, when=[em.Row("power", in_=(True,))], uses=["slot", "tin"]),
        em.Op(Do.WATER, acts_in=[Loaf.BAKING, Loaf.DONE], uses=["slot"], sets={"wet": True}),
        em.Op(Do.SELL, moves={Loaf.DONE: Loaf.NONE}, when=[em.Row("customers", at_least=1)], uses=["slot"]),
        em.Op(Do.SWAP, moves={Loaf.DOUGH: Loaf.BAKING}, uses=["slot", "other"]),
        em.Op(Do.OPEN, when=[em.Row("day", in_=(Day.FEAST,))]),
    ],
    heads=[
        em.Head("tin", ("small", "big")),
        em.Head("slot"),
        em.SlotHead("other", moves={Loaf.BAKING: Loaf.DOUGH}, when=[em.Age(at_least=2)], sets={"wet": False}),
        em.Head("op"),
    ],
    slot_ids=["a", "b", "c"],
)
STAGE, AGE, SORT, WET, WEIGHT, WATERS = range(6)
HORIZON, OP, UNIFORMS = 9, 3, 2


def reward(before: Tensor, actions: Tensor, after: Tensor) -> Tensor:
    """Weight that is sold, less one for what is burnt, and for what an illegal action does."""
    sold = (before[..., STAGE] == int(Loaf.DONE)) & (after[..., STAGE] == int(Loaf.NONE))
    sells = (actions[:, OP] == int(Do.SELL)).unsqueeze(-1)
    burnt = (after[..., STAGE] == int(Loaf.BURNT)).sum(-1)
    return (before[..., WEIGHT] * (sold & sells)).sum(-1).float() - burnt - 0.5 * (actions[:, OP] < 0)


def clocks(before: Tensor, actions: Tensor, after: Tensor, rows: Any, noise: Tensor) -> dict[str, Tensor]:
    bakes = after[..., STAGE] == int(Loaf.BAKING)
    watered = (actions[:, OP] == int(Do.WATER)).unsqueeze(-1) & rows["power"].unsqueeze(-1)
    heavier = after[..., WEIGHT] + torch.where(noise[:, :1] < 0.5, 1, 2)
    made = (after[..., STAGE] == int(Loaf.DONE)) & (before[..., STAGE] != int(Loaf.DONE))
    return {
        "age": torch.where(made, 0, after[..., AGE]),  # of what is done, from then on
        "weight": torch.where(bakes, heavier, after[..., WEIGHT]),
        "waters": after[..., WATERS] - watered.int(),
        "wet": (after[..., WET] != 0) & (noise[:, :1] < 0.75),
        "sort": torch.where(after[..., AGE] == 4, int(Sort.WHITE), after[..., SORT]),
    }


def rows(before: Tensor, actions: Tensor, after: Tensor, rows: Any, noise: Tensor) -> dict[str, Tensor]:
    sold = actions[:, OP] == int(Do.SELL)
    day = torch.where(after[..., WEIGHT].sum(-1) % 2 == 0, int(Day.WEEK), int(Day.FEAST))
    return {
        "power": noise[:, 1] < 0.8,
        "customers": rows["customers"] + (noise[:, 0] < 0.5).int() - sold.int(),
        "day": day,
    }


def customers(states: Tensor) -> Tensor:
    return torch.arange(len(states), device=states.device) % 3


def head_masks(states: Tensor, rows: Any) -> dict[str, Tensor]:
    """No big tin for rye, and no small one on a feast."""
    big = states[..., SORT] != int(Sort.RYE)
    small = (rows["day"] == int(Day.WEEK)).unsqueeze(-1).expand_as(big)
    return {"tin": torch.stack([small, big], -1)}


GIVEN: dict[str, Any] = {
    "reward": reward,
    "leaves": {
        Loaf.NONE: {Loaf.DOUGH: 0.125},
        Loaf.DOUGH: {Loaf.BAKING: 0.25},  # where a loaf of a second slot is put back
        Loaf.BAKING: (Loaf.DONE, {1: 0.25, 2: 0.5, 4: 0.25}),
        Loaf.DONE: {Loaf.BURNT: 0.25, Loaf.NONE: 0.0625},
        Loaf.BURNT: (Loaf.NONE, {2: 1}),
    },
    "rows_start": {"power": True, "customers": customers},
    "rows": rows,
    "clocks": clocks,
    "head_masks": head_masks,
    "horizon": HORIZON,
    "uniforms": UNIFORMS,
}


def make(**changes: Any) -> RuleDynamics:
    return RuleDynamics(RULES, **{**GIVEN, **changes})


DYNAMICS = make()


@dataclass
class Twin:
    """One environment, by plain loops over Python numbers."""

    at: int  # in the batch
    max_seeds: int = 0
    seeds: int = 0
    epoch: int = 0
    returns: float = 0.0
    power: bool = True
    day: int = int(Day.WEEK)
    slots: list[list[int]] = field(default_factory=lambda: [[1, 0, 0, 0, 0, 0] for _ in range(3)])
    due: list[int | None] = field(default_factory=lambda: [None] * 3)  # steps in the stage after which it is left
    spent: list[int] = field(default_factory=lambda: [0] * 3)  # steps in the stage so far

    def __post_init__(self) -> None:
        self.rules = RULES.resolve()
        self.customers = self.at % 3

    def situation(self) -> dict[str, Any]:
        row = {"power": int(self.power), "customers": self.customers, "day": self.day}
        tins = [[self.day == Day.WEEK, slot[SORT] != Sort.RYE] for slot in self.slots]
        return {"row": row, "head_masks": {"tin": tins}, "total_seeds": self.seeds, "max_seeds": self.max_seeds}

    def step(self, action: Sequence[int], noise: Sequence[float]) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal; not yet the next episode."""
        before = [list(slot) for slot in self.slots]
        self.slots, legal = reference.successor(self.rules, before, action, **self.situation())
        op = Do(action[OP]) if legal else None
        named = set()
        if op is not None:
            named = {
                action[self.rules.head_names.index(name)] for name in self.rules.op_rules[op].uses if name != "tin"
            }
            self.seeds += op == Do.KNEAD
        for at, slot in enumerate(self.slots):
            if slot[STAGE] != before[at][STAGE]:
                self._enters(at)
                continue
            self.spent[at] += 1
            stage = slot[STAGE]
            self._leave(at, noise[at], at in named)
            if slot[STAGE] != stage:
                self._enters(at)
        for at, slot in enumerate(self.slots):
            self.slots[at] = [1, 0, 0, 0, 0, 0] if slot[STAGE] == Loaf.NONE else [slot[0], slot[1] + 1, *slot[2:]]
        points = 0.0
        for at, slot in enumerate(self.slots):
            if slot[STAGE] == Loaf.NONE:
                continue
            if slot[STAGE] == Loaf.BAKING:
                slot[WEIGHT] += 1 if noise[3] < 0.5 else 2
            slot[WATERS] -= op == Do.WATER and self.power
            slot[WET] = int(slot[WET] and noise[3] < 0.75)
            slot[SORT] = int(Sort.WHITE) if slot[AGE] == 4 else slot[SORT]
            if slot[STAGE] == Loaf.DONE != before[at][STAGE]:
                slot[AGE] = 0
            points -= slot[STAGE] == Loaf.BURNT
        if op == Do.SELL:
            points += before[action[1]][WEIGHT]
        if not legal:
            points -= 0.5
        self.power, self.customers = noise[4] < 0.8, self.customers + (noise[3] < 0.5) - (op == Do.SELL)
        self.day = int(Day.WEEK if sum(slot[WEIGHT] for slot in self.slots) % 2 == 0 else Day.FEAST)
        self.epoch, self.returns = self.epoch + 1, self.returns + points
        return points, self.epoch >= HORIZON, legal

    def _enters(self, at: int) -> None:
        self.due[at], self.spent[at] = None, 0

    def _leave(self, at: int, u: float, named: bool) -> None:
        stage, slot = self.slots[at][STAGE], self.slots[at]
        if stage in (Loaf.BAKING, Loaf.BURNT):
            if self.due[at] is None:
                self.due[at] = 2 if stage == Loaf.BURNT else 1 if u < 0.25 else 2 if u < 0.75 else 4
            if self.spent[at] >= (self.due[at] or 0) and not named:
                slot[STAGE] = int(Loaf.DONE if stage == Loaf.BAKING else Loaf.NONE)
        elif not named and stage == Loaf.NONE and u < 0.125:
            slot[STAGE] = int(Loaf.DOUGH)
        elif not named and stage == Loaf.DOUGH and u < 0.25:
            slot[STAGE] = int(Loaf.BAKING)
        elif not named and stage == Loaf.DONE:
            slot[STAGE] = int(Loaf.BURNT if u < 0.25 else Loaf.NONE if u < 0.3125 else stage)

    def observe(self) -> list[float]:
        """By slot states' features; see ``RuleDynamics``."""

        def number(x: int) -> float:
            return x / (abs(x) + HORIZON)

        seen: list[list[float]] = [[float(slot[STAGE] == stage) for slot in self.slots] for stage in Loaf]
        seen += [[slot[AGE] / HORIZON for slot in self.slots]]
        seen += [[float(slot[SORT] == sort) for slot in self.slots] for sort in Sort]
        seen += [[float(slot[WET]) for slot in self.slots]]
        seen += [[number(slot[which]) for slot in self.slots] for which in (WEIGHT, WATERS)]
        row = [float(self.power), number(self.customers), *[float(self.day == day) for day in Day]]
        limit = self.max_seeds or HORIZON
        return [*[x for each in seen for x in each], *row, self.epoch / HORIZON, self.seeds / limit]
