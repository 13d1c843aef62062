"""The program of an engine: equal parts share a step, bits that fit, and helper bits beyond the word."""

import dataclasses

import pytest
import torch

import esper_masks as em
from esper_masks.masks.program import SlotTest, build_program
from tests.masks.hand import many


def test_equal_gates_of_several_ops_are_one_step() -> None:
    program = build_program(em.ruleset("esper-2026-06").resolve())
    assert program.slots == (
        (SlotTest(1, ((5, None),), None, None), (0b1000,)),
        (SlotTest(2, ((0, 0),), None, None), (0b1100,)),
    )
    assert [(step.test.bit, step.clears) for step in program.envs] == [(None, (0b10,)), ((0, 1 << 6), (0b10,))]
    assert program.limited
    assert not program.strips  # what blocks is taken from the bits of all ops


def test_sets_of_stages_that_differ_in_order_share_a_bit() -> None:
    rules = em.ruleset("esper-2026-06").resolve()
    stages = rules.stages
    orders = [], [stages.TRAINING, stages.BLENDING], [stages.BLENDING, stages.TRAINING], [stages.TRAINING]
    ops = [*rules.op_rules]
    for at, order in enumerate(orders):
        ops[at] = dataclasses.replace(ops[at], seed_limit=False, blocked_by=order)
    envs = build_program(dataclasses.replace(rules, op_rules=ops)).envs
    assert [(step.test.bit, step.clears) for step in envs] == [((0, 1 << 6), (0b0110,)), ((0, 1 << 7), (0b1000,))]


def test_the_words_of_stages_have_their_helper_bits() -> None:
    program = build_program(em.ruleset("esper-2026-06").resolve())
    assert program.stages[3] == (0b1101001,)  # as the docstring of stage_words has it
    assert program.stages[-1] == (0b1,)


@pytest.mark.parametrize(
    ("ops", "blocking", "words"),
    [
        (29, 2, 1),
        (30, 1, 1),
        (30, 2, 2),
        (31, 0, 1),
        (31, 2, 2),
        (32, 2, 1),
        (61, 2, 1),
        (62, 1, 1),
        (62, 2, 2),
        (62, 5, 2),
    ],
)
def test_helper_bits_beyond_the_word_are_in_further_words(ops: int, blocking: int, words: int) -> None:
    rules = many(ops, blocking)
    program = build_program(rules)
    assert len(program.subjects) == len(program.stages[0]) == words
    assert program.subjects[0] == (1 << ops) - 1
    states = [[[a, 0], [b, 0]] for a in (-1, 0, 1, 2) for b in (0, 1, 2, 3)]
    engine = em.MaskEngine(rules)
    masks = engine(torch.tensor(states))
    expected = em.reference.masks(rules, states)
    assert masks.slot_by_op.tolist() == expected["slot_by_op"]
    assert masks["op"].tolist() == expected["op"]


def test_more_than_62_ops_are_refused() -> None:
    with pytest.raises(em.RulesError, match="63 ops; a word has bits for 62"):
        many(63, 0)
