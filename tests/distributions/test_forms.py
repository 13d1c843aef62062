"""The choice of the form of a distribution, and the seam by which tests make it."""

from collections.abc import Callable

import pytest
import torch

import esper_masks as em
from esper_masks.actions.draws import build_draws
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
    """Eager code never; a head beyond the length of a row does not count, since it is one tensor."""
    for rules, slots, form in (
        ("esper-2025-12", 3, "unrolled"),
        ("esper-2026-06", 16, "stacked"),
        ("esper-2026-06", 17, "unrolled"),
    ):
        draws = build_draws(em.MaskEngine(em.ruleset(rules), [f"s{i}" for i in range(slots)]).layout)
        assert forms.of_decision(draws, compiled=True) == form
        assert forms.of_decision(draws) == forms.of_row(2) == "stacked"
