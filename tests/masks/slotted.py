"""Rules with every kind of guard and head, and batches under them, drawn by hypothesis."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from hypothesis import reject
from hypothesis import strategies as st
from torch import Tensor

import esper_masks as em
from esper_masks import Age, Count, Feature, Kind, Row, Unless, reference
from tests.helpers import assert_same_masks


class Stage(IntEnum):
    EMPTY = 0
    BUILD = 2
    READY = 3
    DONE = 6


class Size(IntEnum):
    ZERO = 0
    ONE = 1
    FAR = 70_000


class Zone(IntEnum):
    NEAR = 0
    LOW = 1
    HIGH = 2


STAGES = list(Stage)
EDGES = {stage: tuple(other for other in Stage if other != stage) for stage in Stage}
GUARDS = (
    Feature("size", in_=(Size.ONE, Size.FAR)),
    Feature("size", not_in=(Size.ONE,)),
    Feature("load", at_least=2),
    Feature("load", at_most={Stage.READY: 1}),
    Feature("locked", in_=(False,)),
    Age(at_least=2),
    Age(at_most={Stage.BUILD: 2, Stage.READY: 4}),
    Count((Stage.BUILD,), of="others", at_least=1),
    Count((Stage.EMPTY, Stage.READY), of="all", at_most=1, kind="gpu"),
    Count((Stage.READY,), of="all", at_least={Stage.BUILD: 1, Stage.EMPTY: 2}),
    Row("night", in_=(False,)),
    Row("free", at_least=1, at_most=3),
    Kind("gpu"),
    Kind("cpu", "gpu"),
    Unless("night", Age(at_least=2)),
    Unless("night", Count((Stage.DONE,), of="others", at_most=0)),
    em.Any(Feature("locked", in_=(False,)), Row("free", at_least=2)),
    em.Any(Count((Stage.DONE,), of="others", at_least=1), Kind("gpu"), Age(at_least=3)),
    em.Any(Feature("load", at_least=1), Feature("size", in_=(Size.ZERO,))),
)
FREE = (Row("night", in_=(True,)), Count((Stage.READY,), of="all", at_most=1), Unless("night", Row("free", at_least=1)))
FREE_ANY = em.Any(Row("free", at_least=2), Count((Stage.DONE,), of="all", at_least=1))
SETS = st.sampled_from([{}, {"size": Size.FAR}, {"size": Size.ONE}])  # nothing that a target sets
OPS = {n: IntEnum("Do", {f"OP{i}": i for i in range(n)}) for n in (2, 3, 4, 5, 6, 33, 40, 62)}


@dataclass
class SlottedCase:
    """An engine, one batch of inputs for it, and what else it is called with."""

    engine: em.MaskEngine
    states: Tensor
    given: dict[str, Any] = field(default_factory=dict)

    def masks(self) -> em.ActionMasks:
        return self.engine(self.states, **self.given)

    def expected(self, joint: bool = True) -> dict[str, Any]:
        """What the oracle says; nothing of an empty batch."""
        if not len(self.states):
            return {}
        ids = self.engine.slot_ids
        kinds = {kind: [ids.index(slot) for slot in slots] for kind, slots in self.engine.kinds.items()}
        return reference.masks(self.engine.rules, self.states, kinds=kinds, joint=joint, **self.given)


def some(draw: st.DrawFn, values: Any, most: int = 3, least: int = 0) -> list[Any]:
    return draw(st.lists(st.sampled_from(values), unique=True, min_size=least, max_size=most))


@st.composite
def slotted_heads(draw: st.DrawFn, ops: list[Any]) -> list[em.Head]:
    """Heads of every kind; op OP0 uses none of those that a state may empty."""
    sizes = st.sampled_from([1, 2, 3, 5, 31, 32, 33, 40])
    names = [f"C{i}" for i in range(draw(sizes))]
    by_stage = {stage: some(draw, names, 3) for stage in Stage}
    by_stage[Stage.READY] = (
        [*by_stage[Stage.READY], names[-1]] if names[-1] not in by_stage[Stage.READY] else [names[-1]]
    )
    users = some(draw, ops[1:], 3)
    by_op = dict.fromkeys(users, names) if users and draw(st.booleans()) else {}
    size_choices = {value: some(draw, names, 3, 1) for value in some(draw, list(Size), 3, 1)}
    zones = dict.fromkeys(some(draw, list(Zone), 3, 1), names)
    pairs: Any = draw(
        st.sampled_from([("size", size_choices), (("zone", zones),), (("size", size_choices), ("zone", zones))])
    )
    made = {
        "node": em.Head("node", names, by_stage=by_stage, by_op=by_op),
        "flavor": em.Head("flavor", names, by_feature=pairs, canonical=names[-1]),
        "target": em.SlotHead(
            "target",
            when=some(draw, GUARDS, 2),
            distinct=draw(st.booleans()),
            moves=draw(st.sampled_from([{}, {Stage.READY: Stage.DONE, Stage.BUILD: Stage.EMPTY}])),
            sets=draw(st.sampled_from([{}, {"zone": Zone.HIGH}, {"load": 3, "locked": False}])),
        ),
        "plain": em.Head("plain", names, closed=names[:1] if draw(st.booleans()) else None),
    }
    made = {name: made[name] for name in some(draw, list(made), 4, 1)}
    uses = {op: some(draw, list(made), 3) for op in ops[1:]}
    if "node" in made and by_op:
        uses = {
            op: [*dict.fromkeys([*(n for n in names if n != "node"), *(["node"] if op in users else [])])]
            for op, names in uses.items()
        }
    if "plain" in made and not any("plain" in names for names in uses.values()):
        uses[ops[1]] = [*uses[ops[1]], "plain"]
    return [list(made.values()), uses]


@st.composite
def slotted_rules(draw: st.DrawFn, sizes: Any = (2, 3, 4, 5, 6)) -> em.MaskRules:
    """Rules in which anything that a guard or head can say is said somewhere."""
    ops = list(OPS[draw(st.sampled_from(sizes))])
    heads, uses = draw(slotted_heads(ops))
    same = {head.name for head in heads if isinstance(head, em.SlotHead) and not head.distinct}
    made = [em.Op(ops[0], always=True)]
    for op in ops[1:]:
        used = uses[op]
        kind = draw(st.sampled_from(["slot", "slot", "slot", "free", "always"]))
        if kind == "free" and not set(used) - {"plain"}:
            when = (draw(st.sampled_from([*FREE, FREE_ANY])),)
            made.append(em.Op(op, when=when, uses=used))
        elif kind == "always":
            made.append(em.Op(op, always=True, uses=("slot", *used), sets=draw(SETS)))
        else:
            stages = some(draw, STAGES, 3, 1)
            blocked = draw(st.sampled_from([(), (), (Stage.DONE,), (Stage.DONE, Stage.BUILD)]))
            if set(stages) <= set(blocked):
                blocked = ()
            guards = some(draw, GUARDS, 2)
            stays = stages if same & set(used) or draw(st.booleans()) else stages[:1]
            moves = {stage: draw(st.sampled_from(EDGES[stage])) for stage in stages if stage not in stays}
            given = {"acts_in": stays, "moves": moves, "when": guards, "blocked_by": blocked}
            sets = {} if {*stays, *moves.values()} == {Stage.EMPTY} else draw(SETS)
            made.append(em.Op(op, uses=("slot", *used), sets=sets, **given))
    heads = draw(st.permutations([em.Head("slot"), em.Head("op"), *heads]))
    try:
        return em.MaskRules(
            name="slotted",
            stages=Stage,
            transitions=EDGES,
            empty=Stage.EMPTY,
            op_rules=made,
            heads=heads,
            features={"size": Size, "load": int, "locked": bool, "zone": Zone},
            row_features={"night": bool, "free": int},
            kinds={"gpu": (), "cpu": ()},
        )
    except em.RulesError as error:
        if "can never be legal" not in str(error):
            raise
        reject()


@st.composite
def slotted_cases(draw: st.DrawFn, rules: Any = None, max_slots: int = 4, constraints: bool = True) -> SlottedCase:
    """A batch under such rules, with rows, kinds, enabled slots, head masks and constraints."""
    made = draw(slotted_rules() if rules is None else rules)
    slots, batch = (
        draw(st.sampled_from([*range(1, max_slots + 1), max_slots, max_slots])),
        draw(st.sampled_from([0, 1, 3, 6])),
    )
    ids = [f"s{i}" for i in range(slots)]
    kinds = {"gpu": some(draw, ids, slots), "cpu": some(draw, ids, slots)}
    try:
        engine = em.MaskEngine(made, ids, kinds=kinds)
    except em.RulesError as error:  # too few slots for a Count
        if "could never" not in str(error):
            raise
        reject()
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)

    def among(values: Any, *shape: int) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), shape, generator=generator)]

    dtype = draw(st.sampled_from([torch.int32, torch.int64]))
    columns = [
        among([-1, 0, 0, 2, 2, 2, 3, 3, 3, 3, 6, 6, 7], batch, slots),
        among([0, 1, 2, 3, 5], batch, slots),
        among([0, 1, 70_000, 2, -1], batch, slots),
        among([0, 1, 2, 2**31 - 1, -(2**31)], batch, slots),
        among([0, 0, 1], batch, slots),
        among([0, 1, 2, 2, 3], batch, slots),
    ]
    states = torch.stack(columns).permute(1, 2, 0) if draw(st.booleans()) else torch.stack(columns, -1)
    given: dict[str, Any] = {"row": {"night": among([False, True], batch), "free": among([0, 1, 2, 4], batch)}}
    if draw(st.booleans()):
        given["enabled"] = torch.rand(batch, slots, generator=generator) < 0.8
    if constraints:
        heads = [head for head in engine.layout.heads if head.name not in ("slot", "op")]
        slotless = engine.layout.all_ops & ~engine.layout.slot_users

        def mask(head: Any, by_slot: bool, *lead: int) -> Tensor:
            shape = (*lead, slots, head.size) if by_slot else (*lead, head.size)
            return torch.rand(shape, generator=generator) < draw(st.sampled_from([0.3, 0.8]))

        for name, lead in (("head_masks", (batch,)), ("restrict", draw(st.sampled_from([(), (batch,)])))):
            chosen = [(head, draw(st.booleans()) and not head.users & slotless) for head in some(draw, heads, 2)]
            suffix = "_by_slot" if name == "restrict" else ""
            given[name] = {f"{h.name}{suffix if wide else ''}": mask(h, wide, *lead) for h, wide in chosen}
        for name, axes in (("op", len(engine.layout.ops)), ("slot", slots)):
            if draw(st.integers(0, 3)) == 0:
                given["restrict"][name] = torch.rand(batch, axes, generator=generator) < 0.8
        if draw(st.integers(0, 3)) == 0:
            given["restrict"]["slot_by_op"] = torch.rand(len(engine.layout.ops), slots, generator=generator) < 0.8
    return SlottedCase(engine, states.to(dtype), given)


def assert_as_expected(case: SlottedCase, masks: em.ActionMasks, expected: dict[str, Any]) -> None:
    """Every head, ``slot_by_op``, ``joint`` and the heads by slot, as the oracle has them."""
    by_slot = {name for name in expected if name.endswith("_by_slot")}
    assert_same_masks(masks, {name: mask for name, mask in expected.items() if name not in by_slot}, case.states)
    assert {f"{masks.layout.head_names[at]}_by_slot" for at, wide in masks.dynamic if wide} == by_slot or not len(
        masks.op_words
    )
    for name in by_slot:
        ours = masks.by_slot(name.removesuffix("_by_slot"))
        assert torch.equal(ours, torch.tensor(expected[name]).reshape(ours.shape)), name
