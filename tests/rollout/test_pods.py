"""The pods of ``docs/lifecycles/pods.md`` as an environment, beside the same by plain loops."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from esper_masks import reference
from esper_masks.rollout import LifecycleEnv
from esper_masks.rollout.env.baselines import heuristic, random_legal
from tests.helpers import assert_near, seeded
from tests.lifecycles.lockstep import compiled_as_op_by_op, go_at_random, in_lockstep, mean_return
from tests.lifecycles.tables import module_of

pods = module_of("pods")
Pod, Do, Size = pods.Pod, pods.Do, pods.Size
STAGE, AGE, SIZE, TOLERATES, UNREACHABLE, NODE, REVISION = range(7)
HORIZON = 25
ROOM = {0: 2, 1: 2, 2: 1, 12: 2}
WEB = range(6)


def make(batch: int, **settings: Any) -> LifecycleEnv:
    return LifecycleEnv(pods.PODS, batch, dynamics=pods.DYNAMICS, **settings)


class Twin:
    """One environment, by plain loops over Python numbers."""

    def __init__(self) -> None:
        self.slots = [[0] * 7 for _ in range(8)]
        for at, node in enumerate((1, 1, 2, 2)):
            self.slots[at][STAGE], self.slots[at][NODE] = int(Pod.READY), node
        self.throttled, self.epoch, self.filled = False, 0, 0

    def situation(self) -> dict[str, Any]:
        fits = [[self.fits(slot, node) for node in range(16)] for slot in self.slots]
        masks = {"node": fits, "cordon": [False] * 16, "uncordon": [False] * 16}
        return {"row": {"throttled": self.throttled, "always_allow": False}, "head_masks": masks}

    def fits(self, pod: Sequence[int], node: int) -> bool:
        """Whether a node has room for a pod, and is reached."""
        there = [slot for slot in self.slots if slot[NODE] == node + 1]
        used = sum(1 + slot[SIZE] for slot in there)
        return used + 1 + pod[SIZE] <= ROOM.get(node, 0) and not any(slot[UNREACHABLE] for slot in there)

    def serving(self, at: int) -> bool:
        return at in WEB and self.slots[at][STAGE] == Pod.READY and not self.slots[at][UNREACHABLE]

    def updated(self) -> int:
        return sum(self.serving(at) and self.slots[at][REVISION] == 1 for at in WEB)

    def step(self, action: Sequence[int], noise: Sequence[float]) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal; not yet the next episode."""
        before, updated = [list(slot) for slot in self.slots], self.updated()
        self.slots, legal = reference.successor(pods.PODS.resolve(), before, action, **self.situation())
        op = Do(action[4]) if legal else Do.WAIT
        self.filled += op in (Do.CREATE, Do.CREATE_GATED)
        for at, slot in enumerate(self.slots):
            if op == Do.WAIT or at != action[0]:
                slot[STAGE] = int(self.following(slot[STAGE], noise[at]))
            if slot[STAGE] == Pod.ABSENT:
                self.slots[at] = [0] * 7
                continue
            slot[AGE] += 1
            if before[at][STAGE] == Pod.ABSENT:
                slot[SIZE], slot[REVISION] = int(Size.SMALL if at in WEB else Size.LARGE), 1
            if op == Do.BIND and at == action[0]:
                slot[NODE] = action[1] + 1
            if slot[STAGE] in (Pod.SUCCEEDED, Pod.FAILED):
                slot[NODE] = 0
            fate = noise[8 + slot[NODE] - 1] if slot[NODE] else 0.15
            lost = fate > 0.2 if slot[UNREACHABLE] else fate < 0.02
            slot[UNREACHABLE] = slot[UNREACHABLE] + 60 if lost else 0
        self.throttled, self.epoch = noise[24] < 0.05, self.epoch + 1
        missing = max(0, 3 - sum(self.serving(at) for at in WEB))
        points = self.updated() - updated - 0.1 * missing - 0.05 * (4 - self.updated())
        return points, self.epoch == HORIZON, legal

    def following(self, stage: int, u: float) -> int:
        """What a stage becomes by itself."""
        if stage == Pod.CREATING and u < 0.9:
            return Pod.RUNNING if u < 0.85 else Pod.FAILED
        if stage == Pod.RUNNING and u < 0.85:
            return Pod.READY if u < 0.8 else Pod.FAILED
        if stage == Pod.READY and u < 0.02:
            return Pod.RUNNING if u < 0.01 else Pod.FAILED
        if stage == Pod.TERMINATING and u < 0.7:
            return Pod.ABSENT
        return stage

    def observe(self) -> list[float]:
        """By slot states' features; see ``RuleDynamics``."""
        seen = [[float(slot[STAGE] == stage) for slot in self.slots] for stage in Pod]
        seen += [[slot[AGE] / HORIZON for slot in self.slots]]
        seen += [[float(slot[SIZE] == size) for slot in self.slots] for size in Size]
        seen += [[float(slot[TOLERATES]) for slot in self.slots]]
        seen += [[slot[UNREACHABLE] / (slot[UNREACHABLE] + HORIZON) for slot in self.slots]]
        seen += [[float(slot[NODE] == node) for slot in self.slots] for node in range(17)]
        seen += [[float(slot[REVISION] == revision) for slot in self.slots] for revision in range(2)]
        row = [float(self.throttled), 0.0]
        return [*[x for each in seen for x in each], *row, self.epoch / HORIZON, self.filled / HORIZON]


def test_lockstep_with_plain_loops() -> None:
    taken = in_lockstep(make(20), Twin, 2 * HORIZON)
    assert taken | {Do.COLLECT, Do.TAINT_EVICT} == {*Do} - {Do.CORDON, Do.UNCORDON}


@pytest.mark.parametrize(
    ("name", "value"), [("SECONDS", 30), ("MISSING", 0.2), ("LATE", 0.1), ("WEB", 5), ("REPLICAS", 3), ("ROOM", {})]
)
def test_the_twin_can_disagree(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, name, value)
    with pytest.raises(AssertionError):
        in_lockstep(make(8), Twin, HORIZON)


def test_random_legal_actions_are_legal() -> None:
    go_at_random(make(16, seed=1), 200)


def test_compiled_as_op_by_op() -> None:
    compiled_as_op_by_op(make(16), 10)


@pytest.mark.slow
def test_compiled_as_eager() -> None:
    envs = [make(32, mode=mode) for mode in ("eager", "compiled")]
    generator = seeded(0)
    torch.manual_seed(0)
    for _ in range(2 * HORIZON):
        actions = random_legal(envs[0])
        actions[::5, -1] = int(Do.FORCE_DELETE)  # illegal where nothing is in the slot
        noise = torch.rand(32, envs[0].dynamics.uniforms, generator=generator)
        (obs, reward, *_), (its_obs, its_reward, *_) = (env.step(actions, noise) for env in envs)
        assert torch.equal(envs[0].states, envs[1].states)
        assert_near(its_obs, obs)
        assert_near(its_reward, reward)
    assert envs[0].illegal_actions.any()
    assert torch.equal(envs[0].illegal_actions, envs[1].illegal_actions)


def test_the_heuristic_is_better_than_chance() -> None:
    assert mean_return(make(256, seed=1), heuristic) > -1 > -4 > mean_return(make(256, seed=1), random_legal)


def test_pods_of_one_node_are_lost_together() -> None:
    env = make(2)
    noise = torch.full((2, env.dynamics.uniforms), 0.9)
    noise[0, 8] = 0.01  # n0
    env.step(torch.zeros(2, 5, dtype=torch.int64), noise)
    assert env.states[:, :4, UNREACHABLE].tolist() == [[60, 60, 0, 0], [0, 0, 0, 0]]
    masks = env.given["head_masks"]["node"]
    assert masks[:, 4, :3].tolist() == [[False, False, True], [False, False, True]]  # n0 and n1 are full
