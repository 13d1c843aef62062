"""The rows, group by group; those of ``scaling`` are a centre, and from there one axis at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from esper_masks.bench.lifecycles import GROWN, GUARDS, MASKED, PODS, PREFIX, rules_of

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
POPULATION, SEQUENTIAL, PRODUCTS = "population", "one after another", "products alone"  # see ``networks``
COLD, WARM = "cold", "warm"  # a first call, before anything of ours was built and after
LIBRARY_WAYS = (*DISTRIBUTIONS, VECTORIZED, ANY_BATCH)
NETWORK_WAYS = (POPULATION, SEQUENTIAL, PRODUCTS)
OTHER_WAYS = (*DROPINS, *MASKABLE_PPO, *NETWORK_WAYS, COLD, WARM)
WAYS = (*OURS, *LOOPS, *BOOLS, ROW_MAJOR_STATES, FROM_OBJECTS, *LIBRARY_WAYS, *OTHER_WAYS)
USUAL = (
    LOOPS[0],
    "torch eager",
    "sb3 joint",
    SEQUENTIAL,
)  # the first that did the same work is what a row is compared with
SAME_WORK = ("work", "rules", "slots", "step")  # the fields in which rows that are compared agree
STEPS = ("forward", "forward+backward")
TRAININGS = ("rollout", "training")  # a rollout, or a rollout and its update
ROLLOUT, MINIBATCHES = 25, 4  # steps of an environment in a rollout, and parts that the update takes of it
EPOCH, VALIDATED = "epoch of ", " with validation"  # of a host, before and after what it is
FIRST_CALL = "first call"
SCALING = "scaling"  # the group that is measured where none is named
HEAD = "head of "
AXES = ("batch", "work", "slots", "rules", "memory", "threads", "layout", "step", "way")  # the order of a table


@dataclass(frozen=True)
class Settings:
    """How rows are measured.

    Args:
        device: "cpu" or "cuda".
        seconds: that a row is timed for.
    """

    device: str = "cpu"
    seconds: float = 1.0


QUICK = Settings(seconds=0.05)  # to see that all rows run


@dataclass(frozen=True)
class Case:
    """One row.

    Args:
        work: "decision": from slot states and logits to actions, log-probabilities and entropies; "words": the masks;
            "head of N": the distribution of one head; "dropin": the masks from the objects that callers hold;
            "rollout", "training": see ``TRAININGS``; "epoch of HOST": that of a network, see ``networks``; "first
            call": that of a compiled step in a process, see ``first_call``.
        rules: a rule set that ships, or one of ``lifecycles``.
        slots: how many.
        batch: environments, rows of a distribution, or hosts.
        way: ours in one of its modes, a loop over environments, or another library: one of ``WAYS``.
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
    def is_update(self) -> bool:
        """Whether actions are given, and a gradient is wanted."""
        return self.step != STEPS[0]

    @property
    def trains(self) -> bool:
        """Whether it is a training's work, a policy's or a network's."""
        return self.work in TRAININGS or self.work.startswith(EPOCH)

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
    def validates(self) -> bool:
        """Whether an epoch of a network ends with its validation."""
        return self.work.endswith(VALIDATED)

    @property
    def limit_bytes(self) -> int:
        """The fewest bytes of an environment: a byte a feature and a row; an fp32 a logit, a byte a head's action and
        fp32 log-probability and entropy, or a byte a slot's word; each once. A mask has a bit for each choice: that of
        a head alone, and that which a caller gives of a head in each slot. A training makes decisions.
        """
        rules = rules_of(self.rules)
        if self.width:
            return -(-self.width // 8) + (8 if self.is_update else 4) * self.width + 9
        given = self.slots * sum(-(-len(rules.head(name).choices) // 8) for name in MASKED.get(self.rules, ()))
        states = self.slots * len(rules.feature_names) + len(rules.row_features) + given
        if self.work in ("words", "dropin"):
            return states + self.slots + given
        sizes = {"slot": self.slots, "op": len(rules.op_rules)}
        columns = sum(sizes.get(head.name, len(head.choices)) for head in rules.heads)
        if self.is_update:  # the masks are there, and each logit has a gradient
            return self.slots + 8 * columns + len(rules.heads) + 8
        return states + 4 * columns + len(rules.heads) + 8


CENTRE = Case()


def grid(**fields: Iterable[Any]) -> list[Case]:
    """Rows of all combinations of some values of fields; the other fields are those of the centre."""
    return [replace(CENTRE, **dict(zip(fields, values))) for values in product(*fields.values())]


def star(device: str, cores: int) -> list[Case]:
    """The rows of ``scaling`` for a device, the centre first.

    Args:
        device: "cpu" or "cuda".
        cores: of the CPU; with more than one there is a row for all of them.
    """
    cuda = device == "cuda"
    large = (1 << 20, 1 << 22)
    return [
        *grid(batch=(65536, 1, 4, 64, 256, 1024, 4096, 16384, *large)),
        *grid(work=["words"], batch=(4096, 65536, *large)),
        *grid(slots=(1, 8, 16, 64)),
        *grid(rules=("esper-2025-11", "esper-2026-06"), batch=[4096]),
        *grid(rules=["esper-2026-06"]),
        *grid(way=["eager"], batch=(1, 4, 4096, 65536)),
        *grid(way=["cuda-graph"], memory=["fresh"], batch=(4, 4096, 65536) if cuda else ()),  # what it gives lies ready
        *grid(step=STEPS[1:], batch=(4096, 65536)),
        *grid(layout=["batch-last"], batch=(4096, 65536)),
        *grid(memory=["fresh"], batch=(4, 65536, 1 << 20)),
        *grid(memory=["fresh"], slots=[64]),
        *grid(threads=[cores] if cores > 1 and not cuda else []),
        *grid(way=LOOPS[:1], batch=(1, 4, 4096, 65536)),
        *grid(way=LOOPS[:1], rules=["esper-2026-06"], batch=[4096]),
        *grid(way=LOOPS[:1], work=["words"]),
        *grid(way=LOOPS[1:], batch=(4, 4096, 65536)),
        *grid(way=PEERS, step=STEPS, batch=(4096, 65536)),
    ]


def masks() -> list[Case]:
    """Mask building: the engine against loops, as words and as bools, and from objects.

    Over 64 slots a loop takes as long for each environment at 65,536 as at 4,096, and some gigabytes; loops are
    therefore left out at 65,536.
    """
    words, every = partial(grid, work=["words"]), (*LOOPS, FROM_OBJECTS, "eager", "compiled", *BOOLS)
    return [
        *words(batch=(1, 4, 16, 256, 4096, 65536), way=every),
        *words(batch=(4096, 65536), way=[ROW_MAJOR_STATES]),
        *words(slots=[64], batch=[4096], way=every),
        *words(slots=[64], batch=(1, 16, 256), way=(*LOOPS, *OURS[:2])),
        *words(slots=[64], way=OURS[:2]),
        *words(rules=["esper-2026-06"], batch=[4096], way=every),
    ]


def distributions() -> list[Case]:
    """One head, and whole decisions from ready masks. Ours draws the op first, and then what the op permits; the others
    draw the heads of a decision independently, with illegal pairs of op and slot.

    The head of 1,000 is measured at 16,384 rows: a call on 65,536 takes seconds, and a row takes as long in both.
    """
    ours_and_torch = DISTRIBUTIONS[:4]
    decisions = partial(grid, rules=("esper-2025-12", "esper-2026-06"), step=STEPS)
    rows = [
        *grid(work=["head of 13"], step=STEPS, way=(*DISTRIBUTIONS, VECTORIZED)),
        *grid(work=["head of 1000"], step=STEPS, way=(*DISTRIBUTIONS, VECTORIZED), batch=[16384]),
        *decisions(way=DISTRIBUTIONS),
        *grid(step=STEPS, way=DISTRIBUTIONS[:1], layout=["batch-last"]),
        *grid(work=["head of 128"], step=STEPS, way=ours_and_torch),
        *grid(work=["head of 13"], step=STEPS, way=ours_and_torch, batch=[4096]),
        *grid(work=("head of 13", "decision"), step=STEPS, way=DISTRIBUTIONS, batch=[4]),
        *grid(work=("head of 13", "decision"), way=[ANY_BATCH]),
        *decisions(slots=(3, 16), batch=(4, 256, 4096, 65536), way=DISTRIBUTIONS[1:3]),
    ]
    return list(dict.fromkeys(rows))


def dropins() -> list[Case]:
    """The drop-in functions against the loop that they replace."""
    rows = partial(grid, work=["dropin"], way=(LOOPS[0], *DROPINS))
    return [
        *rows(rules=("esper-2025-12", "esper-2026-06"), batch=(1, 4, 16, 64, 256, 4096)),
        *rows(rules=["esper-2026-06"], slots=[16], batch=[1]),
    ]


def guards() -> list[Case]:
    """What each kind of guard costs, as rules that differ by one guard; and pods with a budget and a choice of node,
    beside a loop and beside libraries that draw the heads of a decision independently.
    """
    words, pods = partial(grid, work=["words"], slots=[8]), partial(grid, rules=[PODS.name], slots=[8])
    return [
        *words(rules=[PREFIX + name for name in GUARDS], way=OURS[:2]),
        *words(rules=[PODS.name], way=(*OURS[:2], LOOPS[0])),
        *pods(way=(*OURS[:2], LOOPS[0], *DISTRIBUTIONS)),
    ]


def growth() -> list[Case]:
    """What a decision costs as one thing grows and the others stay: environments, slots, heads, ops, guards."""

    def rows(heads: int = 4, ops: int = 6, guards: int = 0, batch: int = 16384, slots: int = 3) -> list[Case]:
        name = GROWN.format(heads=heads, ops=ops, guards=guards)
        return grid(rules=[name], batch=[batch], slots=[slots], way=OURS[:2])

    grown: dict[str, tuple[int, ...]] = {
        "batch": tuple(1 << power for power in range(6, 21, 2)),
        "slots": (1, 2, 4, 8, 16, 32, 64),
        "heads": (2, 6, 8, 10, 12),
        "ops": (4, 12, 24, 48, 60),
        "guards": (2, 4, 8, 12),
    }
    return [*rows(), *(c for name, sizes in grown.items() for n in sizes for c in rows(**{name: n}) if c not in rows())]


def trainings() -> list[Case]:
    """Ours against MaskablePPO, and the parts of an iteration of ours: its decisions, and its scores with gradients."""
    ours, parts = OURS[:2], (1024, 8192)
    return [
        *grid(work=TRAININGS, batch=(8, 64, 1024), way=(*ours, *MASKABLE_PPO)),
        *grid(work=TRAININGS, batch=[8192], way=ours),
        *grid(batch=parts, way=ours),
        *grid(step=STEPS[1:], batch=[envs * ROLLOUT // MINIBATCHES for envs in parts], way=ours),
    ]


def first_calls() -> list[Case]:
    """What a program waits for before its first decision, or its first scores with their gradient."""
    rules = "esper-2025-12", "esper-2026-06"
    return grid(work=[FIRST_CALL], rules=rules, step=STEPS, batch=[64], way=(COLD, WARM))


def networks() -> list[Case]:
    """Populations of hosts against hosts trained one after another, which take as long each, however many they are."""
    works, mlp = partial(grid, slots=[3]), f"{EPOCH}MLP of width 16"
    ways = partial(works, way=(SEQUENTIAL, POPULATION))
    return [
        *ways(work=(mlp, mlp + VALIDATED), batch=[16]),
        *works(work=(mlp, mlp + VALIDATED), way=[POPULATION], batch=(4, 64, 256, 1024)),
        *works(work=[mlp], way=[PRODUCTS], batch=(64, 1024)),
        *ways(work=[f"{EPOCH}MLP of width 8"], batch=[16]),
        *works(work=[f"{EPOCH}MLP of width 8"], way=[POPULATION], batch=(64, 1024)),
        *works(work=[f"{EPOCH}MLP of width 8"], way=[PRODUCTS], batch=[1024]),
        *ways(work=[f"{EPOCH}CNN of 8 channels", f"{EPOCH}CNN of 8 channels{VALIDATED}"], batch=[16]),
        *works(work=[f"{EPOCH}CNN of 8 channels"], way=[POPULATION], batch=(64, 256)),
        *works(work=[f"{EPOCH}CNN of 8 channels"], way=[PRODUCTS], batch=[64]),
    ]


GROUPS: dict[str, Callable[[], list[Case]]] = {  # of the CPU, beside ``star``
    "masks": masks,
    "distributions": distributions,
    "dropin": dropins,
    "guards": guards,
    "growth": growth,
    "first-calls": first_calls,
    "training": trainings,
    "networks": networks,
}


def group(name: str, device: str, cores: int) -> list[Case]:
    """The rows of a group, see ``star``, in the order in which they are measured.

    Rows that are compared are neighbours, so that a minute in which the machine is busy meets all of them.
    """
    cases = star(device, cores) if name == SCALING else GROUPS[name]()
    return sorted(cases, key=lambda case: ([getattr(case, field) for field in SAME_WORK], case.batch))
