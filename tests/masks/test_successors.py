"""What actions make of slot states: by hand, and as the oracle says, in every stage of two slots and at random."""

import copy
import dataclasses
import io
from enum import IntEnum
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import esper_masks as em
from esper_masks import reference
from esper_masks.rules.gates import GATES
from tests.helpers import HOST_READS, OpRecorder, random_states, seeded, switch_settings
from tests.lifecycles.tables import example
from tests.masks.slotted import SlottedCase, slotted_cases
from tests.programs import BATCHES
from tests.strategies import LAYOUTS, SITES, Case, batch_last, cases, guarded_rules, random_cases, strided

Shop = IntEnum("Shop", {"SHUT": 1, "OPEN": 3, "SOLD": 4})
Sign = IntEnum("Sign", {"NONE": 0, "BUSY": 1, "FAR": 70_000})
Do = IntEnum("Do", "WAIT RENT SELL LEAVE PAINT LEND SWAP MARK CALL", start=0)
SHOPS = em.MaskRules(
    name="shops",
    stages=Shop,
    transitions={Shop.SHUT: [Shop.OPEN], Shop.OPEN: [Shop.SOLD, Shop.SHUT], Shop.SOLD: [Shop.SHUT, Shop.OPEN]},
    empty=Shop.SHUT,
    features={"sign": Sign, "lit": bool, "debt": int},
    op_rules=(
        em.Op(Do.WAIT, always=True),
        em.Op(Do.RENT, moves={Shop.SHUT: Shop.OPEN}, uses=["slot"], sets={"lit": True, "debt": -7}),
        em.Op(Do.SELL, enters=Shop.SOLD, acts_in=[Shop.SOLD], uses=["slot", "price"], sets={"sign": Sign.BUSY}),
        em.Op(Do.LEAVE, moves={Shop.OPEN: Shop.SHUT, Shop.SOLD: Shop.OPEN}, uses=["slot"], sets={"sign": Sign.BUSY}),
        em.Op(Do.PAINT, acts_in=[Shop.OPEN, Shop.SHUT], uses=["slot"], sets={"debt": 0, "lit": False}),
        em.Op(Do.LEND, acts_in=[Shop.OPEN], uses=["slot", "debtor"], sets={"debt": 1}),
        em.Op(Do.SWAP, enters=Shop.SOLD, uses=["slot", "heir"], sets={"sign": Sign.BUSY}),
        em.Op(Do.MARK, always=True, uses=["slot"], sets={"sign": Sign.BUSY}),
        em.Op(Do.CALL, moves={Shop.OPEN: Shop.SOLD}),
    ),
    heads=(
        em.SlotHead("debtor", sets={"sign": Sign.BUSY}),
        em.Head("slot"),
        em.Head("price", ("LOW", "HIGH"), legal=("LOW",)),
        em.SlotHead("heir", moves={Shop.SOLD: Shop.SHUT, Shop.SHUT: Shop.OPEN}, sets={"debt": 9}, distinct=True),
        em.Head("op"),
    ),
    slot_ids=("a", "b"),
)
OPEN, SOLD, SHUT = (Shop.OPEN, 5, 0, 1, 3), (Shop.SOLD, 6, 70_000, 0, 2), (Shop.SHUT, 0, 0, 0, 0)
ODD = (Shop.SHUT, 8, 1, 1, 4)  # a slot that is empty, and not all 0
LOST = (2, 4, 0, 0, 0)  # in no stage
TRUTH: list[tuple[Any, Any, dict[str, int], Any]] = [  # a, b; the action; a and b afterwards, None where it is illegal
    (OPEN, SOLD, {"op": Do.WAIT}, (OPEN, SOLD)),
    (OPEN, SOLD, {"op": Do.WAIT, "slot": -1, "price": 9, "heir": 2**40}, (OPEN, SOLD)),  # it uses none of them
    (OPEN, SOLD, {"op": Do.RENT}, None),
    (SHUT, SOLD, {"op": Do.RENT}, ((3, 0, 0, 1, -7), SOLD)),
    (ODD, SOLD, {"op": Do.RENT}, ((3, 0, 0, 1, -7), SOLD)),  # age and features 0, then what is set
    (OPEN, SOLD, {"op": Do.SELL}, ((4, 5, 1, 1, 3), SOLD)),  # the age is kept
    (OPEN, OPEN, {"op": Do.SELL, "slot": 1}, (OPEN, (4, 5, 1, 1, 3))),
    (OPEN, SOLD, {"op": Do.SELL, "slot": 1}, (OPEN, (4, 6, 1, 0, 2))),  # it stays
    (OPEN, SOLD, {"op": Do.SELL, "price": 1}, None),
    (OPEN, SOLD, {"op": Do.SELL, "price": -1}, None),
    (OPEN, SOLD, {"op": Do.SELL, "slot": -1}, None),
    (OPEN, SOLD, {"op": Do.SELL, "slot": 2}, None),
    (OPEN, SOLD, {"op": -1}, None),
    (OPEN, SOLD, {"op": 9}, None),
    (OPEN, SOLD, {"op": Do.LEAVE}, (SHUT, SOLD)),  # all 0, whatever is set
    (OPEN, SOLD, {"op": Do.LEAVE, "slot": 1}, (OPEN, (3, 6, 1, 0, 2))),
    (OPEN, SOLD, {"op": Do.PAINT}, ((3, 5, 0, 0, 0), SOLD)),
    (ODD, SOLD, {"op": Do.PAINT}, (ODD, SOLD)),  # nothing is set in an empty slot
    (OPEN, SOLD, {"op": Do.LEND, "debtor": 1}, ((3, 5, 0, 1, 1), (4, 6, 1, 0, 2))),
    (OPEN, SOLD, {"op": Do.LEND, "debtor": 0}, ((3, 5, 1, 1, 1), SOLD)),  # one slot, and two things of it
    (OPEN, ODD, {"op": Do.LEND, "debtor": 1}, ((3, 5, 0, 1, 1), ODD)),
    (OPEN, SOLD, {"op": Do.LEND, "debtor": 2}, None),
    (OPEN, SOLD, {"op": Do.SWAP, "heir": 1}, ((4, 5, 1, 1, 3), SHUT)),
    (OPEN, ODD, {"op": Do.SWAP, "heir": 1}, ((4, 5, 1, 1, 3), (3, 0, 0, 0, 9))),
    (OPEN, OPEN, {"op": Do.SWAP, "heir": 1}, None),
    (OPEN, SOLD, {"op": Do.SWAP, "heir": 0}, None),
    (LOST, SOLD, {"op": Do.MARK}, ((2, 4, 1, 0, 0), SOLD)),
    ((-4, 4, 0, 0, 0), SOLD, {"op": Do.MARK}, ((-4, 4, 1, 0, 0), SOLD)),  # seven pairs an op: it is SWAP in OPEN
    (LOST, (2**31 - 1, 4, 0, 0, 0), {"op": Do.MARK, "slot": 1}, (LOST, (2**31 - 1, 4, 1, 0, 0))),
    ((-(2**31), 4, 0, 0, 0), SOLD, {"op": Do.MARK}, ((-(2**31), 4, 1, 0, 0), SOLD)),
    (OPEN, SOLD, {"op": Do.CALL}, (OPEN, SOLD)),  # it is of no slot
    (SOLD, SOLD, {"op": Do.CALL}, None),
]


def whole(rules: em.MaskRules, named: dict[str, int]) -> tuple[int, ...]:
    return tuple(int(named.get(name, 0)) for name in rules.head_names)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_truth_of_successors(dtype: torch.dtype) -> None:
    engine = em.MaskEngine(SHOPS)
    for a, b, named, wanted in TRUTH:
        action = whole(SHOPS, named)
        expected = [list(map(int, row)) for row in wanted or (a, b)], wanted is not None
        assert reference.successor(SHOPS, [a, b], action) == expected, named
        states = torch.tensor([[a, b]] * 2, dtype=dtype)
        after, legal = engine.successors(states, torch.tensor([action] * 2))
        assert (after.tolist(), legal.tolist()) == ([expected[0]] * 2, [expected[1]] * 2), named
        assert after.dtype == dtype


def expected_of(engine: em.MaskEngine, states: Tensor, actions: Tensor, given: dict[str, Any]) -> tuple[Any, Any]:
    """What the oracle makes of ``actions [k, batch, heads]``: the masks of ``reference.masks`` serve all k."""
    ids = engine.slot_ids
    kinds = {kind: [ids.index(slot) for slot in slots] for kind, slots in engine.kinds.items()}
    masks = reference.masks(engine.rules, states, kinds=kinds, **given)
    made, legal = [], []
    for one in actions.tolist():
        for env, (slots, action) in enumerate(zip(states.tolist(), one)):
            legal.append(reference.is_legal(engine.rules, {name: mask[env] for name, mask in masks.items()}, action))
            made.append(reference.after(engine.rules, slots, action) if legal[-1] else slots)
    return made, legal


def assert_same(engine: em.MaskEngine, states: Tensor, actions: Tensor, given: dict[str, Any]) -> Tensor:
    """Engine and oracle say the same; which of the actions are legal."""
    kept = states.clone()
    after, legal = engine.successors(states, actions, **given)
    assert torch.equal(states, kept)
    assert torch.equal(legal, engine(states, **given).permits(actions))
    assert after.shape == (*actions.shape[:-1], *states.shape[-2:])
    assert after.dtype == states.dtype
    made, permitted = expected_of(engine, states, actions, given)
    assert legal.flatten().tolist() == permitted
    for at, (ours, wanted) in enumerate(zip(after.flatten(0, 1).tolist(), made)):
        k, env = divmod(at, len(states))
        acted = dict(zip(engine.layout.head_names, actions[k, env].tolist()))
        assert ours == wanted, f"{states[env].tolist()}, {acted}: {ours}, the oracle: {wanted}"
    return legal


def some_actions(engine: em.MaskEngine, masks: em.ActionMasks, seed: int, count: int = 4) -> Tensor:
    """Legal actions where there are some, and integers that may be none: int64 ``[2 * count, batch, heads]``."""
    generator = seeded(seed)
    weights = masks.joint().float() + 1e-9
    index = torch.multinomial(weights, count, replacement=True, generator=generator)
    legal = engine.joint_actions.decode(index.T)
    sizes = torch.tensor([head.size for head in engine.layout.heads])
    drawn = torch.rand(*legal.shape, generator=generator) * (sizes + 2)
    return torch.cat([legal, drawn.long() - 1])


@given(st.data())
def test_random_rules(data: st.DataObject) -> None:
    case = data.draw(slotted_cases())
    if not len(case.states):
        case = SlottedCase(case.engine, case.engine.empty_slots(0), {"row": case.given["row"]})
        after, legal = case.engine.successors(
            case.states, torch.zeros(0, len(case.engine.layout.heads), dtype=torch.int64), **case.given
        )
        assert (after.shape, legal.shape) == (case.states.shape, (0,))
        return
    actions = some_actions(case.engine, case.masks(), data.draw(st.integers(0, 99)))
    assert_same(case.engine, case.states, actions, case.given)


@given(random_cases() | cases(max_slots=4), st.integers(0, 99))
def test_random_ops_and_the_shipped_rules(case: Case, seed: int) -> None:
    if not len(case.states):
        return
    given = {"total_seeds": case.total_seeds, "max_seeds": case.max_seeds, "enabled": case.enabled}
    assert_same(case.engine, case.states, some_actions(case.engine, case.masks(), seed), given)


def valid_states(rules: em.MaskRules, batch: int, slots: int, seed: int) -> Tensor:
    """States of the rules alone; empty slots hold 0."""
    generator = seeded(seed)

    def among(values: Any) -> Tensor:
        numbers = torch.tensor([int(value) for value in values])
        return numbers[torch.randint(len(numbers), (batch, slots), generator=generator)]

    domains = [(-3, 0, 1, 3) if d is int else (0, 1) if d is bool else d for d in rules.features.values()]
    states = torch.stack([among(rules.stages), among((0, 1, 3, 9)), *map(among, domains)], -1).int()
    states[states[..., 0] == int(rules.empty), 1:] = 0
    return states


@given(guarded_rules(), st.integers(0, 99))
def test_guarded_rules_lead_from_states_to_states(rules: em.MaskRules, seed: int) -> None:
    engine = em.MaskEngine(rules, SITES)
    states = valid_states(rules, 16, len(SITES), seed)
    generator = seeded(seed)
    row = {"night": torch.arange(16) % 2 == 0, "free": torch.arange(16) % 5, "mode": 1 + torch.arange(16) % 2 * 2}
    row = {name: values[torch.randperm(16, generator=generator)] for name, values in row.items()}
    engine.check_slots(states)
    actions = some_actions(engine, engine(states, row=row), seed)
    assert_same(engine, states, actions, {"row": row})
    after, _ = engine.successors(states, actions, row=row)
    engine.check_slots(after)
    assert not after[after[..., 0] == int(rules.empty)][..., 1:].any()


# -- every stage of two slots -----------------------------------------------------------------------------------------


def ungated(rules: em.MaskRules) -> em.MaskRules:
    """The same edges and features without a gate or guard but of the stage, so that each op is legal where it acts."""
    bare = {field: getattr(em.Op, field) for gate in GATES for field in gate.fields}
    free = {op.id for op in rules.op_rules if not (op.in_slot or op.disabled or op.uses)}

    def of_stage(part: Any) -> dict[str, Any]:
        return {"when": [guard for guard in part.when if guard not in part.judges]}

    ops = [dataclasses.replace(op, **bare, **of_stage(op), always=op.always or op.id in free) for op in rules.op_rules]
    heads = [dataclasses.replace(h, **of_stage(h)) if isinstance(h, em.SlotHead) else h for h in rules.heads]
    return dataclasses.replace(rules, op_rules=ops, heads=heads)


def actions_of_slots(engine: em.MaskEngine, states: int, seed: int) -> Tensor:
    """One action for each op and choice of slots, other heads at random: int64 ``[k, states, heads]``."""
    naming = {"op", "slot", *(head.name for head in engine.rules.slot_heads)}
    columns = [at for at, name in enumerate(engine.rules.head_names) if name in naming]
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for action in reference.joint_actions(engine.rules, len(engine.slot_ids)):
        groups.setdefault(tuple(action[at] for at in columns), []).append(action)
    generator = seeded(seed)
    made = []
    for group in groups.values():
        made.append(torch.tensor(group)[torch.randint(len(group), (states,), generator=generator)])
    return torch.stack(made)


def taken(engine: em.MaskEngine, states: Tensor, actions: Tensor, legal: Tensor) -> set[tuple[int, int, int]]:
    """Head, op and stage of the slots in which a legal action acted."""
    found = set()
    names = engine.layout.head_names
    for one, permitted in zip(actions.tolist(), legal.tolist()):
        for slots, action, on in zip(states.tolist(), one, permitted):
            values = dict(zip(names, action))
            for name in engine.rules.op_rules[values["op"]].uses if on else ():
                if name == "slot" or isinstance(engine.rules.head(name), em.SlotHead):
                    found.add((name, values["op"], slots[values[name]][0]))
    return found


def edges_of(rules: em.MaskRules) -> set[tuple[Any, int, int]]:
    own = {("slot", int(op.id), int(s)) for op in rules.op_rules if "slot" in op.uses for s in rules.edges(op.id)}
    users = [(op, head) for op in rules.op_rules for head in rules.slot_heads if head.name in op.uses]
    return own | {(head.name, int(op.id), int(stage)) for op, head in users for stage in head.moves}


@pytest.mark.parametrize("name", em.rulesets())
def test_two_slots_of_the_shipped_rules(name: str) -> None:
    """Every state with two ages, one behind each gate, and a value that is no stage; every setting of switches."""
    rules = em.ruleset(name)
    for number, switches in enumerate(switch_settings(rules)):
        engine = em.MaskEngine(rules, ("x", "y"), **switches)
        column = [(*map(int, rules.stages), 99), (0, 7), *(tuple(map(int, d)) for d in rules.features.values())]
        rows = list(product(*column))
        states = torch.tensor(list(product(rows, rows)))
        if number:  # another edge at most is closed
            states = states[torch.randperm(len(states), generator=seeded(number))[:500]]
        actions = actions_of_slots(engine, len(states), 0)
        legal = assert_same(engine, states, actions, {})
        if not number:
            assert edges_of(engine.rules) <= taken(engine, states, actions, legal)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", ["servers", "jobs", "pods", "units"])
def test_two_slots_of_the_examples(name: str, gated: bool) -> None:
    """Every pair of stages, each four times with features at random; without gates every edge is taken."""
    rules = example(name) if gated else ungated(example(name))
    engine = em.MaskEngine(rules, rules.slot_ids[:3], kinds=dict.fromkeys(rules.kinds, rules.slot_ids[:3]))
    pairs = torch.tensor(list(product(rules.stages, rules.stages)) * 4)
    states = valid_states(rules, len(pairs), 3, 1)
    states[:, :2, 0] = pairs
    row = {row: torch.ones(len(pairs), dtype=torch.int32) for row in rules.row_features}
    row = {n: v.bool() if rules.row_features[n] is bool else v for n, v in row.items()}
    actions = actions_of_slots(engine, len(states), 2)
    legal = assert_same(engine, states, actions, {"row": row} if row else {})
    if not gated:
        assert edges_of(engine.rules) <= taken(engine, states, actions, legal)
    assert legal.any(1).float().mean() > 0.2


# -- shapes, memory, compilers ----------------------------------------------------------------------------------------

JUNE = em.MaskEngine(em.ruleset("esper-2026-06"))


def some_of_june(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    states = random_states(JUNE, batch, seed=seed)
    legal, *_, other = some_actions(JUNE, JUNE(states), seed)
    return states, torch.where(torch.arange(batch).unsqueeze(-1) % 3 == 0, other, legal)


def test_to_empty_a_slot_wins_over_what_is_set_in_it() -> None:
    """Where the op and its second head have the same slot."""
    out = em.SlotHead("heir", moves={Shop.OPEN: Shop.SHUT})
    ops = [dataclasses.replace(op, uses=["slot", "heir"]) if op.id == Do.PAINT else op for op in SHOPS.op_rules]
    ops = [dataclasses.replace(op, uses=["slot"]) if op.id == Do.SWAP else op for op in ops]
    heads = [out if head.name == "heir" else head for head in SHOPS.heads]
    engine = em.MaskEngine(dataclasses.replace(SHOPS, op_rules=ops, heads=heads))
    names = engine.layout.head_names
    for heir, wanted in ((0, [list(SHUT), list(OPEN)]), (1, [[*OPEN[:3], 0, 0], list(SHUT)])):
        action = [{"slot": 0, "heir": heir, "op": Do.PAINT}.get(name, 0) for name in names]
        after, legal = engine.successors(torch.tensor([[OPEN, OPEN]]), torch.tensor([action]))
        assert (legal.item(), after[0].tolist()) == (True, wanted)
        slots, allowed = reference.successor(engine.rules, [list(OPEN), list(OPEN)], action)
        assert (allowed, [list(slot) for slot in slots]) == (True, wanted)


def test_dtypes_and_memory_layouts_are_kept() -> None:
    states, actions = some_of_june(24)
    expected, legal = JUNE.successors(states, actions)
    assert 0 < legal.sum() < 24
    assert (expected != states).any()
    for layout in (*LAYOUTS, batch_last, strided):
        for dtype in (torch.int16, torch.int32, torch.int64):
            given = layout(states).to(dtype)
            given = given if given.dtype == torch.int64 and layout is not strided else layout(given)
            after, same = JUNE.successors(given, actions)
            assert after.dtype == given.dtype
            assert torch.equal(after, expected.to(given.dtype))
            assert torch.equal(same, legal)
            assert after.stride() == torch.empty_like(given).stride()
    inner = states.permute(1, 0, 2).contiguous().permute(1, 0, 2)  # slots, batch, features
    assert JUNE.successors(inner, actions)[0].stride() == inner.stride()


def test_leading_axes_and_actions_for_each_state() -> None:
    states, actions = some_of_june(24)
    expected, legal = JUNE.successors(states, actions)
    after, same = JUNE.successors(states.view(2, 3, 4, 3, 3), actions.view(2, 3, 4, 8))
    assert torch.equal(after, expected.view(2, 3, 4, 3, 3))
    assert torch.equal(same, legal.view(2, 3, 4))
    for env in (0, 5):
        after, one = JUNE.successors(states[env], actions[env])
        assert torch.equal(after, expected[env])
        assert (one.shape, bool(one)) == ((), bool(legal[env]))
    every = JUNE.joint_actions.decode(torch.arange(JUNE.joint_actions.size))
    after, same = JUNE.successors(states, every.unsqueeze(1).expand(-1, 24, -1))
    assert after.shape == (len(every), 24, 3, 3)
    assert torch.equal(same.T, JUNE(states).joint())
    at = JUNE.joint_actions.encode(actions)  # -1: illegal in every state
    assert torch.equal(torch.where((at >= 0).view(-1, 1, 1), after[at, torch.arange(24)], states), expected)
    assert JUNE.successors(states[0], every)[0].equal(after[:, 0])


def test_narrow_integers_of_actions_do() -> None:
    states, actions = some_of_june(24)
    for dtype in (torch.int8, torch.int16, torch.int32):
        for ours, other in zip(JUNE.successors(states, actions.to(dtype)), JUNE.successors(states, actions)):
            assert torch.equal(ours, other)


def test_what_does_not_fit_is_named() -> None:
    engine = em.MaskEngine(SHOPS)
    far = dataclasses.replace(SHOPS.op_rules[Do.MARK], sets={"sign": Sign.FAR})
    ops = [far if op.id == Do.MARK else op for op in SHOPS.op_rules]
    wide = em.MaskEngine(dataclasses.replace(SHOPS, op_rules=ops))
    action = torch.tensor([whole(SHOPS, {"op": Do.MARK})])
    narrow = wide.empty_slots(1).short()
    with pytest.raises(em.SlotStateError) as raised:
        wide.successors(narrow, action)
    assert str(raised.value) == "shops sets 'sign' to 70000, which int16 states do not hold; give int32"
    assert wide(narrow).permits(action).item()  # masks do not depend on it
    assert wide.successors(torch.tensor([[OPEN, SHUT]]), action)[0][0, 0].tolist() == [3, 5, 70_000, 1, 3]
    assert engine.successors(engine.empty_slots(1).short(), action)[0].dtype == torch.int16
    for states, actions, says in (
        (engine.empty_slots(2), action, r"actions has shape \(1, 5\); wanted \[\*sample, 2, 5\]"),
        (engine.empty_slots(1), action[:, 1:], r"wanted \[..., 5\], one value for each of debtor, slot"),
        (engine.empty_slots(1), action.float(), "actions must be an integer tensor, got torch.float32"),
        (engine.empty_slots(1)[:, 1:], action, r"states have shape \(1, 1, 5\); wanted \[..., 2, 5\]"),
    ):
        with pytest.raises(ValueError, match=says):
            engine.successors(states, actions)
    assert engine.successors(engine.empty_slots(0), action[:0])[0].shape == (0, 2, 5)
    with pytest.raises(em.SlotStateError, match="so the engine needs total_seeds"):
        JUNE.successors(JUNE.empty_slots(1), torch.zeros(1, 8, dtype=torch.int64), max_seeds=1)


def test_limits_and_constraints_count() -> None:
    states, germinate = JUNE.empty_slots(2), torch.tensor([[0, 1, 2, 1, 2, 0, 0, 1]] * 2)
    given = {"total_seeds": torch.tensor([1, 2]), "max_seeds": 2}
    after, legal = JUNE.successors(states, germinate, **given)
    assert legal.tolist() == [True, False]
    assert after[:, 0].tolist() == [[2, 0, 0], [1, 0, 0]]
    for more in (
        {"enabled": torch.tensor([False, True, True])},
        {"head_masks": {"blueprint": torch.arange(13).expand(2, -1) != 1}},
        {"restrict": {"slot": torch.tensor([False, True, True])}},
    ):
        after, legal = JUNE.successors(states, germinate, **more)
        assert not legal.any()
        assert torch.equal(after, states)


def test_the_batch_changes_no_op_and_nothing_reads_the_device() -> None:
    recorded = []
    for batch in (2, 300):
        states, actions = some_of_june(batch)
        JUNE.successors(states, actions)
        with OpRecorder() as recorder:
            JUNE.successors(states, actions)
        recorded.append(recorder.ops)
    assert recorded[0] == recorded[1]
    assert [op for op in recorded[0] if any(name in op for name in HOST_READS)] == []


def test_vmap() -> None:
    states, actions = some_of_june(12)
    expected = JUNE.successors(states, actions)
    for ours, other in zip(torch.vmap(JUNE.successors)(states, actions), expected):
        assert torch.equal(ours, other)
    one_state = torch.vmap(JUNE.successors, in_dims=(None, 0))(states[0], actions)
    for ours, other in zip(one_state, JUNE.successors(states[:1].expand(12, -1, -1), actions)):
        assert torch.equal(ours, other)
    one_action = torch.vmap(JUNE.successors, in_dims=(0, None))(states, actions[1])
    for ours, other in zip(one_action, JUNE.successors(states, actions[1].expand(12, -1))):
        assert torch.equal(ours, other)


def test_copies_and_checkpoints() -> None:
    states, actions = some_of_june(12)
    moved = copy.deepcopy(JUNE)
    moved.edges_0.zero_()
    moved.to("cpu")  # which makes tables again
    assert moved.successors(states, actions)[0].equal(JUNE.successors(states, actions)[0])
    assert list(JUNE.state_dict()) == ["_extra_state"]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_one_graph_for_every_batch(backend: str) -> None:
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(JUNE.successors, fullgraph=True, dynamic=True, backend=counter)
    for batch in BATCHES:
        states, actions = some_of_june(batch)
        after, legal = compiled(states, actions)
        expected, permitted = JUNE.successors(states, actions)
        assert torch.equal(after, expected)
        assert torch.equal(legal, permitted)
        assert after.stride() == states.stride()
    assert counter.frame_count == 1


@pytest.mark.usefixtures("fresh_compiler")
@settings(max_examples=20)
@given(st.data())
def test_random_rules_compile(data: st.DataObject) -> None:
    torch.compiler.reset()
    case = data.draw(slotted_cases())
    if not len(case.states):
        return
    actions = some_actions(case.engine, case.masks(), 0)
    compiled = torch.compile(case.engine.successors, fullgraph=True, backend="eager")
    for ours, other in zip(
        compiled(case.states, actions, **case.given), case.engine.successors(case.states, actions, **case.given)
    ):
        assert torch.equal(ours, other)


class Acting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.engine = JUNE

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return self.engine.successors(states, actions)


@pytest.mark.slow
def test_export() -> None:
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Acting(), some_of_june(5), dynamic_shapes=({0: batch}, {0: batch}))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    for exported in (program, torch.export.load(buffer)):
        for size in (2, 7):
            for ours, other in zip(exported.module()(*some_of_june(size)), JUNE.successors(*some_of_june(size))):
                assert torch.equal(ours, other)
