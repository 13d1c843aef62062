"""The skirmish of ``docs/lifecycles/units.md``, beside the same by plain loops."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

from esper_masks import reference
from esper_masks.rollout import LifecycleEnv
from esper_masks.rollout.env.baselines import always_wait, heuristic, random_legal
from tests.lifecycles.lockstep import compiled_as_op_by_op, go_at_random, in_lockstep, mean_return
from tests.lifecycles.tables import module_of

units = module_of("units")
Unit, Do = units.Unit, units.Do
STAGE, AGE, CARGO, ROAD = range(4)
SLOTS, OWN, FOES = range(7), range(4), (4, 5)
WAYS = [(0, -1), (1, 0), (0, 1), (-1, 0)]  # up, right, down, left
FULL = {"WORKER": 1, "CART": 1, "LIGHT": 4, "RANGED": 1, "BASE": 10, "BARRACKS": 4, "ORE": 10}
HARM = {"WORKER": 1, "LIGHT": 2, "RANGED": 1}
REACH = {"WORKER": 1, "LIGHT": 1, "RANGED": 3}
HEADS = ["slot", "direction", "amount", "victim", "source", "store", "partner", "builder", "mason", "base", "barracks"]


def make(batch: int, horizon: int = 60, **settings: Any) -> LifecycleEnv:
    return LifecycleEnv(units.UNITS, batch, dynamics=partial(units.DYNAMICS, horizon=horizon), **settings)


class Twin:
    """One environment, by plain loops over Python numbers."""

    def __init__(self) -> None:
        names = ["BASE", "BARRACKS", "WORKER", "GONE", "LIGHT", "RANGED", "ORE"]
        self.slots = [[int(Unit[name]), 10 * (name != "GONE"), 0, 0] for name in names]
        self.life = [FULL.get(name, 0) for name in names]
        self.cells = [(0, 1), (1, 0), (1, 2), (0, 0), (5, 4), (4, 5), (0, 3)]
        self.minerals, self.reserve, self.turn = 4, 2, 0

    def name(self, at: int) -> str:
        return Unit(self.slots[at][STAGE]).name

    def day(self) -> bool:
        return self.turn % 40 < 30

    def far(self, one: int, other: int) -> int:
        return sum(abs(a - b) for a, b in zip(self.cells[one], self.cells[other]))

    def beside(self, at: int) -> list[tuple[int, int] | None]:
        """The cells around a slot's, None where one is not free."""
        taken = {self.cells[other] for other in SLOTS if self.life[other] > 0}
        found = [(self.cells[at][0] + dx, self.cells[at][1] + dy) for dx, dy in WAYS]
        return [cell if cell not in taken and min(cell) >= 0 and max(cell) < 6 else None for cell in found]

    def homes(self) -> int:
        own = [self.name(at) for at in OWN]
        return own.count("BASE") - own.count("WORKER") - own.count("CART")

    def situation(self) -> dict[str, Any]:
        row = {"day": self.day(), "minerals": self.minerals, "free_homes": self.homes()}
        room = [any(self.beside(at)) for at in SLOTS]
        near = [[self.far(one, other) <= 1 for other in SLOTS] for one in SLOTS]
        masks: dict[str, Any] = dict.fromkeys(("builder", "mason", "base", "barracks"), [room] * 7)
        masks |= dict.fromkeys(("source", "store", "partner"), near)
        masks["victim"] = [[self.far(one, it) <= REACH.get(self.name(one), 0) for it in SLOTS] for one in SLOTS]
        masks["direction"] = [[cell is not None for cell in self.beside(at)] for at in SLOTS]
        return {"row": row, "head_masks": masks}

    def step(self, action: Sequence[int], noise: Sequence[float]) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal; not yet the next episode."""
        before, day = [list(slot) for slot in self.slots], self.day()
        self.slots, legal = reference.successor(units.UNITS.resolve(), before, action, **self.situation())
        points, acted = 0.0, set()
        if legal and action[-1] != Do.PASS:
            points, actor = self.act(before, dict(zip(HEADS, action)), Do(action[-1]).name, noise[0] < 0.8)
            acted.add(actor)
        for number, foe in enumerate(FOES):
            name = self.name(foe)
            living = [at for at in OWN if self.life[at] > 0]
            if self.life[foe] == 0 or self.slots[foe][AGE] < (2 if day else 4) or not living:
                continue
            acted.add(foe)
            target = min(living, key=lambda at: (self.far(foe, at), at))
            if self.far(foe, target) > REACH[name]:
                self.approach(foe, self.cells[target])
            elif noise[1 + number] < 0.8:
                hurt = min(HARM[name], self.life[target])
                self.life[target] -= hurt
                points -= hurt
        self.come(noise, acted)
        for at, slot in enumerate(self.slots):
            slot[AGE] = 1 if at in acted else slot[AGE] + 1
            if self.life[at] == 0:
                slot[:], self.cells[at] = [0] * 4, (0, 0)
        self.turn += 1
        won = self.reserve == 0 and not any(self.life[foe] for foe in FOES)
        lost = not any(self.life[at] for at in OWN)
        return points + 5 * won, won or lost or self.turn == 60, legal

    def act(self, before: list[list[int]], chosen: dict[str, int], op: str, hits: bool) -> tuple[float, int]:
        """What an op does beyond the rules. Returns: what it takes of foes, and the slot that has acted."""
        at = chosen["slot"]
        slot, maker = self.slots[at], None
        match op:
            case "MOVE":
                cell = self.beside(at)[chosen["direction"]]
                assert cell is not None
                self.cells[at] = cell
            case "ATTACK" if hits:
                hurt = min(HARM[self.name(at)], self.life[chosen["victim"]])
                self.life[chosen["victim"]] -= hurt
                return hurt, at
            case "HARVEST":
                slot[CARGO] += 50
                self.life[chosen["source"]] -= 1
            case "RETURN":
                self.minerals += before[at][CARGO] // 25
            case "TRANSFER":
                partner = self.slots[chosen["partner"]]
                room = (100 if self.name(chosen["partner"]) == "WORKER" else 2000) - partner[CARGO]
                part = min(room, slot[CARGO] if chosen["amount"] else (slot[CARGO] + 1) // 2)
                slot[CARGO], partner[CARGO] = slot[CARGO] - part, partner[CARGO] + part
            case "BUILD_BASE":
                maker = chosen["builder"]
            case "BUILD_BARRACKS":
                maker, self.minerals = chosen["mason"], self.minerals - 5
            case "TRAIN_WORKER" | "TRAIN_CART":
                maker, self.minerals = chosen["base"], self.minerals - 1
            case "TRAIN_LIGHT" | "TRAIN_RANGED":
                maker, self.minerals = chosen["barracks"], self.minerals - 2
        if maker is None:
            return 0, at
        self.cells[at] = next(cell for cell in self.beside(maker) if cell is not None)
        self.life[at] = FULL[self.name(at)]
        return 0, maker

    def approach(self, foe: int, goal: tuple[int, int]) -> None:
        """A step along the longer way, or else along the shorter one."""
        x, y = self.cells[foe]
        dx, dy = goal[0] - x, goal[1] - y
        across = 1 if dx > 0 else 3 if dx < 0 else None
        down = 2 if dy > 0 else 0 if dy < 0 else None
        cells = self.beside(foe)
        for way in (across, down) if abs(dx) >= abs(dy) else (down, across):
            if way is not None and (cell := cells[way]) is not None:
                self.cells[foe] = cell
                return

    def come(self, noise: Sequence[float], acted: set[int]) -> None:
        for number, (foe, corner) in enumerate(zip(FOES, ((5, 4), (4, 5)))):
            taken = any(self.life[at] > 0 and self.cells[at] == corner for at in SLOTS)
            if self.life[foe] == 0 and self.reserve and not taken and noise[3 + number] < 0.1:
                name = "LIGHT" if noise[5 + number] < 0.5 else "RANGED"
                self.slots[foe], self.cells[foe], self.life[foe] = [int(Unit[name]), 0, 0, 0], corner, FULL[name]
                self.reserve -= 1
                acted.add(foe)

    def observe(self) -> list[float]:
        seen = [[float(slot[STAGE] == unit) for slot in self.slots] for unit in Unit]
        seen += [[slot[AGE] / 10 for slot in self.slots], [slot[CARGO] / 100 for slot in self.slots]]
        seen += [[life / 10 for life in self.life], *([cell[axis] / 6 for cell in self.cells] for axis in (0, 1))]
        whole = [float(self.day()), self.minerals / 10, float(self.homes()), self.reserve / 2, self.turn / 60]
        return [*[x for each in seen for x in each], *whole]


def test_lockstep_with_plain_loops() -> None:
    taken = in_lockstep(make(8), Twin, 70, play=heuristic)
    assert {Do.PASS, Do.MOVE, Do.ATTACK, Do.HARVEST, Do.TRAIN_LIGHT, Do.TRAIN_RANGED, Do.RESEARCH} <= taken


@pytest.mark.slow
def test_lockstep_with_plain_loops_for_long() -> None:
    taken = in_lockstep(make(24), Twin, 120, seed=1, play=heuristic)
    assert set(Do) - taken <= {Do.PILLAGE, Do.BUILD_BASE, Do.BUILD_BARRACKS, Do.TRANSFER, Do.TRAIN_CART}


def put(twin: Twin, at: int, unit: str, cell: tuple[int, int], cargo: int = 0) -> None:
    twin.slots[at], twin.cells[at], twin.life[at] = (
        [int(Unit[unit]), 9 * (unit != "GONE"), cargo, 0],
        cell,
        FULL.get(unit, 0),
    )


def step_of_both(twin: Twin, noise: float, **named: int) -> float:
    """An action by names from where a twin is, in an environment and in the twin. Returns: the reward."""
    env = make(1)
    states = torch.tensor([twin.slots], dtype=torch.int32)
    life, x, y = (torch.tensor([part], dtype=torch.int32).T for part in (twin.life, *zip(*twin.cells)))
    minerals = torch.tensor([twin.minerals], dtype=torch.int32)
    env._state = env.state._replace(states=states, life=life, x=x, y=y, minerals=minerals)
    action = [named.get(head, 0) for head in (*HEADS, "op")]
    _, reward, *_ = env.step(torch.tensor([action]), torch.full((1, 7), noise))
    assert twin.step(action, [noise] * 7)[0] == reward.item()
    assert env.states.tolist() == [twin.slots]
    assert env.state.life.T.tolist() == [twin.life]
    assert list(zip(*(part.flatten().tolist() for part in (env.state.x, env.state.y)))) == twin.cells
    assert env.state.minerals.tolist() == [twin.minerals]
    return reward.item()


@pytest.mark.parametrize(
    ("action", "wanted"),
    [
        ({"op": Do.TRANSFER, "slot": 2, "partner": 3, "amount": 1}, (6, 100)),  # no more than it can hold
        ({"op": Do.TRANSFER, "slot": 3, "partner": 2, "amount": 0}, (91, 15)),  # a half, and rather more
        ({"op": Do.RETURN, "slot": 2, "store": 0}, (75, 31)),  # no base beside it: illegal
    ],
)
def test_what_is_handed_over(action: dict[str, int], wanted: tuple[int, int]) -> None:
    twin = Twin()
    put(twin, 2, "WORKER", (1, 2), 75)
    put(twin, 3, "WORKER", (2, 2), 31)
    step_of_both(twin, 0.9, **action)
    assert (twin.slots[2][CARGO], twin.slots[3][CARGO]) == wanted


def test_what_is_brought_in() -> None:
    twin = Twin()
    put(twin, 2, "WORKER", (1, 1), 80)  # beside the base
    step_of_both(twin, 0.9, op=Do.RETURN, slot=2, store=0)
    assert (twin.minerals, twin.slots[2][CARGO]) == (4 + 3, 0)


@pytest.mark.parametrize(
    ("op", "head", "minerals", "left", "cargo"),
    [(Do.BUILD_BASE, "builder", 6, 6, 0), (Do.BUILD_BARRACKS, "mason", 6, 1, 100)],
)
def test_what_is_built(op: Any, head: str, minerals: int, left: int, cargo: int) -> None:
    twin = Twin()
    twin.minerals = minerals
    put(twin, 2, "WORKER", (1, 1), 100)  # above it are the barracks, so it builds to the right
    step_of_both(twin, 0.9, op=op, slot=3, **{head: 2})
    house = "BASE" if op == Do.BUILD_BASE else "BARRACKS"
    assert (twin.name(3), twin.life[3], twin.cells[3]) == (house, FULL[house], (2, 1))
    assert (twin.minerals, twin.slots[2][AGE], twin.slots[2][CARGO]) == (left, 1, cargo)


def test_a_hit_takes_no_more_than_there_is() -> None:
    twin = Twin()
    put(twin, 3, "LIGHT", (3, 5))  # beside the ranged foe; the other one is too far away
    assert step_of_both(twin, 0.5, op=Do.ATTACK, slot=3, victim=5) == 1


@pytest.mark.parametrize(("cell", "comes"), [((5, 4), False), ((2, 2), True)])
def test_no_foe_comes_where_somebody_stands(cell: tuple[int, int], comes: bool) -> None:
    twin = Twin()
    put(twin, 3, "CART", cell)
    put(twin, 4, "GONE", (0, 0))
    put(twin, 5, "GONE", (0, 0))
    step_of_both(twin, 0.05)
    assert (twin.life[4] > 0) == comes
    assert twin.life[5] > 0


@pytest.mark.parametrize("name", ["HITS", "COMES", "MINERALS", "RESERVE", "WON", "MINED", "CARGO_OF_ONE", "DAYLIGHT"])
def test_the_twin_can_disagree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, name, getattr(units, name) // 2)
    env = make(8)
    with pytest.raises(AssertionError):
        in_lockstep(env, Twin, 60, seed=2, play=heuristic)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("AT", "u0", (Unit.BASE, 0, 0)),
        ("LIFE", Unit.BASE, 9),
        ("HARM", Unit.LIGHT, 1),
        ("REACH", Unit.RANGED, 2),
        ("COST", Do.TRAIN_CART, 2),
        ("DAYLIGHT", None, 31),
        ("WHOLE_DAY", None, 41),
    ],
)
def test_the_fingerprint_tells_other_numbers(name: str, key: Any, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make(1).dynamics.fingerprint
    monkeypatch.setattr(units, name, value if key is None else {**getattr(units, name), key: value})
    assert make(1).dynamics.fingerprint != before


def test_random_legal_actions_are_legal() -> None:
    go_at_random(make(8, seed=1), 200)


@pytest.mark.slow
def test_compiled_as_op_by_op() -> None:
    compiled_as_op_by_op(make(16), 10)


def test_the_heuristic_is_better_than_to_wait_or_chance() -> None:
    returns = [mean_return(make(128, seed=1), play) for play in (heuristic, always_wait, random_legal)]
    assert returns[0] > 0 > -10 > max(returns[1:])
