"""The servers of ``docs/lifecycles/servers.md`` as an environment, beside the same by plain loops."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from esper_masks import reference
from esper_masks.rollout import LifecycleEnv
from esper_masks.rollout.env.baselines import heuristic, random_legal
from tests.lifecycles.lockstep import compiled_as_op_by_op, go_at_random, in_lockstep, mean_return
from tests.lifecycles.tables import module_of

servers = module_of("servers")
Vm, Task, Do = servers.Vm, servers.Task, servers.Do
Fault = servers.Fault
STAGE, AGE, TASK, LOCK, FLAVOR, HOST, DOWN, VOLUME, NEED, OLD, FAULT = range(11)
CORES = [0, 1, 2, 4]
DAY = 24


def make(batch: int, **settings: Any) -> LifecycleEnv:
    return LifecycleEnv(servers.SERVERS, batch, dynamics=servers.DYNAMICS, **settings)


class Twin:
    """One environment, by plain loops over Python numbers."""

    def __init__(self) -> None:
        self.slots = [[0] * 11 for _ in range(3)]
        self.slots[0] = [int(Vm.ACTIVE), 0, 0, 0, 2, 1, 0, 0, 2, 0, 0]
        self.admin, self.left, self.hour, self.created = False, 2, 0, 0

    def situation(self) -> dict[str, Any]:
        fits = []
        for at in range(3):
            others = sum(
                max(CORES[slot[FLAVOR]], CORES[slot[OLD]]) for other, slot in enumerate(self.slots) if other != at
            )
            fits.append([others + size <= 8 for size in (1, 2, 4)])
        up = [host not in self.down() for host in (1, 2, 3)]
        row = {"admin": self.admin, "deferred": True, "instances_left": self.left}
        return {"row": row, "head_masks": {"flavor": fits, "host": [up] * 3}}

    def down(self) -> set[int]:
        return {slot[HOST] for slot in self.slots if slot[DOWN]}

    def serves(self, slot: Sequence[int]) -> bool:
        runs = slot[STAGE] in (Vm.ACTIVE, Vm.RESIZED) and slot[TASK] in (Task.UNSET, Task.VERIFY)
        return runs and not slot[DOWN] and not slot[FAULT]

    def step(self, action: Sequence[int], noise: Sequence[float]) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal; not yet the next episode."""
        before, was_down = [list(slot) for slot in self.slots], self.down()
        self.slots, legal = reference.successor(servers.SERVERS.resolve(), before, action, **self.situation())
        named = action[0] if legal and action[4] != Do.WAIT else None
        op = Do(action[4]) if legal else Do.WAIT
        is_down = {h for h in (1, 2, 3) if (noise[14 + h] >= 0.2 if h in was_down else noise[14 + h] < 0.02)}
        points = 0.0
        for at, slot in enumerate(self.slots):
            mine = op if at == named else None
            if mine is None:
                self.leave(slot, noise[at])
            if slot[STAGE] == Vm.NONE:
                continue
            slot[AGE] += 1
            served = self.serves(before[at])
            self.works(slot, before[at], action, mine, noise[12 + at])
            slot[DOWN] = int(slot[HOST] in is_down)
            self.breaks(slot, mine, noise[6 + at], noise[9 + at])
            self.needs(slot, mine, served, noise[3 + at])
            if self.serves(slot):
                points += min(CORES[slot[FLAVOR]], CORES[slot[NEED]])
            stored = slot[STAGE] in (Vm.SHELVED, Vm.SHELVED_OFFLOADED, Vm.SOFT_DELETED)
            points -= (0.05 if stored else 0.25) * CORES[slot[FLAVOR]] + 0.25 * CORES[slot[OLD]]
        self.created += op == Do.CREATE
        self.admin, self.hour = noise[18] < 0.25, self.hour + 1
        self.left = sum(slot[STAGE] == Vm.NONE for slot in self.slots) if noise[19] < 0.8 else 0
        return points, self.hour == DAY, legal

    def leave(self, slot: list[int], u: float) -> None:
        if slot[STAGE] == Vm.BUILDING and u < 0.7:
            slot[STAGE] = int(Vm.ACTIVE if u < 0.6 else Vm.ERROR)
        elif (slot[STAGE] == Vm.ACTIVE and u < 0.01) or (slot[STAGE] == Vm.RESIZED and u < 0.02):
            slot[STAGE] = int(Vm.ERROR)

    def works(self, slot: list[int], before: list[int], action: Sequence[int], op: Any, place: float) -> None:
        """Task, flavor and host."""
        slot[TASK] = int({Vm.RESIZED: Task.VERIFY, Vm.BUILDING: Task.SPAWNING}.get(slot[STAGE], Task.UNSET))
        thawed = op == Do.UNSHELVE and before[STAGE] == Vm.SHELVED_OFFLOADED
        busy = {
            Do.SOFT_REBOOT: Task.REBOOTING,
            Do.HARD_REBOOT: Task.REBOOTING_HARD,
            Do.RESIZE: Task.RESIZE_PREP,
            Do.MIGRATE: Task.MIGRATING,
            Do.EVACUATE: Task.SPAWNING,
            Do.REBUILD: Task.SPAWNING,
        }
        if op in busy or thawed:
            slot[TASK] = int(busy.get(op, Task.SPAWNING))
        if op in (Do.RESIZE, Do.MIGRATE):
            slot[OLD] = slot[FLAVOR]
        if op in (Do.CREATE, Do.RESIZE):
            slot[FLAVOR] = action[1] + 1
        if op == Do.REVERT_RESIZE:
            slot[FLAVOR] = slot[OLD]
        if slot[STAGE] != Vm.RESIZED:
            slot[OLD] = 0
        if op in (Do.MIGRATE, Do.LIVE_MIGRATE, Do.EVACUATE):
            slot[HOST] = action[2] + 1
        if op == Do.CREATE or thawed:
            slot[HOST] = 1 if place < 1 / 3 else 2 if place < 2 / 3 else 3
        if slot[STAGE] == Vm.SHELVED_OFFLOADED:
            slot[HOST] = 0

    def breaks(self, slot: list[int], op: Any, trouble: float, locks: float) -> None:
        """Lock and fault."""
        if op in (Do.LOCK, Do.ADMIN_LOCK, Do.UNLOCK):
            pass
        elif slot[LOCK] == 2 and locks < 0.25:
            slot[LOCK] = 0
        elif slot[LOCK] == 0 and slot[STAGE] == Vm.ACTIVE and locks < 0.02:
            slot[LOCK] = 2
        chance = 0.02 if slot[LOCK] else 0.06
        rebooted, renewed = op in (Do.SOFT_REBOOT, Do.HARD_REBOOT), op in (Do.UNRESCUE, Do.REBUILD)
        restarted = rebooted or slot[STAGE] not in (Vm.ACTIVE, Vm.PAUSED, Vm.SUSPENDED)
        if slot[FAULT] and (renewed or (slot[FAULT] == 1 and restarted)):
            slot[FAULT] = 0
        elif rebooted or renewed or slot[FAULT] or slot[STAGE] != Vm.ACTIVE:
            pass
        elif trouble < chance:
            slot[FAULT] = 2 if trouble < chance / 3 else 1

    def needs(self, slot: list[int], op: Any, served: bool, users: float) -> None:
        chance = 0.05 if slot[NEED] else 0.25
        if users < chance:
            slot[NEED] = 1 if users < chance / 3 else 2 if users < 2 * chance / 3 else 3
        if users > 1 - (0.03 if served else 0.1):
            slot[NEED] = 0
        if slot[STAGE] in (Vm.BUILDING, Vm.SOFT_DELETED) or op == Do.REBUILD:
            slot[NEED] = 0

    def observe(self) -> list[float]:
        """By slot states' features; see ``RuleDynamics``."""
        seen = [[float(slot[STAGE] == stage) for slot in self.slots] for stage in Vm]
        seen += [[slot[AGE] / DAY for slot in self.slots]]
        for at, values in (
            (TASK, 10),
            (LOCK, 3),
            (FLAVOR, 4),
            (HOST, 4),
            (DOWN, 0),
            (VOLUME, 0),
            *((NEED, 4), (OLD, 4)),
        ):
            seen += [[float(slot[at] == value) for slot in self.slots] for value in range(values)]
            seen += [[float(slot[at]) for slot in self.slots]] * (values == 0)
        seen += [[float(slot[FAULT] == value) for slot in self.slots] for value in range(3)]
        row = [float(self.admin), 1.0, self.left / (self.left + DAY)]
        return [*[x for each in seen for x in each], *row, self.hour / DAY, self.created / DAY]


def test_lockstep_with_plain_loops() -> None:
    taken = in_lockstep(make(12), Twin, DAY + 6, play=heuristic)
    assert {Do.WAIT, Do.CREATE, Do.RESIZE, Do.CONFIRM_RESIZE, Do.RESCUE, Do.LOCK, Do.SHELVE, Do.SOFT_DELETE} <= taken


@pytest.mark.slow
def test_lockstep_with_plain_loops_for_long() -> None:
    assert in_lockstep(make(24), Twin, 4 * DAY, seed=1, play=heuristic) >= set(Do) - {
        Do.DELETE
    }  # here deletion is deferred


@pytest.mark.parametrize("name", ["MEDDLED", "LEAVES", "HOST_FAILS", "QUOTA", "CORE", "UNLOCKS", "IMAGE"])
def test_the_twin_can_disagree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, name, 2 * getattr(servers, name))
    with pytest.raises(AssertionError):
        in_lockstep(make(20), Twin, 2 * DAY, play=heuristic)


def test_random_legal_actions_are_legal() -> None:
    go_at_random(make(8, seed=1), 200)


@pytest.mark.slow
def test_compiled_as_op_by_op() -> None:
    compiled_as_op_by_op(make(16), 10)


def env_of(slots: list[list[int]]) -> LifecycleEnv:
    """One environment, and what is in its three slots."""
    env = make(1)
    env._state = env.state._replace(states=torch.tensor([slots], dtype=torch.int32))
    return env


@pytest.mark.parametrize(
    ("stage", "op", "left"),
    [
        (Vm.ACTIVE, Do.PAUSE, Fault.HUNG),
        (Vm.ACTIVE, Do.SUSPEND, Fault.HUNG),
        (Vm.PAUSED, Do.UNPAUSE, Fault.HUNG),
        (Vm.PAUSED, Do.HARD_REBOOT, Fault.NONE),
        (Vm.ACTIVE, Do.STOP, Fault.NONE),
        (Vm.ACTIVE, Do.SOFT_REBOOT, Fault.NONE),
        (Vm.ACTIVE, Do.SET_PASSWORD, Fault.HUNG),
    ],
)
def test_what_ends_a_hung_server(stage: Any, op: Any, left: Any) -> None:
    env = env_of([[int(stage), 3, 0, 0, 2, 1, 0, 0, 2, 0, int(Fault.HUNG)], [0] * 11, [0] * 11])
    env.step(torch.tensor([[0, 0, 0, 0, int(op)]]), torch.full((1, env.dynamics.uniforms), 0.5))
    assert not env.illegal_actions.any()
    assert env.states[0, 0, FAULT] == int(left)


@pytest.mark.parametrize(("now", "old", "fits"), [(1, 3, [1, 1, 0]), (3, 1, [1, 1, 0]), (1, 0, [1, 1, 1])])
def test_a_resize_holds_the_larger_flavor(now: int, old: int, fits: list[int]) -> None:
    resized = [int(Vm.RESIZED if old else Vm.ACTIVE), 3, 0, 0, now, 1, 0, 0, 2, old, 0]
    env = env_of([resized, [int(Vm.ACTIVE), 3, 0, 0, 2, 1, 0, 0, 2, 0, 0], [0] * 11])
    assert env.given["head_masks"]["flavor"][0, 2].tolist() == [bool(fit) for fit in fits]


def test_nothing_is_won_by_an_op_that_does_nothing() -> None:
    def busy(env: LifecycleEnv) -> torch.Tensor:
        """The heuristic, and in place of WAIT a password for a server that runs."""
        actions, may = heuristic(env), env.masks().slot_by_op[:, int(Do.SET_PASSWORD)]
        idle = (actions[:, -1] == int(Do.WAIT)) & may.any(-1)
        actions[:, 0] = torch.where(idle, may.int().argmax(-1), actions[:, 0])
        actions[:, -1] = torch.where(idle, int(Do.SET_PASSWORD), actions[:, -1])
        return actions

    assert mean_return(make(512, seed=1), busy) < mean_return(make(512, seed=1), heuristic) + 1.5


def test_the_heuristic_is_better_than_chance() -> None:
    assert mean_return(make(128, seed=1), heuristic) > 40 > 0 > mean_return(make(128, seed=1), random_legal)
