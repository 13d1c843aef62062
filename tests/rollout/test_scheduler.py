"""The example of docs/your-own-lifecycle.md, beside the same by plain loops over one job at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from esper_masks import reference
from esper_masks.cli.common import find_in_code
from esper_masks.rollout import LifecycleEnv
from esper_masks.rollout.env.baselines import heuristic, random_legal
from tests.helpers import ROOT
from tests.lifecycles.lockstep import go_at_random, in_lockstep

FILE = ROOT / "docs" / "scheduler.py"
SCHEDULER = find_in_code(f"{FILE}:SCHEDULER", "rules", bool)
STAGES, OPS = ("NONE", "QUEUED", "RUNNING", "DONE"), ("WAIT", "START", "PREEMPT", "COLLECT")
NONE, QUEUED, RUNNING, DONE = range(4)
HORIZON = 25
Slots = list[tuple[str, int, int]]  # stage, age, priority


def make(batch: int, file: Path = FILE) -> LifecycleEnv:
    rules, dynamics = (find_in_code(f"{file}:{name}", name, bool) for name in ("SCHEDULER", "DYNAMICS"))
    return LifecycleEnv(rules, batch, dynamics=dynamics, seed=0)


class Twin:
    """One environment, by plain loops over Python numbers."""

    def __init__(self) -> None:
        self.slots = [[NONE, 0, 0] for _ in range(6)]  # stage, age, priority
        self.left = [0] * 6  # steps that a job which runs has to run yet; 0 before they are drawn
        self.open, self.epoch = True, 0

    def situation(self) -> dict[str, Any]:
        lower = [[slot[2] > victim[2] for victim in self.slots] for slot in self.slots]
        return {"row": {"open": self.open}, "head_masks": {"victim": lower}}

    def step(self, action: Sequence[int], noise: Sequence[float]) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal; not yet the next episode."""
        before = [list(slot) for slot in self.slots]
        self.slots, legal = reference.successor(SCHEDULER, before, action, **self.situation())
        points = 0.0
        for at, (slot, (was, _, worth)) in enumerate(zip(self.slots, before)):
            if slot[0] == was:  # no op has moved it
                self.leave(at, noise[at])
            if was == DONE and slot[0] == NONE:
                points += worth + 1
            if slot[0] == NONE:
                continue
            slot[1] += 1
            if was == NONE:
                slot[2] = 2 if noise[6 + at] > 0.8 else 1 if noise[6 + at] > 0.5 else 0
            if slot[0] in (QUEUED, DONE):
                points -= (slot[2] + 1) / 10
            if slot[0] != RUNNING:
                self.left[at] = 0
        self.open = noise[12] < (0.95 if self.open else 0.4)
        self.epoch += 1
        return points, self.epoch == HORIZON, legal

    def leave(self, at: int, u: float) -> None:
        """What a stage becomes by itself."""
        slot = self.slots[at]
        if slot[0] == NONE and u < 0.25:
            slot[0] = QUEUED
        elif slot[0] == RUNNING:
            self.left[at] = (self.left[at] or (2 if u < 0.5 else 4 if u < 0.8 else 8)) - 1
            if self.left[at] == 0:
                slot[0] = DONE

    def observe(self) -> list[float]:
        """By slot states' features; see ``RuleDynamics``."""
        seen = [float(slot[0] == stage) for stage in range(4) for slot in self.slots]
        seen += [slot[1] / HORIZON for slot in self.slots]
        seen += [float(slot[2] == priority) for priority in range(3) for slot in self.slots]
        return [*seen, float(self.open), self.epoch / HORIZON, 0.0]  # no op fills a slot


def test_lockstep_with_plain_loops() -> None:
    assert in_lockstep(make(20), Twin, 2 * HORIZON, play=heuristic) == set(range(len(OPS)))


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("> 0.5).int()", "> 0.45).int()"),
        ("> 0.8).int()", "> 0.85).int()"),
        ("< 0.95", "< 0.9"),
        ("< 0.4)", "< 0.5)"),
        ("{Job.QUEUED: 0.25}", "{Job.QUEUED: 0.3}"),
        ("{2: 0.5, 4: 0.3, 8: 0.2}", "{3: 0.5, 4: 0.3, 8: 0.2}"),
        ("{2: 0.5, 4: 0.3, 8: 0.2}", "{2: 0.5, 5: 0.3, 8: 0.2}"),
        ("{2: 0.5, 4: 0.3, 8: 0.2}", "{2: 0.5, 4: 0.3, 7: 0.2}"),
        ("{2: 0.5, 4: 0.3, 8: 0.2}", "{2: 0.4, 4: 0.4, 8: 0.2}"),
        ("{2: 0.5, 4: 0.3, 8: 0.2}", "{2: 0.5, 4: 0.2, 8: 0.3}"),
        ('{"open": True}', '{"open": False}'),
        ("- 0.1 *", "- 0.11 *"),
        (" | (stage == int(Job.DONE))", ""),
        ("priority.unsqueeze(-1) > ", "priority.unsqueeze(-1) >= "),
    ],
)
def test_the_twin_can_disagree(what: str, other: str, tmp_path: Path) -> None:
    code = FILE.read_text(encoding="utf-8")
    assert code.count(what) == 1
    changed = tmp_path / "scheduler.py"
    changed.write_text(code.replace(what, other), encoding="utf-8")
    env = make(20, changed)
    with pytest.raises(AssertionError):
        in_lockstep(env, Twin, HORIZON, play=heuristic)


def test_random_legal_actions_are_legal() -> None:
    go_at_random(make(16), 200)


def slots_of(states: torch.Tensor) -> list[Slots]:
    return [[(STAGES[stage], age, priority) for stage, age, priority in one] for one in states.tolist()]


def wanted(slots: Slots, is_open: bool) -> tuple[str, int, int]:
    """The op of the heuristic, its slot and its victim; 0 for what it does not use."""

    def first(stage: str, above: int = -1) -> int | None:
        found = [at for at, (own, _, priority) in enumerate(slots) if own == stage and priority > above]
        return max(found, key=lambda at: (slots[at][2], slots[at][1], -at), default=None)

    running = [at for at, (stage, _, _) in enumerate(slots) if stage == "RUNNING"]
    if is_open and len(running) < 2 and (at := first("QUEUED")) is not None:
        return "START", at, 0
    if (at := first("DONE")) is not None:
        return "COLLECT", at, 0
    if is_open and len(running) == 2:
        victim = min(running, key=lambda at: (slots[at][2], slots[at][1], at))
        if (at := first("QUEUED", above=slots[victim][2])) is not None:
            return "PREEMPT", at, victim
    return "WAIT", 0, 0


def test_the_heuristic_is_what_loops_say() -> None:
    torch.manual_seed(0)
    env = make(100)
    seen: dict[str, int] = dict.fromkeys(OPS, 0)
    for _ in range(24):
        before, is_open = slots_of(env.states), env.given["row"]["open"].tolist()
        played = heuristic(env)
        for one, up, (slot, victim, op) in zip(before, is_open, played.tolist()):
            name, at, taken = wanted(one, up)
            used: dict[str, Any] = {"WAIT": (), "PREEMPT": (slot, victim)}
            assert OPS[op] == name
            assert used.get(name, (slot,)) == {"WAIT": (), "PREEMPT": (at, taken)}.get(name, (at,))
            seen[name] += 1
        env.step(torch.where((torch.arange(100) % 2 == 0).unsqueeze(-1), played, random_legal(env)))
    assert not env.illegal_actions.any()
    assert min(seen.values()) > 10, seen
