"""The rows: a centre, and from there one axis at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from esper_masks.rulesets import ruleset

OURS = ("compiled", "eager", "cuda-graph")
LOOPS = ("loop, small tensors", "loop, one tensor")
PEERS = ("torch eager", "torch compiled", "torchrl eager", "sb3 eager")


@dataclass(frozen=True)
class Case:
    """One row.

    Args:
        work: "decision": from slot states and logits to actions, log-probabilities and entropies; "words": the masks.
        rules: a rule set.
        slots: how many.
        batch: environments.
        way: ours in one of its modes, a loop over environments, or another library given ready masks.
        step: "forward", or "forward+backward": log-probability and entropy of given actions and their gradient.
        layout: of the logits, "row-major" as a linear layer gives them or "batch-last"; states are batch-last.
        threads: of a CPU.
        memory: where a decision of ours goes: "allocated" once, as narrow as it can be, or "fresh" at every call.
    """

    work: str = "decision"
    rules: str = "esper-2025-12"
    slots: int = 3
    batch: int = 65536
    way: str = "compiled"
    step: str = "forward"
    layout: str = "row-major"
    threads: int = 1
    memory: str = "allocated"

    @property
    def name(self) -> str:
        """What tells it from the centre, and the batch."""
        other = [str(mine) for mine, usual in zip(_axes(self), _axes(CENTRE)) if mine != usual]
        slots = [f"{self.slots} slot{'s' * (self.slots > 1)}"] if self.slots != CENTRE.slots else []
        more = [f"{self.threads} threads"] if self.threads != CENTRE.threads else []
        more += [f"{self.memory} memory"] if self.memory != CENTRE.memory else []
        return ", ".join([*(other or ([] if slots or more else ["compiled"])), *slots, *more])

    @property
    def axis(self) -> str:
        """The field that tells it from the centre: "batch" only where no other does, "way" wherever that does."""
        names = ("way", "step", "layout", "threads", "memory", "rules", "slots", "work")
        return next((name for name in names if getattr(self, name) != getattr(CENTRE, name)), "batch")

    @property
    def is_built(self) -> bool:
        """Whether its code is compiled before the first call ends."""
        return "compiled" in self.way or self.way == "cuda-graph"

    @property
    def limit_bytes(self) -> int:
        """The fewest bytes of an environment: a byte a feature; an fp32 a logit, a byte a head's action and fp32
        log-probability and entropy, or a byte a slot's word; each once.
        """
        rules = ruleset(self.rules)
        states = self.slots * len(rules.feature_names)
        if self.work == "words":
            return states + self.slots
        sizes = {"slot": self.slots, "op": len(rules.op_rules)}
        columns = sum(sizes.get(head.name, len(head.choices)) for head in rules.heads)
        if self.step != "forward":  # the masks are there, and each logit has a gradient
            return self.slots + 8 * columns + len(rules.heads) + 8
        return states + 4 * columns + len(rules.heads) + 8


def _axes(case: Case) -> Sequence[str]:
    return case.work, case.rules, case.way, case.step, case.layout


CENTRE = Case()


def star(device: str, cores: int) -> list[Case]:
    """All rows for a device, the centre first.

    Args:
        device: "cpu" or "cuda".
        cores: of the CPU; with more than one there is a row for all of them.
    """
    cuda = device == "cuda"
    large = (1 << 20, 1 << 22)
    rows = [CENTRE, *(replace(CENTRE, batch=batch) for batch in (1, 4, 64, 256, 1024, 4096, 16384, *large))]
    rows += [replace(CENTRE, work="words", batch=batch) for batch in (4096, 65536, *large)]
    rows += [replace(CENTRE, slots=slots) for slots in (1, 8, 16, 64)]
    rows += [replace(CENTRE, rules=rules, batch=4096) for rules in ("esper-2025-11", "esper-2026-06")]
    rows += [replace(CENTRE, rules="esper-2026-06")]
    rows += [replace(CENTRE, way="eager", batch=batch) for batch in (1, 4, 4096, 65536)]
    graphs = [replace(CENTRE, way="cuda-graph", batch=batch) for batch in (4, 4096, 65536) if cuda]
    rows += [replace(case, memory="fresh") for case in graphs]  # what a graph gives lies ready
    rows += [replace(CENTRE, step="forward+backward", batch=batch) for batch in (4096, 65536)]
    rows += [replace(CENTRE, layout="batch-last", batch=batch) for batch in (4096, 65536)]
    rows += [replace(CENTRE, memory="fresh", batch=batch) for batch in (4, 65536, 1 << 20)]
    rows += [replace(CENTRE, memory="fresh", slots=64)]
    rows += [replace(CENTRE, threads=cores)] if cores > 1 and not cuda else []
    rows += [replace(CENTRE, way=LOOPS[0], batch=batch) for batch in (1, 4, 4096, 65536)]
    rows += [replace(CENTRE, way=LOOPS[0], rules="esper-2026-06", batch=4096)]
    rows += [replace(CENTRE, way=LOOPS[0], work="words")]
    rows += [replace(CENTRE, way=LOOPS[1], batch=batch) for batch in (4, 4096, 65536)]
    steps = ("forward", "forward+backward")
    rows += [replace(CENTRE, way=way, step=step, batch=b) for way in PEERS for step in steps for b in (4096, 65536)]
    return rows
