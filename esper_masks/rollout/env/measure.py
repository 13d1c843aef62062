"""A calibration from event logs: each seed is followed from its germination to its end."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import BinaryIO

from esper_masks.rollout.env.calibration import Blueprint, Calibration, Improvement
from esper_masks.rules.fields import FrozenMapping
from esper_masks.telemetry.events import OUTCOMES, Germinated, Malformed, Outcome, StageChanged, read_events

MAX_EPOCHS = 1_000_000  # of a seed
UNBLENDED = {"GERMINATED", "TRAINING"}  # stages in which a seed has no share in the network


@dataclass
class Seed:
    """What a log says about one seed until it ends; the log may mention the seed even later."""

    blueprint: str
    params: int
    stages: list[tuple[str, float]]  # names, and when each was entered
    outcome: str | None = None
    age: int | None = None
    improvement: float | None = None


@dataclass
class Measurement:
    """The seeds of logs, which are read one after another."""

    seeds: list[Seed] = field(default_factory=list)
    lines: int = 0
    malformed: int = 0
    unusable: int = 0  # germinations without a blueprint, parameters or a time

    def read(self, stream: BinaryIO) -> None:
        """Read one log. Environments of different logs are different environments."""
        live: dict[tuple[int, str], tuple[str, Seed]] = {}
        for event in read_events(stream):
            self.lines += 1
            match event:
                case Germinated():
                    live.pop((event.env, event.slot), None)
                    if event.blueprint is None or event.params is None or event.time is None:
                        self.unusable += 1
                        continue
                    seed = Seed(event.blueprint, event.params, [("GERMINATED", event.time)])
                    live[event.env, event.slot] = event.seed, seed
                    self.seeds.append(seed)
                case StageChanged() | Outcome():
                    name, followed = live.get((event.env, event.slot), ("", None))
                    if followed is not None and name == event.seed:
                        _follow(followed, event)
                case Malformed():
                    self.malformed += 1

    def calibration(self) -> Calibration:
        """Statistics of what was read. Seeds without an age count no epochs, seeds without an end no improvement."""
        by_blueprint: dict[str, list[Seed]] = defaultdict(list)
        dwell: dict[str, Counter[int]] = defaultdict(Counter)
        ends: dict[str, Counter[str]] = defaultdict(Counter)
        for seed in self.seeds:
            by_blueprint[seed.blueprint].append(seed)
            for stage, epochs in _dwell(seed):
                dwell[stage][epochs] += 1
            if seed.outcome is not None and len(seed.stages) > 1:
                ends[seed.stages[-2][0]][seed.outcome] += 1
        return Calibration(
            FrozenMapping({name: _measure(seeds) for name, seeds in by_blueprint.items()}),
            FrozenMapping({stage: FrozenMapping(counts) for stage, counts in dwell.items()}),
            FrozenMapping({stage: FrozenMapping(counts) for stage, counts in ends.items()}),
            Improvement.measure(
                seed.improvement
                for seed in self.seeds
                if seed.outcome and seed.improvement is not None and {name for name, _ in seed.stages[:-1]} <= UNBLENDED
            ),
        )


def _follow(seed: Seed, event: StageChanged | Outcome) -> None:
    if isinstance(event, StageChanged):
        if seed.outcome is None and event.time is not None:
            seed.stages.append((event.target, event.time))
            seed.outcome = event.target if event.target in OUTCOMES.values() else None
    elif seed.outcome == event.stage and seed.age is None and seed.improvement is None:
        seed.age, seed.improvement = event.age, event.improvement


def _dwell(seed: Seed) -> Iterable[tuple[str, int]]:
    """The stages that a seed left for another, and its epochs in each; a log has times, and the age in epochs."""
    if not seed.age or seed.age > MAX_EPOCHS or seed.outcome is None:
        return
    epoch = (seed.stages[-1][1] - seed.stages[0][1]) / seed.age
    for (stage, entered), (following, left) in pairwise(seed.stages):
        if epoch > 0 and left >= entered and following != seed.outcome:
            yield stage, round((left - entered) / epoch)


def _measure(seeds: list[Seed]) -> Blueprint:
    points: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        if seed.outcome and seed.improvement is not None:
            points[seed.outcome].append(seed.improvement)
    params = Counter(seed.params for seed in seeds)
    commonest = max(params, key=lambda number: (params[number], number))
    by_outcome = FrozenMapping({outcome: Improvement.measure(of_one) for outcome, of_one in points.items()})
    return Blueprint(len(seeds), commonest, Improvement.measure(chain(*points.values())), by_outcome)
