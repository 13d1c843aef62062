"""Rules compiled into one lookup tensor and a few word constants.

A *word* is an int32; bit i says whether op i is legal. The words of the stage table carry extra bits above the ops,
one for each distinct set of blocking stages, so that one gather and one reduction over slots answer both questions.
For ``esper-2026-06`` (6 ops, one blocking set) the row of TRAINING is

    bit   6        5        4         3      2                 1          0
          blocks?  ADVANCE  FOSSILIZE PRUNE  SET_ALPHA_TARGET  GERMINATE  WAIT
          1        1        0         1      0                 0          1          = 0b1101001
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper_masks.rule_checks import blocking_sets
from esper_masks.rules import MaskRules

BELOW, ABOVE = 1, 1  # rows of the stage table before the first stage and after the last, for integers that are no stage


@dataclass(frozen=True)
class Gates:
    """All that is not in the stage table. Every field is plain Python, so a compiler sees constants."""

    ages: tuple[tuple[int, int], ...]  # (lowest age, word of the ops that need it)
    features: tuple[tuple[int, int, int], ...]  # (column, value, word of the ops that need it)
    blocks: tuple[tuple[int, int], ...]  # (bit of the stage table, word of the ops it forbids)
    seed_limited: int  # word of the ops the seed limit forbids


def build_stage_words(rules: MaskRules) -> Tensor:
    """Which ops each stage allows before gates, one bit an op.

        for stage, op in product(stages, ops):
            words[BELOW + stage] >> op & 1  ==  stage in rules.legal_stages(op)

    Returns: int32 ``[BELOW + stages + ABOVE]``, ``stages`` being the highest stage value + 1. The first row, the last
        row and the rows of values that are no stage allow only the ops that are always legal, and block nothing.
    """
    always = sum(1 << op.id for op in rules.op_rules if op.always)
    words = [always] * (BELOW + max(rules.stages) + 1 + ABOVE)
    for op in rules.op_rules:
        for stage in rules.legal_stages(op.id):
            words[BELOW + stage] |= 1 << op.id
    for bit, stages in enumerate(blocking_sets(rules), start=len(rules.op_rules)):
        for stage in stages:
            words[BELOW + stage] |= 1 << bit
    return torch.tensor(words, dtype=torch.int32)


def build_gates(rules: MaskRules) -> Gates:
    """The gates of resolved rules, ops with the same gate merged into one word."""
    ages: dict[int, int] = {}
    features: dict[tuple[int, int], int] = {}
    for op in rules.op_rules:
        if op.min_age is not None:
            ages[op.min_age] = ages.get(op.min_age, 0) | 1 << op.id
        for name, value in op.requires.items():
            gate = (rules.feature_names.index(name), int(value))
            features[gate] = features.get(gate, 0) | 1 << op.id
    return Gates(
        ages=tuple(ages.items()),
        features=tuple((column, value, ops) for (column, value), ops in features.items()),
        blocks=tuple(
            (1 << bit, sum(1 << op.id for op in rules.op_rules if frozenset(op.blocked_by) == stages))
            for bit, stages in enumerate(blocking_sets(rules), start=len(rules.op_rules))
        ),
        seed_limited=sum(1 << op.id for op in rules.op_rules if op.seed_limit),
    )


def or_over_slots(words: Tensor) -> Tensor:
    """Bitwise OR over the last axis: ``[..., slots]`` -> ``[...]``, in ceil(log2(slots)) steps.

    torch has no OR-reduction. Halves may overlap, because a word ORed twice is unchanged.
    """
    while (width := words.shape[-1]) > 1:
        half = (width + 1) // 2
        words = words[..., :half] | words[..., width - half :]
    return words[..., 0]
