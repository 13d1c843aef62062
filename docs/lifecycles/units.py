"""Units that move, fight, harvest, build and hand over cargo, after microRTS and Lux AI: to copy and to change.

F1, F2, ... are the facts that ``units.md`` lists, each with the page that says it. A stage is what stands in a slot;
the clock, ``age``, is in turns since it last acted.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

import esper_masks as em
from esper_masks.rollout import Dynamics, Outcome

Unit = IntEnum("Unit", "GONE WORKER CART LIGHT RANGED BASE BARRACKS ORE", start=0)
Do = IntEnum(
    "Do",
    "PASS MOVE ATTACK HARVEST RETURN TRANSFER PILLAGE BUILD_BASE BUILD_BARRACKS TRAIN_WORKER TRAIN_CART TRAIN_LIGHT"
    " TRAIN_RANGED RESEARCH",
    start=0,
)

OWN, FOE, FIELD = em.Kind("own"), em.Kind("foe"), em.Kind("field")  # F2; only what is in a slot can be a target
MOBILE = (Unit.WORKER, Unit.CART, Unit.LIGHT, Unit.RANGED)
STANDING = (*MOBILE, Unit.BASE, Unit.BARRACKS)
HOLD = {Unit.WORKER: 100, Unit.CART: 2000}  # F6
BY_DAY = {Unit.WORKER: 2, Unit.CART: 3, Unit.LIGHT: 2, Unit.RANGED: 2, Unit.BASE: 10, Unit.BARRACKS: 10}  # F7
BY_NIGHT = {unit: 2 * BY_DAY[unit] for unit in MOBILE}  # F8
RESTED = (OWN, em.Age(at_least=BY_DAY), em.Unless("day", em.Age(at_least=BY_NIGHT)))
LOADED = em.Feature("cargo", at_least=1)


def train(op: IntEnum, unit: IntEnum, cost: int, house: str, *more: em.Row) -> em.Op:
    """An op that puts a unit into an empty slot; the head ``house`` says where it is trained."""
    when = (OWN, em.Row("minerals", at_least=cost), *more)  # F5
    return em.Op(op, moves={Unit.GONE: unit}, when=when, uses=("slot", house))


HOMES = em.Row("free_homes", at_least=1)  # F11: city tiles less workers and carts
UNITS = em.MaskRules(
    name="units",
    stages=Unit,
    empty=Unit.GONE,
    transitions={
        Unit.GONE: (Unit.WORKER, Unit.CART, Unit.LIGHT, Unit.RANGED, Unit.BASE, Unit.BARRACKS),
        **{stage: (Unit.GONE,) for stage in Unit if stage is not Unit.GONE},
    },
    features={"cargo": int, "road": int},  # road: under the unit, in hundredths
    row_features={"day": bool, "minerals": int, "free_homes": int},
    kinds={"own": ("u0", "u1", "u2", "u3"), "foe": ("e0", "e1"), "field": ("f0",)},
    op_rules=(
        em.Op(Do.PASS, always=True),
        em.Op(Do.MOVE, acts_in=MOBILE, when=RESTED, uses=("slot", "direction")),
        em.Op(Do.ATTACK, acts_in=(Unit.WORKER, Unit.LIGHT, Unit.RANGED), when=RESTED, uses=("slot", "victim")),
        em.Op(
            Do.HARVEST, acts_in=(Unit.WORKER,), when=(*RESTED, em.Feature("cargo", at_most=0)), uses=("slot", "source")
        ),
        em.Op(Do.RETURN, acts_in=(Unit.WORKER,), when=(*RESTED, LOADED), uses=("slot", "store"), sets={"cargo": 0}),
        em.Op(
            Do.TRANSFER, acts_in=(Unit.WORKER, Unit.CART), when=(*RESTED, LOADED), uses=("slot", "partner", "amount")
        ),
        em.Op(Do.PILLAGE, acts_in=(Unit.WORKER,), when=(*RESTED, em.Feature("road", at_least=1)), uses=("slot",)),
        em.Op(Do.BUILD_BASE, moves={Unit.GONE: Unit.BASE}, when=(OWN,), uses=("slot", "builder")),
        em.Op(
            Do.BUILD_BARRACKS,
            moves={Unit.GONE: Unit.BARRACKS},
            when=(OWN, em.Row("minerals", at_least=5)),
            uses=("slot", "mason"),
        ),
        train(Do.TRAIN_WORKER, Unit.WORKER, 1, "base", HOMES),
        train(Do.TRAIN_CART, Unit.CART, 1, "base", HOMES),
        train(Do.TRAIN_LIGHT, Unit.LIGHT, 2, "barracks"),
        train(Do.TRAIN_RANGED, Unit.RANGED, 2, "barracks"),
        em.Op(Do.RESEARCH, acts_in=(Unit.BASE,), when=(OWN, em.Age(at_least=BY_DAY)), uses=("slot",)),
    ),
    heads=(
        em.Head("slot"),
        em.Head("direction", ("up", "right", "down", "left")),  # head_masks: free cells beside the unit
        em.Head("amount", ("some", "all")),
        em.SlotHead("victim", when=(FOE, em.Feature("stage", in_=STANDING))),  # head_masks: in range
        em.SlotHead("source", when=(FIELD, em.Feature("stage", in_=(Unit.ORE,)))),  # head_masks: beside the unit
        em.SlotHead("store", when=(OWN, em.Feature("stage", in_=(Unit.BASE,)))),  # head_masks: beside the unit
        em.SlotHead(  # head_masks: beside the unit
            "partner",
            when=(
                OWN,
                em.Feature("stage", in_=tuple(HOLD)),
                em.Feature("cargo", at_most={unit: hold - 1 for unit, hold in HOLD.items()}),
            ),
            distinct=True,
        ),
        em.SlotHead(
            "builder",
            when=(*RESTED, em.Feature("stage", in_=(Unit.WORKER,)), em.Feature("cargo", at_least=100)),  # F10
            sets={"cargo": 0},
        ),
        em.SlotHead("mason", when=(*RESTED, em.Feature("stage", in_=(Unit.WORKER,)))),
        em.SlotHead("base", when=(OWN, em.Feature("stage", in_=(Unit.BASE,)), em.Age(at_least=BY_DAY))),
        em.SlotHead("barracks", when=(OWN, em.Feature("stage", in_=(Unit.BARRACKS,)), em.Age(at_least=BY_DAY))),
        em.Head("op"),
    ),
    slot_ids=("u0", "u1", "u2", "u3", "e0", "e1", "f0"),
)


# -- the environment: a skirmish with a side that goes by a script, see ``units.md`` ----------------------------------

SIDE = 6  # the board has as many rows and columns
AT = {  # what stands where when an episode begins: column and row
    "u0": (Unit.BASE, 0, 1),
    "u1": (Unit.BARRACKS, 1, 0),
    "u2": (Unit.WORKER, 1, 2),
    "e0": (Unit.LIGHT, 5, 4),
    "e1": (Unit.RANGED, 4, 5),
    "f0": (Unit.ORE, 0, 3),
}
LIFE = {Unit.WORKER: 1, Unit.CART: 1, Unit.LIGHT: 4, Unit.RANGED: 1, Unit.BASE: 10, Unit.BARRACKS: 4, Unit.ORE: 10}
HARM = {Unit.WORKER: 1, Unit.LIGHT: 2, Unit.RANGED: 1}  # what a hit takes of a life
REACH = {Unit.WORKER: 1, Unit.LIGHT: 1, Unit.RANGED: 3}  # cells
COST = {Do.BUILD_BARRACKS: 5, Do.TRAIN_WORKER: 1, Do.TRAIN_CART: 1, Do.TRAIN_LIGHT: 2, Do.TRAIN_RANGED: 2}  # minerals
MAKER = {  # the head that says who makes a unit
    Do.BUILD_BASE: "builder",
    Do.BUILD_BARRACKS: "mason",
    Do.TRAIN_WORKER: "base",
    Do.TRAIN_CART: "base",
    Do.TRAIN_LIGHT: "barracks",
    Do.TRAIN_RANGED: "barracks",
}
MINED, CARGO_OF_ONE = 50, 25  # cargo of a harvest, and of a mineral
MINERALS, RESERVE = 4, 2  # when an episode begins: minerals of one's own, foes that are still to come
HITS, COMES = 0.8, 0.1  # chances: that an attack hits, that a foe of the reserve comes into a free slot in a step
DAYLIGHT, WHOLE_DAY = 30, 40  # steps
WON = 5.0  # points
NOWHERE = 1 << 20  # further than anything
WAYS = ((0, -1), (1, 0), (0, 1), (-1, 0))  # of the head ``direction``: columns, rows


class SkirmishState(NamedTuple):
    """The state of environments under ``Skirmish``; where nothing stands, cell and life are 0."""

    states: Tensor
    total_seeds: Tensor
    epoch: Tensor
    returns: Tensor
    life: Tensor  # int32 [slots, batch]; of ore, how often it can be harvested
    x: Tensor  # int32 [slots, batch]: column
    y: Tensor  # int32 [slots, batch]: row
    minerals: Tensor  # int32 [batch]
    reserve: Tensor  # int32 [batch]: foes that are still to come


class Skirmish(Dynamics):
    """One op of one's own units in a step; then each foe hits the nearest of them, or goes nearer."""

    def __init__(self, engine: em.MaskEngine, horizon: int = 60):
        super().__init__(engine)
        slots, heads, device = engine.slot_ids, engine.layout.head_names, engine.device
        self.foes = [slots.index(slot) for slot in engine.kinds["foe"]]
        self.uniforms = 1 + 3 * len(self.foes)  # whether one's own hit; of each foe: whether it hits, comes, as what
        self.episode_length = horizon
        units = [LIFE, HARM, REACH, HOLD, BY_DAY, {**BY_DAY, **BY_NIGHT}]
        of_units = [[of.get(unit, 0) for unit in Unit] for of in units]
        costs = [COST.get(op, 0) for op in Do]
        placed = [AT.get(slot, (Unit.GONE, 0, 0)) for slot in slots]
        numbers = SIDE, MINED, CARGO_OF_ONE, MINERALS, RESERVE, HITS, COMES, DAYLIGHT, WHOLE_DAY, WON
        self.fingerprint = self.digest(horizon, *numbers, *placed, *of_units, costs)
        each = [*(unit.name for unit in Unit), "age", "cargo", "life", "column", "row"]
        names = [f"{slot}: {what}" for what in each for slot in slots]
        self.obs_names = (*names, "day", "minerals", "free homes", "reserve", "time")
        self.at = {head: heads.index(head) for head in heads}
        self.index = torch.arange(len(slots), device=device).unsqueeze(-1)  # [slots, 1]
        self.own = torch.tensor([[slot in engine.kinds["own"]] for slot in slots], device=device)  # [slots, 1]
        self.dx, self.dy = torch.tensor(WAYS, dtype=torch.int32, device=device).unbind(-1)
        tables = torch.tensor(of_units, dtype=torch.int32, device=device)
        self.full, self.harm, self.reach, self.hold, self.by_day, self.by_night = tables
        self.cost = torch.tensor(costs, dtype=torch.int32, device=device)
        self.placed = torch.tensor(placed, dtype=torch.int32, device=device).T.unsqueeze(-1)  # [3, slots, 1]

    def fresh(self, batch: int) -> SkirmishState:
        stage, x, y = self.placed.repeat(1, 1, batch)  # [slots, batch] each
        zero, none = torch.zeros_like(stage), torch.zeros_like(stage[0])
        rested = torch.where(stage == int(Unit.GONE), zero, max(BY_DAY.values()))
        states = torch.stack([stage, rested, zero, zero]).permute(2, 1, 0)  # [batch, slots, features]
        counts = none, none.clone(), none.float()
        return SkirmishState(states, *counts, self.full[stage], x, y, none + MINERALS, none + RESERVE)

    def given(self, state: SkirmishState) -> Mapping[str, Any]:
        stage, x, y = state.states[..., 0].T, state.x, state.y
        far = (x - x.unsqueeze(1)).abs() + (y - y.unsqueeze(1)).abs()  # [slots, slots, batch]
        free = self._free(x, y, state.life)
        near, in_reach = (far <= 1).permute(2, 0, 1), (far <= self.reach[stage].unsqueeze(1)).permute(2, 0, 1)
        room = free.any(0).T.unsqueeze(1).expand_as(near)  # for what is made, beside who makes it
        masks = {**dict.fromkeys(("source", "store", "partner"), near), **dict.fromkeys(MAKER.values(), room)}
        return {
            "row": {"day": _is_day(state), "minerals": state.minerals, "free_homes": self._free_homes(stage)},
            "head_masks": {**masks, "direction": free.permute(2, 1, 0), "victim": in_reach},
        }

    def advance(self, state: SkirmishState, actions: Tensor, noise: Tensor) -> tuple[SkirmishState, Outcome]:
        after, legal = self.engine.successors(state.states, actions, **self.given(state))
        chosen = {head: torch.where(legal, actions[:, at].long(), 0) for head, at in self.at.items()}
        on = {head: self.index == chosen[head] for head in ("slot", "victim", "source", "partner")}  # [slots, batch]
        op, was, loaded = chosen["op"], state.states[..., 0].T, state.states[..., 2].T
        stage, age, cargo, road = after.movedim(0, -1).unbind(1)
        life, x, y = state.life, state.x, state.y
        hits = (noise < HITS).T

        # the op: what it does beyond its edge and what it sets
        step = chosen["direction"].clamp(0, len(WAYS) - 1)  # heads that an op ignores may hold anything
        moves = on["slot"] & (op == int(Do.MOVE))
        x, y = x + moves * self.dx[step], y + moves * self.dy[step]
        struck = on["victim"] & (op == int(Do.ATTACK)) & hits[0]
        hurt = struck * torch.minimum(life, (self.harm[stage] * on["slot"]).sum(0))
        mines, hands = op == int(Do.HARVEST), op == int(Do.TRANSFER)
        life = life - hurt.int() - (on["source"] & mines).int()
        held = (cargo * on["slot"]).sum(0)
        part = torch.where(chosen["amount"] == 0, (held + 1) // 2, held)
        part = hands * torch.minimum(part, ((self.hold[stage] - cargo) * on["partner"]).sum(0))
        cargo = cargo + on["slot"] * (mines * MINED - part) + on["partner"] * part
        brought = torch.where(op == int(Do.RETURN), (loaded * on["slot"]).sum(0) // CARGO_OF_ONE, 0)
        minerals = state.minerals + brought - self.cost[op]
        made = (was == int(Unit.GONE)) & (stage != int(Unit.GONE))
        maker = sum((op == int(each)) & (self.index == chosen[head]) for each, head in MAKER.items())
        way = self._free(x, y, life).int().argmax(0)  # the first that is free
        x, y = (torch.where(made, (maker * (c + d[way])).sum(0), c) for c, d in ((x, self.dx), (y, self.dy)))
        life = torch.where(made, self.full[stage], life)
        acted = torch.where(made.any(0), maker != 0, on["slot"] & (op != int(Do.PASS)))

        # the foes, one after another
        mine = (life * self.own).sum(0)
        pause = torch.where(_is_day(state), self.by_day[stage], self.by_night[stage])
        for foe, hit in zip(self.foes, hits[1 : 1 + len(self.foes)]):
            order = ((x - x[foe]).abs() + (y - y[foe]).abs()) * len(self.index) + self.index
            nearest, target = torch.where(self.own & (life > 0), order, NOWHERE).min(0)
            acts = (life[foe] > 0) & (age[foe] >= pause[foe]) & (nearest < NOWHERE)
            reaches = nearest // len(self.index) <= self.reach[stage[foe]]
            harm = torch.where(acts & reaches & hit, self.harm[stage[foe]], 0)
            life = (life - (self.index == target) * harm).clamp_min(0)
            to = (each.gather(0, target.unsqueeze(0)) for each in (x, y))
            nearer, way = self._nearer(x, y, life, *to)[:, foe].max(0)
            goes = (self.index == foe) & acts & ~reaches & (nearer > 0)
            x, y = x + goes * self.dx[way], y + goes * self.dy[way]
            acted = acted | (self.index == foe) & acts
        taken = mine - (life * self.own).sum(0)

        # who fell, who comes
        stage, reserve = torch.where(life > 0, stage, int(Unit.GONE)), state.reserve
        for foe, comes, kind in zip(self.foes, *noise.T[1 + len(self.foes) :].chunk(2)):
            _, at_x, at_y = AT[self.engine.slot_ids[foe]]
            taken_up = ((x == at_x) & (y == at_y) & (life > 0)).any(0)
            new = (self.index == foe) & (life == 0) & (reserve > 0) & ~taken_up & (comes < COMES)
            stage = torch.where(new, torch.where(kind < 0.5, int(Unit.LIGHT), int(Unit.RANGED)), stage)
            life, x, y = (torch.where(new, *pair) for pair in ((self.full[stage], life), (at_x, x), (at_y, y)))
            acted, reserve = acted | new, reserve - new.any(0).int()
        stands = life > 0
        columns = [stage, torch.where(acted, 0, age) + 1, cargo, road, life, x, y]
        stage, age, cargo, road, life, x, y = (torch.where(stands, column, 0).int() for column in columns)
        states = torch.stack([stage, age, cargo, road]).permute(2, 1, 0)  # [batch, slots, features]
        won = (reserve == 0) & ~stands[self.foes].any(0)
        ends = won | ~(stands & self.own).any(0) | (state.epoch + 1 >= self.episode_length)
        reward = (hurt.sum(0) - taken + WON * won).float()
        seeds = state.total_seeds + made.any(0).int()
        own = {"life": life, "x": x, "y": y, "minerals": minerals.int(), "reserve": reserve}
        return state._replace(states=states, total_seeds=seeds, **own), Outcome(reward, ends, ~legal)

    def observe(self, state: SkirmishState) -> Tensor:
        stage, age, cargo, _ = state.states.movedim(0, -1).unbind(1)
        scaled = [age / 10, cargo / 100, state.life / 10, state.x / SIDE, state.y / SIDE]
        whole = [_is_day(state), state.minerals / 10, self._free_homes(stage), state.reserve / RESERVE]
        whole += [state.epoch / self.episode_length]
        parts = [*(stage == int(unit) for unit in Unit), *scaled, torch.stack([each.float() for each in whole])]
        return torch.cat([part.float() for part in parts]).movedim(0, -1)

    def heuristic(self, state: SkirmishState) -> Tensor:
        """Attack the weakest in reach; or train; bring in; mine; go nearer, fighters to the nearest foe first."""
        masks, envs = self.masks(state), torch.arange(len(state.epoch), device=self.engine.device)
        stage, _, cargo, _ = state.states.movedim(0, -1).unbind(1)  # [slots, batch]
        fights = (stage == int(Unit.LIGHT)) | (stage == int(Unit.RANGED))
        foes = (state.life > 0) & torch.isin(self.index, torch.tensor(self.foes, device=self.engine.device))
        bases, ore = self.own & (stage == int(Unit.BASE)), stage == int(Unit.ORE)
        far = (state.x - state.x.unsqueeze(1)).abs() + (state.y - state.y.unsqueeze(1)).abs()  # [slots, slots, batch]
        goals = torch.where(fights.unsqueeze(1), foes, torch.where((cargo > 0).unsqueeze(1), bases, ore))
        nearest, goal = torch.where(goals, far, NOWHERE).min(1)
        good = self._nearer(state.x, state.y, state.life, state.x.gather(0, goal), state.y.gather(0, goal))
        good = good * ((nearest < NOWHERE) & (nearest > 1))
        may = masks.slot_by_op.permute(1, 2, 0).long()  # [ops, slots, batch]
        may[int(Do.MOVE)] *= good.amax(0) > 0
        worth = torch.zeros_like(may)
        for rank, op in enumerate((Do.MOVE, Do.HARVEST, Do.RETURN, Do.TRAIN_RANGED, Do.ATTACK)):
            worth[int(op)] = may[int(op)] * (2 * rank + 1 + fights)
        best, at = worth.flatten(0, 1).max(0)
        op, slot = torch.where(best > 0, at // len(self.index), int(Do.PASS)), at % len(self.index)
        values = {"op": op, "slot": slot, "direction": good[:, slot, envs].argmax(0)}
        left = masks.by_slot("victim")[envs, slot]
        values["victim"] = torch.where(left, state.life.T, NOWHERE).argmin(-1)
        for head in self.at:
            if head not in values:
                values[head] = masks.by_slot(head)[envs, slot].int().argmax(-1)
        return torch.stack([values[head] for head in self.at], -1)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _free(self, x: Tensor, y: Tensor, life: Tensor) -> Tensor:
        """Whether a step in each direction leads to a free cell of the board, bool ``[4, slots, batch]``."""
        to_x, to_y = x + self.dx.view(-1, 1, 1), y + self.dy.view(-1, 1, 1)
        taken = ((to_x.unsqueeze(2) == x) & (to_y.unsqueeze(2) == y) & (life > 0)).any(2)
        return (to_x >= 0) & (to_x < SIDE) & (to_y >= 0) & (to_y < SIDE) & ~taken

    def _nearer(self, x: Tensor, y: Tensor, life: Tensor, to_x: Tensor, to_y: Tensor) -> Tensor:
        """How good a step in each direction is on the way to a cell, int64 ``[4, slots, batch]``: 2, 1, or 0."""
        far_x, far_y = to_x - x, to_y - y
        gains_x, gains_y = (far_x * self.dx.view(-1, 1, 1)) > 0, (far_y * self.dy.view(-1, 1, 1)) > 0
        wide = far_x.abs() >= far_y.abs()
        good = torch.where(wide, 2 * gains_x + gains_y.int(), gains_x.int() + 2 * gains_y)
        return good * self._free(x, y, life)

    def _free_homes(self, stage: Tensor) -> Tensor:
        lodged = (stage == int(Unit.WORKER)) | (stage == int(Unit.CART))
        return (self.own * ((stage == int(Unit.BASE)).int() - lodged.int())).sum(0, dtype=torch.int32)


def _is_day(state: SkirmishState) -> Tensor:
    return state.epoch % WHOLE_DAY < DAYLIGHT


DYNAMICS = Skirmish
