"""The rows, group by group; those of ``scaling`` are a centre, and from there one axis at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from esper_masks.rulesets import ruleset

Run = Callable[[], Any]  # what is timed
Verify = Callable[[Any], Any]  # the check of what it gave; may give figures for the row

OURS = ("compiled", "eager", "cuda-graph")
LOOPS = ("loop, small tensors", "loop, one tensor")
PEERS = ("torch eager", "torch compiled", "torchrl eager", "sb3 eager")
BOOLS = ("compiled, bools", "eager, bools")  # masks of all heads, unpacked as the loops give them
ROW_MAJOR_STATES = "compiled, row-major states"
FROM_OBJECTS = "from objects"  # masks from the Python objects that a loop begins with
DISTRIBUTIONS = ("ours compiled", "ours eager", *PEERS)  # given ready masks
VECTORIZED = "ours compiled, vectorized"  # by an option of the compiler, see ``ways``
ANY_BATCH = "ours compiled, any batch"  # one graph for batches of any size, where the others are compiled for theirs
DROPINS = ("drop-in, one by one", "drop-in, batch")
MASKABLE_PPO = ("sb3 heads", "sb3 joint")  # one choice a head, or the index of a whole action
ARMS = ("masked", "unmasked", "penalized")
BASELINES = ("heuristic", "random", "wait")
LIBRARY_WAYS = (*DISTRIBUTIONS, VECTORIZED, ANY_BATCH)
WAYS = (*OURS, *LOOPS, *BOOLS, ROW_MAJOR_STATES, FROM_OBJECTS, *LIBRARY_WAYS, *DROPINS, *MASKABLE_PPO)
USUAL = (LOOPS[0], "torch eager", "sb3 joint")  # the first that did the same work is what a row is compared with
SAME_WORK = ("work", "rules", "slots", "step")  # the fields in which rows that are compared agree
STEPS = ("forward", "forward+backward")
TRAININGS = ("rollout", "training")  # a rollout, or a rollout and its update
ROLLOUT, MINIBATCHES = 25, 4  # steps of an environment in a rollout, and parts that the update takes of it
SCALING, LEARNING = "scaling", "learning"  # the group that is measured where none is named; the one without times
HEAD = "head of "
AXES = ("batch", "work", "slots", "rules", "memory", "threads", "layout", "step", "way")  # the order of a table


@dataclass(frozen=True)
class Settings:
    """How rows are measured.

    Args:
        device: "cpu" or "cuda".
        seconds: that a row is timed for.
        steps: of all environments, in a training of ``learning``.
    """

    device: str = "cpu"
    seconds: float = 1.0
    steps: int = 2_000_000


QUICK = Settings(seconds=0.05, steps=100_000)  # to see that all rows run


@dataclass(frozen=True)
class Case:
    """One row.

    Args:
        work: "decision": from slot states and logits to actions, log-probabilities and entropies; "words": the masks;
            "head of N": the distribution of one head; "dropin": the masks from the objects that callers hold;
            "rollout", "training": see ``TRAININGS``; "learning": a training to its end, which is not timed.
        rules: a rule set.
        slots: how many.
        batch: environments, or rows of a distribution.
        way: ours in one of its modes, a loop over environments, or another library: one of ``WAYS``; of "learning" one
            of ``ARMS`` and ``BASELINES``.
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
        """What tells it from the centre."""
        words = {name: str(getattr(self, name)) for name in ("work", "rules", "way", "step", "layout")}
        words["slots"] = f"{self.slots} slot{'s' * (self.slots > 1)}"
        words |= {"threads": f"{self.threads} threads", "memory": f"{self.memory} memory"}
        return ", ".join(word for name, word in words.items() if self._differs(name)) or self.way

    @property
    def title(self) -> str:
        """The name and the batch: no other row of a group has both."""
        return f"{self.name}, batch {self.batch:,}"

    @property
    def axis(self) -> str:
        """The field that tells it from the centre: "batch" only where no other does, "way" wherever that does."""
        return next(filter(self._differs, reversed(AXES)), "batch")

    def _differs(self, name: str) -> bool:
        return bool(getattr(self, name) != getattr(CENTRE, name))

    @property
    def is_built(self) -> bool:
        """Whether its code is compiled before the first call ends."""
        return "compiled" in self.way or self.way in ("cuda-graph", *MASKABLE_PPO)

    @property
    def is_timed(self) -> bool:
        """Whether the row is a time."""
        return self.work != LEARNING

    @property
    def is_update(self) -> bool:
        """Whether actions are given, and a gradient is wanted."""
        return self.step != STEPS[0]

    @property
    def has_limit(self) -> bool:
        """Whether the work could come down to copying ``limit_bytes``."""
        return self.work in ("decision", "words") or self.width > 0

    @property
    def slot_ids(self) -> tuple[str, ...]:
        """Names of the slots."""
        return tuple(f"slot{i}" for i in range(self.slots))

    @property
    def width(self) -> int:
        """Of the one head of a distribution; 0 for other work."""
        return int(self.work.removeprefix(HEAD)) if self.work.startswith(HEAD) else 0

    @property
    def steps(self) -> int:
        """Of each environment, in one call."""
        return ROLLOUT if self.work in TRAININGS else 1

    @property
    def limit_bytes(self) -> int:
        """The fewest bytes of an environment: a byte a feature; an fp32 a logit, a byte a head's action and fp32
        log-probability and entropy, or a byte a slot's word; each once. A head alone has a bit of its mask for each
        choice, and a training makes decisions.
        """
        rules = ruleset(self.rules)
        if self.width:
            return -(-self.width // 8) + (8 if self.is_update else 4) * self.width + 9
        states = self.slots * len(rules.feature_names)
        if self.work in ("words", "dropin"):
            return states + self.slots
        sizes = {"slot": self.slots, "op": len(rules.op_rules)}
        columns = sum(sizes.get(head.name, len(head.choices)) for head in rules.heads)
        if self.is_update:  # the masks are there, and each logit has a gradient
            return self.slots + 8 * columns + len(rules.heads) + 8
        return states + 4 * columns + len(rules.heads) + 8


CENTRE = Case()


def star(device: str, cores: int) -> list[Case]:
    """The rows of ``scaling`` for a device, the centre first.

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
    return [*rows, *(replace(CENTRE, way=w, step=s, batch=b) for w, s, b in product(PEERS, STEPS, (4096, 65536)))]


def masks() -> list[Case]:
    """Mask building: the engine against loops, as words and as bools, and from objects.

    Over 64 slots a loop takes as long for each environment at 65,536 as at 4,096, and some gigabytes.
    """
    words, every = replace(CENTRE, work="words"), (*LOOPS, FROM_OBJECTS, "eager", "compiled", *BOOLS)
    batches = (1, 4, 16, 256, 4096, 65536)
    rows = [replace(words, way=way, batch=batch) for batch, way in product(batches, every)]
    rows += [replace(words, way=ROW_MAJOR_STATES, batch=batch) for batch in (4096, 65536)]
    rows += [replace(words, way=way, batch=4096, slots=64) for way in every]
    rows += [replace(words, way=w, batch=b, slots=64) for b, w in product((1, 16, 256), (*LOOPS, *OURS[:2]))]
    rows += [replace(words, way=way, slots=64) for way in OURS[:2]]
    return rows + [replace(words, way=way, batch=4096, rules="esper-2026-06") for way in every]


def distributions() -> list[Case]:
    """One head, and whole decisions from ready masks. Ours draws the op first, and then what the op permits; the others
    draw the heads of a decision independently, with illegal pairs of op and slot.
    """
    small, middle, long, longest = (replace(CENTRE, work=f"{HEAD}{width}") for width in (4, 13, 128, 1000))
    decisions = [CENTRE, replace(CENTRE, rules="esper-2026-06")]
    every: list[tuple[Iterable[Case], Iterable[str]]] = [
        ((middle, longest, *decisions), DISTRIBUTIONS),
        ((small, long), DISTRIBUTIONS[:4]),  # up to 16 choices are unrolled
        ((middle, longest), (VECTORIZED,)),
        ((middle, CENTRE), (ANY_BATCH,)),
        ((replace(middle, batch=4), replace(CENTRE, batch=4)), DISTRIBUTIONS),
        ((replace(middle, batch=4096), replace(CENTRE, batch=4096)), DISTRIBUTIONS[:4]),
        ([replace(case, layout="batch-last") for case in decisions], DISTRIBUTIONS[:1]),
    ]
    return [replace(c, step=s, way=w) for cases, ways in every for c, s, w in product(cases, STEPS, ways)]


def dropins() -> list[Case]:
    """The drop-in functions against the loop that they replace."""
    sizes = [*product(("esper-2025-12", "esper-2026-06"), (3,), (1, 4, 16, 64, 256, 4096)), ("esper-2026-06", 16, 1)]
    return [Case("dropin", *size, way) for size, way in product(sizes, (LOOPS[0], *DROPINS))]


def trainings() -> list[Case]:
    """Ours against MaskablePPO, and the parts of an iteration of ours: its decisions, and its scores with gradients."""
    ways = ("compiled", "eager", *MASKABLE_PPO)
    rows = [Case(work, batch=envs, way=way) for work, envs, way in product(TRAININGS, (8, 64, 1024), ways)]
    for envs, way in product((1024, 8192), ways[:2]):
        rows += [Case(work, batch=envs, way=way) for work in TRAININGS if envs == 8192]
        rows += [Case(batch=envs, way=way), Case(batch=envs * ROLLOUT // MINIBATCHES, way=way, step=STEPS[1])]
    return rows


def learnings() -> list[Case]:
    """The same training with masks and without, and policies that nobody trained."""
    return [Case(LEARNING, slots=slots, batch=1024, way=way) for slots in (3, 16) for way in (*ARMS, *BASELINES)]


GROUPS: dict[str, Callable[[], list[Case]]] = {  # of the CPU, beside ``star``
    "masks": masks,
    "distributions": distributions,
    "dropin": dropins,
    "training": trainings,
    LEARNING: learnings,
}


def group(name: str, device: str, cores: int) -> list[Case]:
    """The rows of a group, see ``star``, in the order in which they are measured.

    Rows that are compared are neighbours, so that a minute in which the machine is busy meets all of them.
    """
    cases = star(device, cores) if name == SCALING else GROUPS[name]()
    return sorted(cases, key=lambda case: ([getattr(case, field) for field in SAME_WORK], case.batch))
