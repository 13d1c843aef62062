"""The draws of a whole action, against tables written by hand from the docstring of ``draws``."""

from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.actions.draws import Draw, build_draws, merge_draws
from esper_masks.actions.tables import DrawTables, draw_tables, layout_tables
from tests.enumeration import head_of, independent, layout_of

S = -(2**31)
WAIT, BIND, EVICT = 0b001, 0b010, 0b100
PODS = layout_of(3, 2, [1, 2], [head_of("node", 3, {1: range(3)}, 3)])
NODE = 1  # its position
BITS = (0b001, 0b010, 0b100)


def shown(draw: Draw) -> tuple[Any, ...]:
    return (draw.head, draw.columns, draw.words, draw.bits, draw.users, draw.needed_by)


def test_the_draws_of_shipped_rules() -> None:
    layout = em.MaskEngine(em.ruleset("esper-2025-12")).layout
    expected = [
        (3, (11, 12, 13, 14), (0, 0, 0, 0), (1, 2, 4, 8), 0b1111, S),
        (0, (0, 1, 2), (1, 2, 3), (0b1110,) * 3, 0, 0),
        (0, (0, 1, 2), (1, 2, 3), (0b0010,) * 3, 0b0010, 0b0010),
        (0, (0, 1, 2), (1, 2, 3), (0b0100,) * 3, 0b0100, 0b0100),
        (0, (0, 1, 2), (1, 2, 3), (0b1000,) * 3, 0b1000, 0b1000),
        (1, (3, 4, 5, 6, 7), (0,) * 5, (0, S, S, S, S), 0b0010, S),
        (2, (8, 9, 10), (0,) * 3, (S,) * 3, 0b0010, S),
    ]
    draws = build_draws(layout)
    assert [shown(draw) for draw in draws] == expected
    assert all(draw.choice_words is None and draw.slot is None and draw.needed_word == 0 for draw in draws)
    assert [draw.of_op for draw in draws] == [True, *[False] * 6]
    limited = build_draws(layout, dynamic=((1, False), (2, False)))
    assert [draw.choice_words for draw in limited[5:]] == [(0,) * 5, (2,) * 3]  # each has its whole mask first
    assert [draw.bits for draw in limited[5:]] == [(S,) * 5, (S,) * 3]
    assert limited[5].choice_bits == (1, 2, 4, 8, 16)


def test_the_worked_row_of_a_head_in_each_slot() -> None:
    draws = build_draws(PODS, dynamic=((NODE, True),))
    assert [shown(draw) for draw in draws] == [
        (2, (5, 6, 7), (0, 0, 0), BITS, 0b111, S),
        (0, (0, 1), (1, 2), (BIND | EVICT,) * 2, 0, 0),
        (0, (0, 1), (1, 2), (BIND,) * 2, BIND, BIND),
        (0, (0, 1), (1, 2), (EVICT,) * 2, EVICT, EVICT),
        (1, (2, 3, 4), (1, 1, 1), (BIND,) * 3, BIND, BIND),
        (1, (2, 3, 4), (2, 2, 2), (BIND,) * 3, BIND, BIND),
    ]
    first, second = draws[4:]
    assert (first.slot, first.needed_word, first.choice_words, first.choice_bits) == (0, 1, (0, 0, 0), BITS)
    assert (second.slot, second.needed_word, second.choice_words, second.choice_bits) == (1, 2, (1, 1, 1), BITS)
    words, choices = [S | 0b111, 0b011, 0b101], [0b101, 0b111]
    legal = [
        [
            bool(
                words[word] & bits
                and (draw.choice_words is None or choices[draw.choice_words[c]] & draw.choice_bits[c])
            )
            for c, (word, bits) in enumerate(zip(draw.words, draw.bits))
        ]
        for draw in draws
    ]
    assert legal[2:] == [[True, False], [False, True], [True, False, True], [False] * 3]
    assert [bool(words[draw.needed_word] & draw.needed_by) for draw in draws] == [True, False, *[True] * 3, False]
    own = build_draws(PODS, by_slot=(NODE,))
    assert [draw.columns for draw in own[4:]] == [(2, 3, 4), (5, 6, 7)]
    assert own[0].columns == (8, 9, 10)
    assert own[4].choice_words is None
    both = build_draws(PODS, by_op=(NODE,), by_slot=(NODE,), dynamic=((NODE, False),))
    assert [draw.columns for draw in both[4:]] == [(8, 9, 10), (11, 12, 13)]  # BIND has the second row of slots
    assert [draw.choice_words for draw in both[4:]] == [(1,) * 3, (1,) * 3]  # its choices, not its whole mask


def test_a_draw_for_each_slot_and_group_of_ops() -> None:
    """MOVE and COPY have the same permits, MELT others; each has logits of its own where they depend on the op."""
    node = head_of("node", 3, {1: (0, 1), 2: (0, 1), 3: (2,)}, 4)
    layout = layout_of(4, 2, [1, 2, 3], [node])
    draws = [draw for draw in build_draws(layout, by_slot=(NODE,)) if draw.head == NODE]
    assert [(draw.slot, draw.users, draw.bits) for draw in draws] == [
        (0, 0b0110, (6, 6, 0)),
        (0, 0b1000, (0, 0, 8)),
        (1, 0b0110, (6, 6, 0)),
        (1, 0b1000, (0, 0, 8)),
    ]
    every = build_draws(layout, by_slot=(NODE,))
    merged = merge_draws(every, NODE)
    assert merged.whole.bits == (6, 6, 8)
    assert merged.groups == (0b0110, 0b1000)
    assert merged.other_logits == (((5, 6, 7), 0, 1),)
    assert [draw.slot for draw in merged.slots] == [0, 1]
    by_op = build_draws(layout, by_op=(NODE,), dynamic=((NODE, True),))
    assert [draw.users for draw in by_op if draw.head == NODE] == [2, 4, 8] * 2
    others = merge_draws(by_op, NODE).other_logits
    assert [(users, slot) for _, users, slot in others] == [(4, None), (8, None)]


def test_wide_heads_and_many_ops() -> None:
    layout = layout_of(40, 2, [39], [head_of("node", 70, {39: range(70)}, 40)])
    assert (layout.word_dtype, layout.static) == (torch.int64, -(2**63))
    draws = build_draws(layout, dynamic=((NODE, True),))
    second = draws[-1]
    assert second.users == second.bits[0] == 1 << 39
    assert (second.choice_words or ())[::23] == (3, 3, 4, 5)
    assert [second.choice_bits[c] for c in (0, 30, 31, 32, 63, 69)] == [1, 1 << 30, S, 1, S, 1 << 5]
    tables = DrawTables(layout, (), (), ((NODE, True),), torch.device("cpu"))
    assert tables.bits.dtype == tables.needed_by.dtype == torch.int64
    assert tables.draws[0].needed_by == -(2**63)


def test_a_layout_without_an_op() -> None:
    layout = independent({"a": 2, "b": 3})
    assert [shown(draw) for draw in build_draws(layout, dynamic=((1, False),))] == [
        (0, (0, 1), (0, 0), (S, S), 1, S),
        (1, (2, 3, 4), (0, 0, 0), (S, S, S), 1, S),
    ]
    assert build_draws(layout, dynamic=((1, False),))[1].choice_words == (1, 1, 1)  # no canonical choice steps in


def test_tables_are_made_once_and_ahead() -> None:
    here = torch.device("cpu")
    plain = draw_tables(PODS, here)
    assert plain is layout_tables(PODS, here).draws is draw_tables(PODS, here, dynamic=())
    own = draw_tables(PODS, here, by_slot=(NODE,))
    assert own is draw_tables(PODS, here, by_slot=(NODE,))
    assert own is not plain is not draw_tables(PODS, here, dynamic=((NODE, True),))
    slot_wise = head_of("node", 3, {1: range(3)}, 3, by_slot=True, dynamic=True)
    layout = layout_of(3, 2, [1, 2], [slot_wise])
    assert draw_tables(layout, here, dynamic=((NODE, True),)) is layout_tables(layout, here).draws


@pytest.mark.parametrize("name", em.rulesets())
def test_a_head_in_rows_has_the_draws_of_one_without_limits(name: str) -> None:
    """So that a divergence between masks with limits and without compares draw by draw."""
    layout = em.MaskEngine(em.ruleset(name)).layout
    others = tuple((at, False) for at, head in enumerate(layout.heads) if head.name not in ("slot", "op"))
    for plain, limited in zip(build_draws(layout), build_draws(layout, dynamic=others), strict=True):
        assert (plain.head, plain.columns, plain.users) == (limited.head, limited.columns, limited.users)
