"""What this version was to reach, what it was before, and what it is; and the two groups that nothing else shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from docs.tables import TIMES, batches, figure, found, nanoseconds, result, table
from esper_masks.bench.cases import BOOLS, COLD, DISTRIBUTIONS, FIRST_CALL, MASKABLE_PPO, STEPS, WARM

HEADS = {4: "esper-2025-12", 8: "esper-2026-06"}
BATCHES = 4, 256, 4096, 65536
OURS_COMPILED, OURS, TORCH, TORCH_COMPILED = DISTRIBUTIONS[:4]
ENVS = 64  # of a first call
CALLS = {"decision": STEPS[0], "scores and their gradient": STEPS[1]}


def eager() -> str:
    """Whole actions of ready masks in eager code, and how far ahead of torch's."""
    cells = []
    for heads, slots, step in product(HEADS, (3, 16), STEPS):
        fields = {"rules": HEADS[heads], "slots": slots, "step": step}
        took = [nanoseconds("distributions", {**fields, "batch": batch, "way": OURS}) for batch in BATCHES]
        each = [f"{figure(ns)} ({ahead(heads, slots, step, batch):.2f} {TIMES})" for ns, batch in zip(took, BATCHES)]
        cells.append([f"{heads} heads, {slots} slots, {step.replace('+', ' + ')}", *each])
    return table("distributions", ["nanoseconds a row", *(name for name, _ in batches(*BATCHES))], *cells)


def ahead(heads: int, slots: int, step: str, batch: int) -> float:
    """How many times as long torch takes for a row in eager code."""
    fields = {"rules": HEADS[heads], "slots": slots, "step": step, "batch": batch}
    ours, torchs = (nanoseconds("distributions", {**fields, "way": way}) for way in (OURS, TORCH))
    return torchs / ours


def first_calls() -> str:
    """Seconds of the first call in a process."""
    cells = []
    for heads, name in product(HEADS, CALLS):
        took = [first_call(heads, CALLS[name], way) for way in (COLD, WARM)]
        cells.append(
            [f"{name}, {heads} heads", *(f"{seconds:.1f}" if seconds > 1 else f"{seconds:.2g}" for seconds in took)]
        )
    return table("first-calls", ["seconds of a first call", "nothing is kept", "kept by another process"], *cells)


def first_call(heads: int, step: str, way: str) -> float:
    fields = {"work": FIRST_CALL, "rules": HEADS[heads], "step": step, "batch": ENVS, "way": way}
    return nanoseconds("first-calls", fields) * ENVS / 1e9


@dataclass(frozen=True)
class Goal:
    """A figure, and what it was to be: at most that, or at least that where it is a ratio."""

    name: str
    before: str
    now: float
    wanted: float
    unit: str

    @property
    def is_met(self) -> bool:
        return self.now >= self.wanted if self.unit == TIMES else self.now <= self.wanted

    def cells(self) -> list[str]:
        """A line of the table. What is missed is not rounded to what was wanted."""
        now, wanted = f"{self.now:.2f}" if self.unit == TIMES else figure(self.now), figure(self.wanted)
        if self.is_met:
            return [self.name, self.before, f"{now} {self.unit}", f"{wanted} {self.unit}"]
        now = f"{self.now:.4g}" if float(now.replace(",", "")) == self.wanted else now
        return [self.name, self.before, f"{now} {self.unit} **missed**", f"{wanted} {self.unit}"]


def all_goals() -> Iterator[Goal]:
    """In the order in which they were set; ``before`` is what was measured then."""
    for heads, before, wanted, sizes in ((4, "0.78", 1.0, BATCHES), (8, "0.29", 1.3, BATCHES[1:])):
        least = min(ahead(heads, *of) for of in product((3, 16), STEPS, sizes))
        name = f"eager over torch eager, {heads} heads, least from {sizes[0]} rows on"
        yield Goal(name, f"{before} {TIMES}", least, wanted, TIMES)
    for way, how, before_of, most in ((COLD, "", (18, 12, 22, 27), (8, 12)), (WARM, "kept, ", (8, 9, 16, 22), (2, 2))):
        for (heads, call), seconds in zip(product(HEADS, CALLS), before_of):
            took = first_call(heads, CALLS[call], way)
            yield Goal(f"first call, {how}{call}, {heads} heads", f"{seconds} s", took, most[heads > 4], "s")
    for batch, before in ((4, "56"), (256, "66")):
        took = nanoseconds("scaling", {"batch": batch}) * batch / 1e3
        yield Goal(f"a call of {batch} environments, `out=`, compiled", f"{before} µs", took, 15, "µs")
    slots = found("scaling", {"slots": 64})
    assert slots is not None
    yield Goal("64 slots, an environment", "546 ns", float(slots["ns_per_env"]), 200, "ns")
    yield Goal("64 slots, built", "12 s", float(slots["compile_s"]), 12, "s")
    yield Goal("a slot of 64", "8.5 ns", float(slots["ns_per_env"]) / 64, nanoseconds("scaling", {}) / 3, "ns")
    torchs, mine = (
        nanoseconds("distributions", {"step": STEPS[1], "way": way}) for way in (TORCH_COMPILED, OURS_COMPILED)
    )
    name = "4 heads, 65,536, forward + backward, compiled by the user, over torch compiled"
    yield Goal(name, f"0.51 {TIMES}", torchs / mine, 1, TIMES)
    compiled, eager = (nanoseconds("masks", {"work": "words", "way": way}) for way in BOOLS)
    yield Goal("masks as bools, compiled over eager", f"0.25 {TIMES}", eager / compiled, 1, TIMES)
    for envs, wanted in ((8, 3.0), (64, 3.0), (1024, 3.5)):
        fields: dict[str, Any] = {"work": "training", "batch": envs}
        others = min(nanoseconds("training", {**fields, "way": way}) for way in MASKABLE_PPO)
        ratio = others / nanoseconds("training", {**fields, "way": "compiled"})
        yield Goal(f"training over MaskablePPO, {envs:,} environments", f"2.2 to 2.7 {TIMES}", ratio, wanted, TIMES)
    for how, group in (("alone", "endurance/alone"), ("beside a busy process", "endurance/beside")):
        _, second, *_, last, _ = result(group)["rows"]
        ratio = last["steps_per_s"] / second["steps_per_s"]
        yield Goal(f"20 M steps {how}: the last million over the second", "", ratio, 0.95, TIMES)


def goals() -> str:
    """What was wanted of this version."""
    files = ["distributions", "first-calls", "scaling", "masks", "training", "endurance/alone", "endurance/beside"]
    return table(files, ["figure", "before", "now", "wanted"], *(goal.cells() for goal in all_goals()))
