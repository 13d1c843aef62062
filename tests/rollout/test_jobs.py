"""The jobs of ``docs/lifecycles/jobs.md`` as an environment, beside the same by plain loops."""

from collections.abc import Sequence
from typing import Any

import pytest

from esper_masks import reference
from esper_masks.rollout import LifecycleEnv
from esper_masks.rollout.env.baselines import heuristic, random_legal
from tests.lifecycles.lockstep import compiled_as_op_by_op, go_at_random, in_lockstep, mean_return
from tests.lifecycles.tables import module_of

jobs = module_of("jobs")
Job, Do, Dependency, Qos, Hold = jobs.Job, jobs.Do, jobs.Dependency, jobs.Qos, jobs.Hold
STAGE, AGE, HOLD, DEPENDENCY, QOS, OWN, REQUEUE, CLEANING, LIMIT, LICENSED, BEGIN_IN, RESTARTS = range(12)
HORIZON = 25
ENDED = range(Job.COMPLETED, Job.OUT_OF_MEMORY + 1)
BITS = (OWN, REQUEUE, CLEANING, LIMIT, LICENSED)


def make(batch: int, **settings: Any) -> LifecycleEnv:
    return LifecycleEnv(jobs.JOBS, batch, dynamics=jobs.DYNAMICS, **settings)


class Twin:
    """One environment, by plain loops over Python numbers."""

    def __init__(self) -> None:
        self.slots = [[0] * 12 for _ in range(6)]
        self.due, self.spent = [0] * 6, [0] * 6  # steps after which a job that runs ends; and how many it has run
        self.licences, self.down, self.epoch, self.filled = 1, 0, 0, 0

    def running(self) -> list[list[int]]:
        return [slot for slot in self.slots if slot[STAGE] in (Job.CONFIGURING, Job.RUNNING, Job.SUSPENDED)]

    def situation(self) -> dict[str, Any]:
        row = {"operator": False, "partition_up": True, "licences_free": self.licences, "nodes_down": self.down}
        idle = 4 - self.down - len(self.running())
        return {"row": row, "head_masks": {"node": [node < idle for node in range(4)], "partition": [False, False]}}

    def step(self, action: Sequence[int], noise: Sequence[float]) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal; not yet the next episode."""
        before = [list(slot) for slot in self.slots]
        self.slots, legal = reference.successor(jobs.JOBS.resolve(), before, action, **self.situation())
        op = Do(action[4]) if legal else Do.WAIT
        named = {action[0]} if op in (Do.START, Do.PURGE) else set(action[0::3][:2]) if op == Do.PREEMPT else set()
        points = 0.0
        for at, slot in enumerate(self.slots):
            if at in named and slot[STAGE] != before[at][STAGE]:
                self.due[at] = self.spent[at] = 0
            else:
                self.leave(at, noise[at], at in named)
            if slot[STAGE] == Job.NONE:
                self.slots[at] = [0] * 12
                continue
            slot[AGE] = slot[AGE] + 5 if slot[STAGE] == before[at][STAGE] else 5
            self.change(slot, before[at][STAGE], [noise[6 + 6 * which + at] for which in range(5)])
            worth = [1, 3, 9][slot[QOS]]
            points += worth * (self.done(slot) - self.done(before[at]))
            if slot[STAGE] == Job.PENDING and slot[DEPENDENCY] in (0, 2) and slot[BEGIN_IN] == 0:
                points -= 0.1 * worth
        self.licences = 1 - sum(slot[LICENSED] for slot in self.running())
        if noise[36] < 0.2 and self.down + len(self.running()) < 4:
            self.down += 1
        elif noise[36] > 0.6 and self.down:
            self.down -= 1
        self.epoch += 1
        return points, self.epoch == HORIZON, legal

    def done(self, slot: Sequence[int]) -> float:
        """What part of a job has been done."""
        if slot[STAGE] == Job.RUNNING:
            return min(1, slot[AGE] / 35)
        return float(slot[STAGE] in (Job.COMPLETING, Job.COMPLETED))

    def leave(self, at: int, u: float, named: bool) -> None:
        """What a stage becomes by itself."""
        slot = self.slots[at]
        if slot[STAGE] == Job.RUNNING:
            self.due[at] = self.due[at] or (3 if u < 0.5 else 7)
            self.spent[at] += 1
            if self.spent[at] >= self.due[at] and not named:
                slot[STAGE], self.due[at], self.spent[at] = int(Job.COMPLETING), 0, 0
        elif named:
            return
        elif slot[STAGE] == Job.NONE and u < 0.3:
            slot[STAGE] = int(Job.PENDING)
        elif slot[STAGE] == Job.PENDING and u < 0.05:
            slot[STAGE] = int(Job.DEADLINE)
        elif slot[STAGE] == Job.COMPLETING:
            slot[STAGE] = int(Job.COMPLETED if u < 0.9 else Job.FAILED)
        elif slot[STAGE] in ENDED and u < 0.8:
            slot[STAGE] = int(Job.NONE)

    def change(self, slot: list[int], was: int, noise: Sequence[float]) -> None:
        """What jobs are when they come, and what changes while they are there."""
        qos, licensed, requeue, depends, begins = noise
        if was == Job.NONE:
            slot[QOS] = int(Qos.LOW if qos <= 0.5 else Qos.NORMAL if qos <= 0.8 else Qos.HIGH)
            slot[LICENSED], slot[REQUEUE] = int(licensed < (0.8 if qos > 0.8 else 0.4)), int(requeue < 0.8)
            slot[DEPENDENCY] = int(Dependency.WAITING if depends < 0.3 else Dependency.NONE)
            slot[BEGIN_IN] = max(0, int(50 * (begins - 0.8)))
            return
        if slot[DEPENDENCY] == Dependency.WAITING and depends < 0.4:
            slot[DEPENDENCY] = int(Dependency.NEVER if depends < 0.04 else Dependency.SATISFIED)
        slot[BEGIN_IN] = max(0, slot[BEGIN_IN] - 5)
        slot[CLEANING] = int(was == Job.RUNNING and slot[STAGE] == Job.PENDING)
        slot[RESTARTS] += slot[CLEANING]

    def observe(self) -> list[float]:
        """By slot states' features; see ``RuleDynamics``."""
        seen = [[float(slot[STAGE] == stage) for slot in self.slots] for stage in Job]
        seen += [[slot[AGE] / HORIZON for slot in self.slots]]
        for at, values in ((HOLD, Hold), (DEPENDENCY, Dependency), (QOS, Qos)):
            seen += [[float(slot[at] == value) for slot in self.slots] for value in values]
        seen += [[float(slot[at]) for slot in self.slots] for at in BITS]
        seen += [[slot[at] / (slot[at] + HORIZON) for slot in self.slots] for at in (BEGIN_IN, RESTARTS)]
        row = [0.0, 1.0, *[x / (abs(x) + HORIZON) for x in (self.licences, self.down)]]
        return [*[x for each in seen for x in each], *row, self.epoch / HORIZON, self.filled / HORIZON]


def test_lockstep_with_plain_loops() -> None:
    taken = in_lockstep(make(20), Twin, 2 * HORIZON)
    assert taken == {Do.WAIT, Do.START, Do.PREEMPT, Do.PURGE}  # the rest is for users and operators


@pytest.mark.parametrize(("name", "value"), [("STEP", 6), ("WORTH", 2), ("WAITING", 0.2), ("LICENCES", 2)])
def test_the_twin_can_disagree(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, name, value)
    with pytest.raises(AssertionError):
        in_lockstep(make(8), Twin, HORIZON)


def test_random_legal_actions_are_legal() -> None:
    go_at_random(make(16, seed=1), 200)


def test_compiled_as_op_by_op() -> None:
    compiled_as_op_by_op(make(16), 10)


def test_the_heuristic_is_better_than_chance() -> None:
    assert mean_return(make(256, seed=1), heuristic) > 6 > 0 > mean_return(make(256, seed=1), random_legal)
