"""The environment once more, by plain loops over Python numbers, one environment at a time; see docs/environment.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from esper_masks import reference
from esper_masks.rollout import Assumptions, Blueprint, Calibration, Improvement, Mechanics
from esper_masks.rules import MaskRules, Op


@dataclass
class Slot:
    stage: str
    age: int = 0
    elapsed: int = 0
    dwell: int = 0
    blueprint: int = 0
    quality: float = 0.0
    evidence: float = 0.0
    weight: float = 0.0


@dataclass
class Twin:
    rules: MaskRules
    slot_count: int
    calibration: Calibration
    mechanics: Mechanics
    assumptions: Assumptions
    length: int
    max_seeds: int
    slots: list[Slot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rules = self.rules.resolve()
        self.empty = self.rules.empty.name
        self.reset()

    def reset(self) -> None:
        self.slots = [Slot(self.empty) for _ in range(self.slot_count)]
        self.epoch = self.seeds = 0
        self.gain = self.returns = 0.0

    def is_legal(self, action: dict[str, int]) -> bool:
        if not 0 <= action["op"] < len(self.rules.op_rules):
            return False
        op = self.rules.op_rules[action["op"]]
        for name in op.uses:
            head = self.rules.head(name)
            if name != "slot" and not 0 <= action[name] < len(head.choices):
                return False
            if name != "slot" and head.choices[action[name]] not in head.open_choices:
                return False
        if "slot" not in op.uses:
            return op.always
        states = [(int(self.rules.stages[slot.stage]), slot.age) for slot in self.slots]
        legal = reference.slot_by_op(
            self.rules, states, enabled=[True] * self.slot_count, total_seeds=self.seeds, max_seeds=self.max_seeds
        )
        return 0 <= action["slot"] < self.slot_count and legal[op.id][action["slot"]]

    def step(self, action: dict[str, int], noise: Sequence[float], reset: bool = True) -> tuple[float, bool, bool]:
        """Reward, whether the episode ended, whether the action was legal."""
        legal = self.is_legal(action)
        op = self.rules.op_rules[action["op"]] if legal else None
        if op is not None and "slot" in op.uses:
            self._act(op, self.slots[action["slot"]], action, noise)
        ends = self.epoch + 1 >= self.length
        gain = rent = 0.0
        for at, slot in enumerate(self.slots):
            slot.age, slot.elapsed = slot.age + 1, slot.elapsed + 1
            share = float(slot.stage in self.mechanics.full)
            if slot.stage == self.mechanics.blending:
                share = min(slot.elapsed / slot.dwell, 1.0)
            kept = slot.stage == self.mechanics.kept
            if kept or not ends:
                gain += share * slot.quality
            if slot.stage != self.empty and slot.stage not in self.mechanics.cleared:
                rent += self.assumptions.rent * self._blueprint(slot.blueprint).params
            if not kept:
                error = self._noise() * normal(noise[2 + at])
                slot.evidence += share * (share * slot.quality + error)
                slot.weight += share * share
            if slot.stage in self.mechanics.advances and slot.elapsed >= slot.dwell:
                slot.stage, slot.elapsed = self.mechanics.advances[slot.stage], 0
                slot.dwell = self._dwell(slot.stage, noise[2 + self.slot_count + at])
        self.slots = [Slot(self.empty) if slot.stage == self.empty else slot for slot in self.slots]
        reward = gain - self.gain - rent
        self.epoch, self.gain, self.returns = self.epoch + 1, gain, self.returns + reward
        if ends and reset:
            self.reset()
        return reward, ends, legal

    def observe(self, stages: Sequence[str], blueprints: Sequence[int]) -> list[float]:
        gone = (self.empty, *self.mechanics.cleared)
        columns = [[float(slot.stage == stage) for slot in self.slots] for stage in stages]
        columns += [[float(s.blueprint == b and s.stage not in gone) for s in self.slots] for b in blueprints]
        columns += [
            [slot.age / self.length for slot in self.slots],
            [slot.elapsed / self.length for slot in self.slots],
        ]
        columns += [[slot.evidence / (slot.weight or 1) / 10 for slot in self.slots]]
        columns += [[slot.weight / (1 + slot.weight) for slot in self.slots]]
        seeds = self.seeds / (self.max_seeds if self.max_seeds > 0 else self.length)
        return [value for column in columns for value in column] + [self.epoch / self.length, seeds]

    def _act(self, op: Op, slot: Slot, action: dict[str, int], noise: Sequence[float]) -> None:
        target = op.enters or op.moves.get(self.rules.stages[slot.stage])
        if target is None:
            return
        if slot.stage == self.empty:
            statistics = self._blueprint(action["blueprint"]).improvement
            spread = math.sqrt(max(statistics.spread**2 - self._noise() ** 2, 0.0))
            slot.blueprint, slot.age = action["blueprint"], 0
            slot.quality = statistics.mean + spread * normal(noise[0])
            self.seeds += 1
        slot.stage, slot.elapsed = target.name, 0
        slot.dwell = self._dwell(slot.stage, noise[1])

    def _noise(self) -> float:
        noise = self.assumptions.noise
        return self.calibration.unblended.spread if noise is None else noise

    def _blueprint(self, choice: int) -> Blueprint:
        name = self.rules.head("blueprint").choices[choice]
        return next((entry for known, entry in self.calibration.blueprints.items() if known.upper() == name), NOTHING)

    def _dwell(self, stage: str, uniform: float) -> int:
        """The first number of epochs that not more than this share of the seeds undercuts; at least one."""
        counts = self.calibration.dwell.get(stage, {}) if stage in self.mechanics.advances else {}
        total, below = sum(counts.values()), 0
        for epochs in sorted(counts):
            below += counts[epochs]
            if uniform < below / total:
                return max(epochs, 1)
        return max(counts, default=1)


NOTHING = Blueprint(0, 0, Improvement(0, 0.0, 0.0), {})


def normal(uniform: float) -> float:
    return NormalDist().inv_cdf(uniform * (1 - 2**-23) + 2**-24)
