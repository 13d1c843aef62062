"""The choice of the form of a distribution, and the seam by which tests make it."""

from collections.abc import Callable

import pytest
import torch

import esper_masks as em
from esper_masks.actions.draws import build_draws, draws_alike
from esper_masks.bench.lifecycles import grown
from esper_masks.distributions import forms
from tests.enumeration import head_of, layout_of
from tests.helpers import OpRecorder, random_states

ENGINE = em.MaskEngine(em.ruleset("esper-2026-06"))


def ops_of_a_decision(engine: em.MaskEngine = ENGINE) -> int:
    masks, logits = engine(random_states(engine, 5)), torch.zeros(5, engine.layout.logit_size)
    with OpRecorder() as recorder:
        em.FactoredCategorical(logits, masks, validate="off").sample()
    return len(recorder.ops)


def ops_of_a_row() -> int:
    with OpRecorder() as recorder:
        em.MaskedCategorical(torch.zeros(5, 40), torch.ones(5, 40, dtype=torch.bool), validate="off").sample()
    return len(recorder.ops)


@pytest.mark.parametrize("count", [ops_of_a_row, ops_of_a_decision])
def test_a_form_is_used_and_given_back(count: Callable[[], int]) -> None:
    eager = count()
    with forms.use("unrolled"):
        unrolled = count()
        with forms.use("quick"):
            assert count() == eager
        assert count() == unrolled > 2 * eager
    with pytest.raises(KeyError), forms.use("unrolled"):
        raise KeyError
    assert count() == eager


def test_an_unrolled_decision_may_have_long_heads() -> None:
    op, *others = build_draws(ENGINE.layout)
    assert not any(forms.is_long(draw) for draw in (op, *others))
    with forms.use("unrolled", longest_row=4):
        longest = [draw.size for draw in (op, *others) if forms.is_long(draw)]
    assert set(longest) == {13, 5}  # blueprints and curves; the six ops never
    many = em.MaskEngine(em.ruleset("esper-2025-12"), [f"s{i}" for i in range(64)])
    with forms.use("unrolled"):
        long = ops_of_a_decision(many)
    with forms.use("unrolled", longest_row=64):
        assert ops_of_a_decision(many) > 2 * long


def test_a_head_in_many_slots_is_long() -> None:
    """So that its draws, one a slot, stay few ops: 8 pods and 16 nodes would otherwise be too much to unroll."""
    for slots, nodes, long in ((8, 16, True), (4, 4, False), (5, 4, True), (1, 16, False)):
        layout = layout_of(3, slots, [1, 2], [head_of("node", nodes, {1: range(nodes)}, 3)])
        draws = build_draws(layout, by_slot=(1,))
        assert [forms.is_long(draw) for draw in draws if draw.slot is not None] == [long] * slots
        assert not any(forms.is_long(draw) for draw in draws if draw.slot is None)
        assert forms.of_decision(draws, compiled=True) == "unrolled"
        with forms.use("unrolled", longest_row=nodes * slots - 1):
            assert forms.is_long(draws[-1])


def test_compiled_code_is_unrolled_while_it_is_small() -> None:
    """Eager code never; what is one tensor does not count: a head beyond the length of a row, draws that are alike."""
    for rules, slots, form, tensors in (
        (em.ruleset("esper-2025-12"), 3, "unrolled", 0),
        (em.ruleset("esper-2026-06"), 16, "unrolled", 1),
        (em.ruleset("esper-2026-06"), 17, "unrolled", 0),
        (grown(4, 24, 0), 3, "unrolled", 0),
        (grown(4, 60, 0), 3, "unrolled", 1),
        (grown(40, 4, 0), 3, "stacked", 1),
    ):
        draws = build_draws(em.MaskEngine(rules, [f"slot{i}" for i in range(slots)]).layout)
        assert forms.of_decision(draws, compiled=True) == form
        assert forms.of_decision(draws) == forms.of_row(2) == "stacked"
        assert sum(len(run) > 1 for run in forms.runs(draws)) == tensors


def test_many_long_draws_of_their_own_are_not_unrolled() -> None:
    """A first call would take minutes: draws by op have other columns, those in slots other words."""
    alike, own = range(20), {op: [0, *(1 + bit for bit in range(5) if op >> bit & 1)] for op in range(1, 32)}
    for uses, wide in ((dict.fromkeys(own, alike), {"by_op": (1,)}), (own, {"by_slot": (1,)})):
        node = head_of("node", 20, uses, 32)
        draws = build_draws(layout_of(32, 4, [*uses], [node]), **wide)
        crowded = forms.is_crowded(draws)
        assert crowded
        assert sum(forms.is_long(draw, crowded) for draw in draws) > 30
        assert forms.of_decision(draws, compiled=True) == "stacked"


def test_the_op_is_long_where_a_whole_action_is_crowded() -> None:
    for ops, long in ((24, False), (60, True)):
        draws = build_draws(em.MaskEngine(grown(4, ops, 0), [f"slot{i}" for i in range(3)]).layout)
        assert forms.is_crowded(draws) == long
        assert forms.is_long(draws[0], forms.is_crowded(draws)) == long
        [family] = [run for run in draws_alike(draws) if len(run) > 1]
        assert {draws[at].head for at in family} == {0}
        assert [draws[at].users for at in family] == [1 << op for op in range(1, ops)]


def test_a_family_is_of_one_head_and_differs_in_the_op_alone() -> None:
    draws = build_draws(ENGINE.layout, by_op=(ENGINE.layout.position("style"),))
    assert [at for run in draws_alike(draws) for at in run] == [*range(len(draws))]
    for run in draws_alike(draws):
        own = [draws[at] for at in run]
        assert len({(draw.head, draw.columns, draw.words, draw.size) for draw in own}) == 1
        assert len(run) == 1 or all(draw.users.bit_count() == 1 and not draw.plain for draw in own)
    names = [ENGINE.layout.head_names[draws[run.start].head] for run in draws_alike(draws) if len(run) > 1]
    assert names == ["slot"]
