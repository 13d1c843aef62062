"""Hypothesis strategies: everything random in the tests is drawn here."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from hypothesis import reject
from hypothesis import strategies as st
from torch import Tensor

import esper_masks as em

INT32 = st.integers(-(2**31), 2**31 - 1)


@dataclass
class Case:
    """An engine and one batch of inputs for it."""

    engine: em.MaskEngine
    states: Tensor
    total_seeds: Tensor
    max_seeds: int | Tensor
    enabled: Tensor | None
    switches: dict[str, object]

    def masks(self) -> em.ActionMasks:
        return self.engine(self.states, self.total_seeds, max_seeds=self.max_seeds, enabled=self.enabled)


@st.composite
def cases(draw: st.DrawFn, max_slots: int = 64, max_batch: int = 4) -> Case:
    """Any rule set, switches, 1 to 64 slots, any batch, integers of any size, every optional argument in every form."""
    rules = em.ruleset(draw(st.sampled_from(em.rulesets())))
    switches = {name: draw(st.sampled_from(values)) for name, values in rules.switches.items()}
    slots = draw(st.one_of(st.integers(1, 4), st.integers(1, max_slots)))
    batch = draw(st.integers(0, max_batch))
    engine = em.MaskEngine(rules, [f"s{i}" for i in range(slots)], **switches)
    stage = st.one_of(st.integers(-2, 12), st.integers(-2, 99), INT32)
    age = st.one_of(st.integers(-1, 7), INT32)
    row = st.tuples(stage, age, *(st.integers(-1, 3) for _ in rules.features))
    values = draw(st.lists(row, min_size=batch * slots, max_size=batch * slots))
    states = torch.tensor(values, dtype=torch.int32).reshape(batch, slots, len(rules.feature_names))
    states = draw(st.sampled_from(LAYOUTS))(states)
    totals = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=batch, max_size=batch)), dtype=torch.int32)
    limits = st.lists(st.integers(-1, 4), min_size=batch, max_size=batch).map(
        lambda v: torch.tensor(v, dtype=torch.int64)
    )
    booleans = st.booleans()
    enabled = st.one_of(
        st.none(),
        st.lists(booleans, min_size=slots, max_size=slots).map(lambda v: torch.tensor(v, dtype=torch.bool)),
        st.lists(booleans, min_size=batch * slots, max_size=batch * slots).map(
            lambda v: torch.tensor(v, dtype=torch.bool).reshape(batch, slots)
        ),
    )
    return Case(engine, states, totals, draw(st.one_of(st.integers(-1, 4), limits)), draw(enabled), switches)


def batch_last(states: Tensor) -> Tensor:
    return states.permute(2, 1, 0).contiguous().permute(2, 1, 0)


def strided(states: Tensor) -> Tensor:
    """Every other row and column of a larger tensor, from an odd offset."""
    batch, slots, features = states.shape
    wide = torch.full((2 * batch + 1, 2 * slots + 1, 3 * features), -7, dtype=states.dtype)
    wide[1::2, 1::2, 2::3] = states
    return wide[1::2, 1::2, 2::3]


LAYOUTS = (lambda s: s, batch_last, strided, lambda s: s.long())


Stage = IntEnum("Stage", {"S0": 0, "S2": 2, "S3": 3, "S6": 6})
Mode = IntEnum("Mode", {"ZERO": 0, "ONE": 1, "FAR": 70_000})
OPS = [IntEnum("Act", {f"OP{i}": i for i in range(n)}) for n in range(6)]


@st.composite
def random_rules(draw: st.DrawFn) -> em.MaskRules:
    """Rules of any make: several unconditional ops, gates beyond int16, every kind of head, blockers, odd orders."""
    stages = list(Stage)
    some = st.lists(st.sampled_from(stages), unique=True, max_size=3)
    transitions = {stage: draw(some) for stage in stages}
    edges = [(source, target) for source, targets in transitions.items() for target in targets]
    extra = [f"h{i}" for i in range(draw(st.integers(0, 3)))]
    ops = []
    for op in list(OPS[draw(st.integers(1, 5))]):
        uses = draw(st.lists(st.sampled_from(["slot", *extra]), unique=True))
        kind = "always" if op == 0 else draw(st.sampled_from(["always", "enters", "moves", "acts_in", "acts_in"]))
        if kind == "always":
            ops.append(em.Op(op, always=True, uses=[name for name in uses if op or name != "slot"]))
            continue
        where = {
            "enters": lambda: {"enters": draw(st.sampled_from([target for _, target in edges]))} if edges else {},
            "moves": lambda: {"moves": dict(draw(st.lists(st.sampled_from(edges), min_size=1)))} if edges else {},
            "acts_in": lambda: {"acts_in": draw(some)},
        }[kind]()
        ops.append(
            em.Op(
                op,
                **where,
                min_age=draw(st.sampled_from([None, None, 0, 2, 40_000])),
                max_age=draw(st.sampled_from([None, None, 2, 40_000])),
                requires=draw(st.sampled_from([{}, {}, {"mode": Mode.ONE}, {"mode": Mode.FAR}])),
                seed_limit=draw(st.booleans()),
                blocked_by=draw(st.one_of(st.just([]), some)),
                uses=uses,
            )
        )
    heads = [em.Head("slot"), em.Head("op"), *(draw(random_heads(name, ops)) for name in extra)]
    try:
        return em.MaskRules(
            name="random",
            stages=Stage,
            transitions=transitions,
            empty=draw(st.sampled_from(stages)),
            op_rules=ops,
            heads=draw(st.permutations(heads)),
            features={"mode": Mode},
        )
    except em.RulesError:
        reject()


@st.composite
def random_heads(draw: st.DrawFn, name: str, ops: list[em.Op]) -> em.Head:
    choices = [f"C{i}" for i in range(draw(st.integers(1, 4)))]
    some = st.lists(st.sampled_from(choices), unique=True, min_size=1)
    users = [op.id for op in ops if name in op.uses]
    kind = draw(st.sampled_from(["static", "opened", "by_op"])) if users else "static"
    canonical = draw(st.sampled_from([None, *choices]))
    if kind == "by_op":
        table = {op: draw(some) for op in users}
        return em.Head(name, choices, by_op=table, closed=draw(st.one_of(st.none(), some)), canonical=canonical)
    legal = draw(some)
    if kind == "static":
        return em.Head(name, choices, legal=legal, canonical=canonical)
    others = draw(st.lists(st.sampled_from([op.id for op in ops]), unique=True))
    openers = draw(st.sampled_from([[], [*users, *(op for op in others if op not in users)]]))
    return em.Head(name, choices, legal=legal, closed=legal[:1], opened_by=openers, canonical=canonical)


@st.composite
def random_cases(draw: st.DrawFn) -> Case:
    """A batch under random rules, states and totals of any integer dtype."""
    rules = draw(random_rules())
    slots, batch = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    engine = em.MaskEngine(rules, [f"s{i}" for i in range(slots)])
    dtype = draw(st.sampled_from([torch.int16, torch.int32, torch.int64]))
    far = [] if dtype == torch.int16 else [39_999, 40_000, 40_001]
    row = st.tuples(
        st.sampled_from([-1, 0, 1, 2, 3, 6, 7, 99]),
        st.sampled_from([-1, 0, 1, 2, 5, 32_767, *far]),
        st.sampled_from([0, 1, 4464, *([70_000] if far else [])]),
    )
    values = draw(st.lists(row, min_size=batch * slots, max_size=batch * slots))
    states = torch.tensor(values, dtype=dtype).reshape(batch, slots, 3)
    totals = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=batch, max_size=batch)), dtype=dtype)
    limited = any(op.seed_limit for op in rules.op_rules)
    limit = draw(st.sampled_from([0, 1, 2, 70_000])) if limited else 0
    enabled = torch.tensor(draw(st.lists(st.booleans(), min_size=batch * slots, max_size=batch * slots)))
    return Case(engine, states, totals, limit, enabled.reshape(batch, slots), {})
