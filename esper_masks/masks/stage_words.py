"""Rules compiled into one lookup tensor and a few word constants.

A *word* is an int32; bit i says whether op i is legal. The words of the stage table carry extra bits above the ops,
one for each distinct set of blocking stages, so that one gather and one reduction over slots answer both questions.
For ``esper-2026-06`` (6 ops, one blocking set) the row of TRAINING is

    bit   6        5        4         3      2                 1          0
          blocks?  ADVANCE  FOSSILIZE PRUNE  SET_ALPHA_TARGET  GERMINATE  WAIT
          1        1        0         1      0                 0          1          = 0b1101001
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from esper_masks.rules import MaskRules
from esper_masks.rules.checks import blocking_sets

UNROLLED_STAGES, UNROLLED_SLOTS = 16, 8  # what compiled code compares and ORs one by one
BELOW, ABOVE = 1, 1  # rows of the stage table before the first stage and after the last, for integers that are no stage


@dataclass(frozen=True)
class Gates:
    """The rules in plain Python, so that a compiler sees constants.

    ``stages`` is the stage table without the rows that are like those of no stage.
    """

    otherwise: int  # word of a stage that is not in ``stages``, or of an integer that is no stage
    stages: tuple[tuple[int, int], ...]  # (stage, word)
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
    return torch.tensor(_stage_words(rules), dtype=torch.int32)


def _stage_words(rules: MaskRules) -> list[int]:
    always = sum(1 << op.id for op in rules.op_rules if op.always)
    words = [always] * (BELOW + max(rules.stages) + 1 + ABOVE)
    for op in rules.op_rules:
        for stage in rules.legal_stages(op.id):
            words[BELOW + stage] |= 1 << op.id
    for bit, stages in enumerate(blocking_sets(rules), start=len(rules.op_rules)):
        for stage in stages:
            words[BELOW + stage] |= 1 << bit
    return words


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
    *rows, otherwise = _stage_words(rules)[BELOW:]
    return Gates(
        otherwise=otherwise,
        stages=tuple((stage, word) for stage, word in enumerate(rows) if word != otherwise),
        ages=tuple(ages.items()),
        features=tuple((column, value, ops) for (column, value), ops in features.items()),
        blocks=tuple(
            (1 << bit, sum(1 << op.id for op in rules.op_rules if frozenset(op.blocked_by) == stages))
            for bit, stages in enumerate(blocking_sets(rules), start=len(rules.op_rules))
        ),
        seed_limited=sum(1 << op.id for op in rules.op_rules if op.seed_limit),
    )


def words_of_stages(stages: Tensor, stage_words: Tensor, gates: Gates) -> Tensor:
    """Words before gates, of any integers.

    A gather is one op, which is what eager code wants. A compiler makes of it loads one by one, with conversions to
    int64 and checks of the range around them, so that it is given comparisons instead.

    Args:
        stages: integer ``[...]``.
        stage_words: see ``build_stage_words``.
        gates: of the same rules.

    Returns: int32 ``[...]``.
    """
    if not torch.compiler.is_compiling() or len(gates.stages) > UNROLLED_STAGES:
        return stage_words[stages.clamp(-BELOW, stage_words.shape[0] - BELOW - ABOVE).int() + BELOW]
    words = torch.full_like(stages, gates.otherwise, dtype=torch.int32)
    for stage, word in gates.stages:
        words = torch.where(stages == stage, word, words)
    return words


def or_over_slots(words: Tensor) -> Tensor:
    """Bitwise OR over the last axis: ``[..., slots]`` -> ``[...]``, in ceil(log2(slots)) steps.

    torch has no OR-reduction. Halves may overlap, because a word ORed twice is unchanged. A compiler fuses a few slots
    taken one by one with what they come from; halves it keeps in memory.
    """
    if torch.compiler.is_compiling() and words.shape[-1] <= UNROLLED_SLOTS:
        return reduce(torch.bitwise_or, words.unbind(-1))
    while (width := words.shape[-1]) > 1:
        half = (width + 1) // 2
        words = words[..., :half] | words[..., width - half :]
    return words[..., 0]
