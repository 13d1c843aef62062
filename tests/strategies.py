"""Hypothesis strategies: everything random in the tests is drawn here."""

from collections.abc import Mapping
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
        sets = draw(st.sampled_from([{}, {"mode": Mode.ONE}])) if op and "slot" in uses else {}
        kind = "always" if op == 0 else draw(st.sampled_from(["always", "enters", "moves", "acts_in", "acts_in"]))
        if kind == "always":
            ops.append(em.Op(op, always=True, uses=[name for name in uses if op or name != "slot"], sets=sets))
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
                sets=sets,
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


# -- rules with every guard and every kind of head, right by construction ---------------------------------------------

Site = IntEnum("Site", {"EMPTY": 0, "BUILD": 1, "ACTIVE": 2, "READY": 4})
Task = IntEnum("Task", {"UNSET": 0, "BUSY": 1, "VERIFY": 2})
Light = IntEnum("Light", {"DAY": 1, "DUSK": 3})
Work = IntEnum("Work", {"WAIT": 0, "ACT": 1, "SEND": 2, "CALL": 3, "REST": 4})
SITES = ("a", "b", "c", "d")
EDGES = {stage: tuple(other for other in Site if other != stage) for stage in Site}
LEAST, MOST = -(2**31), 2**31 - 1


@st.composite
def bounds(draw: st.DrawFn, least: st.SearchStrategy[int], by_stage: bool) -> dict[str, object]:
    """``at_least`` and ``at_most``, one or both, which some number meets; each a number or by stage."""

    def pair() -> tuple[int, int]:
        low = draw(least)
        return low, min(low + draw(st.integers(0, 3)), MOST)

    which = draw(st.sampled_from([("at_least",), ("at_most",), ("at_least", "at_most")]))
    if by_stage and draw(st.booleans()):
        stages = draw(st.lists(st.sampled_from(Site), unique=True, min_size=1, max_size=3))
        pairs = {stage: pair() for stage in stages}
        both: dict[str, object] = {
            "at_least": {stage: low for stage, (low, _) in pairs.items()},
            "at_most": {stage: high for stage, (_, high) in pairs.items()},
        }
    else:
        low, high = pair()
        both = {"at_least": low, "at_most": high}
    return {name: both[name] for name in which}


def members(given: Mapping[str, object], enum: type[IntEnum]) -> dict[str, object]:
    """Bounds by the members of an enum where it has them."""

    def member(bound: object) -> object:
        if isinstance(bound, Mapping):
            return {stage: member(own) for stage, own in bound.items()}
        return next((one for one in enum if one == bound), bound)

    return {name: member(bound) for name, bound in given.items()}


def among(name: str, make: type, known: tuple[object, ...]) -> st.SearchStrategy[object]:
    """A guard of some values, never of none and never of all that there are not."""
    chosen = st.lists(st.sampled_from(known), min_size=1, max_size=len(known) - 1, unique=True).map(tuple)
    return st.one_of(
        chosen.map(lambda values: make(name, in_=values)), chosen.map(lambda values: make(name, not_in=values))
    )


def row_guards() -> st.SearchStrategy[object]:
    free = bounds(st.integers(-1, 5) | st.just(MOST), by_stage=False)
    return st.one_of(
        bounds(st.sampled_from(Light), by_stage=False).map(lambda given: em.Row("mode", **members(given, Light))),
        free.map(lambda given: em.Row("free", **given)),
        among("mode", em.Row, tuple(Light)),
        among("night", em.Row, (False, True)),
    )


def count_guards(in_slot: bool) -> st.SearchStrategy[object]:
    stages = st.lists(st.sampled_from(Site), min_size=1, max_size=2, unique=True).map(tuple)
    of = st.sampled_from(["all", "others"] if in_slot else ["all"])
    of_all = st.builds(
        lambda stages, of, given: em.Count(stages, of=of, **given),
        stages,
        of,
        bounds(st.integers(1, 3), by_stage=in_slot),
    )
    of_kind = st.builds(  # which has two slots
        lambda stages, of, given: em.Count(stages, of=of, kind="gpu", **given),
        stages,
        of,
        bounds(st.integers(1, 2), by_stage=in_slot),
    )
    return of_all | of_kind


def plain_guards(in_slot: bool = True) -> st.SearchStrategy[object]:
    """Guards but ``Unless`` and ``Any``; without a slot those that read none."""
    if not in_slot:
        return st.one_of(row_guards(), count_guards(in_slot=False))
    number = st.integers(-2, 4) | st.sampled_from([LEAST, MOST])
    return st.one_of(
        among("task", em.Feature, tuple(Task)),
        among("stage", em.Feature, tuple(Site)),
        among("locked", em.Feature, (False, True)),
        among("restarts", em.Feature, (-1, 0, 1, 3, LEAST, MOST)),
        bounds(number, by_stage=True).map(lambda given: em.Feature("restarts", **given)),
        bounds(st.integers(0, 2), by_stage=False).map(lambda given: em.Feature("task", **given)),
        bounds(st.integers(0, 2), by_stage=True).map(lambda given: em.Feature("task", **members(given, Task))),
        bounds(st.integers(0, 2), by_stage=False).map(lambda given: em.Feature("stage", **members(given, Site))),
        bounds(number, by_stage=True).map(lambda given: em.Age(**given)),
        st.sampled_from([em.Kind("gpu"), em.Kind("cpu", "gpu"), em.Kind("none")]),
        row_guards(),
        count_guards(in_slot=True),
    )


def guards(in_slot: bool = True) -> st.SearchStrategy[object]:
    plain = plain_guards(in_slot)
    return st.one_of(
        plain,
        st.builds(em.Unless, st.sampled_from(["night", "admin"]), plain),
        st.lists(plain, min_size=2, max_size=3).map(lambda some: em.Any(*some)),
    )


def conditions(in_slot: bool = True, least: int = 0, most: int = 3) -> st.SearchStrategy[tuple[object, ...]]:
    """Guards of which no two compare the same, so that they never contradict one another."""

    def compared(guard: object) -> object:
        guard = guard.guard if isinstance(guard, em.Unless) else guard
        return getattr(guard, "compares", guard)

    return st.lists(guards(in_slot), min_size=least, max_size=most, unique_by=compared).map(tuple)


@st.composite
def choice_heads(draw: st.DrawFn, name: str, users: tuple[Work, ...]) -> em.Head:
    """A head that depends on ops, stages, features, several of them or nothing; its first choice is always reached."""
    size = draw(st.sampled_from([2, 3, 3, 40]))
    choices = [f"{name}{at}" for at in range(size)]
    some = st.lists(st.sampled_from(choices), unique=True, max_size=3)
    with_first = some.map(lambda names: list(dict.fromkeys([choices[0], *names])))
    given: dict[str, object] = {"canonical": draw(st.sampled_from([None, choices[-1]]))}
    if draw(st.booleans()):
        given["by_stage"] = {stage: draw(with_first) for stage in Site} | {Site.EMPTY: draw(some)}
    tables = [("task", {Task.BUSY: draw(some), Task.UNSET: choices}), ("restarts", {0: choices, 3: draw(some)})]
    if which := draw(st.lists(st.integers(0, 1), unique=True)):
        given["by_feature"] = tables[which[0]] if len(which) == 1 else [tables[at] for at in which]
    if draw(st.booleans()):
        given["by_op"] = {op: draw(with_first) for op in users}
    if draw(st.booleans()):
        given["legal"] = draw(with_first)
    return em.Head(name, choices, **given)


def site_moves(max_size: int = 4) -> st.SearchStrategy[dict[Site, Site]]:
    """Edges from some stages."""
    edges = st.sampled_from([(stage, to) for stage in Site for to in EDGES[stage]])
    return st.lists(edges, max_size=max_size).map(dict)


@st.composite
def guarded_rules(draw: st.DrawFn) -> em.MaskRules:
    """Rules with every guard and every kind of head: slots with choices of their own, second slots, ops without one."""
    moves = draw(site_moves(max_size=2))
    target = em.SlotHead(
        "target",
        when=draw(conditions(most=2)),
        distinct=draw(st.booleans()),
        moves=moves,
        sets={} if set(moves.values()) == {Site.EMPTY} else draw(st.sampled_from([{}, {"task": Task.BUSY}])),
    )
    partner = em.SlotHead("partner", when=draw(conditions(most=2)), distinct=draw(st.booleans()))
    tool, plain = draw(choice_heads("tool", (Work.ACT, Work.SEND))), em.Head("plain", ("P", "Q"))
    moving = draw(st.booleans()) and target.distinct
    settings = [{}, {"restarts": -1}, {"locked": True, "restarts": MOST}]  # no feature that the target sets
    own = settings if "task" in target.sets and not target.distinct else [*settings, {"task": Task.VERIFY}]
    also = draw(st.sampled_from([(), ("target",), ("plain",)]))
    acts_in = draw(st.lists(st.sampled_from(Site), min_size=2, unique=True))
    may_move = "target" not in also or target.distinct
    ops = [
        em.Op(Work.WAIT, always=True),
        em.Op(
            Work.ACT,
            acts_in=acts_in,
            moves={s: t for s, t in draw(site_moves()).items() if s not in acts_in} if may_move else {},
            uses=("slot", "tool", *also),
            when=draw(conditions(most=3)),
            sets=draw(st.sampled_from(own)),
        ),
        em.Op(
            Work.SEND,
            **({"enters": Site.READY} if moving else {"acts_in": tuple(Site)}),
            uses=("slot", "target", "tool", "partner"),
            when=draw(conditions(most=2)),
            sets=draw(st.sampled_from(own)),
        ),
        em.Op(
            Work.CALL,
            when=draw(conditions(in_slot=False, least=1, most=2)),
            uses=draw(st.sampled_from([(), ("plain",)])),
        ),
        em.Op(Work.REST, always=True, uses=draw(st.sampled_from([(), ("slot",), ("slot", "partner"), ("plain",)]))),
    ]
    try:
        return em.MaskRules(
            name="guarded",
            stages=Site,
            transitions=EDGES,
            empty=Site.EMPTY,
            op_rules=ops,
            heads=draw(st.permutations([em.Head("slot"), em.Head("op"), tool, plain, target, partner])),
            features={"task": Task, "restarts": int, "locked": bool},
            row_features={"night": bool, "free": int, "mode": Light},
            switches={"admin": [False, True]},
            kinds={"gpu": ("a", "b"), "cpu": ("c",), "none": ()},
            slot_ids=SITES,
        )
    except em.RulesError as error:
        if any(words in str(error) for words in ("leave none of its stages", "leave no stage", "leaves it a choice")):
            reject()  # guards of the stage, the stages of an op and those of a head have nothing in common
        raise
