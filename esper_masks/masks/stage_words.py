"""The stages of rules compiled into one lookup tensor.

A *word* is an int32; bit i says whether op i is legal. The words of the stage table carry extra bits above the ops, one
for each distinct set of stages that gates watch in all slots. So one gather and one reduction over slots answer both
questions. For ``esper-2026-06`` (6 ops, one blocking set) the row of TRAINING is

    bit   6        5        4         3      2                 1          0
          blocks?  ADVANCE  FOSSILIZE PRUNE  SET_ALPHA_TARGET  GERMINATE  WAIT
          1        1        0         1      0                 0          1          = 0b1101001
"""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.rules import MaskRules
from esper_masks.rules.gates import watched_bits

UNROLLED_STAGES, UNROLLED_SLOTS = 16, 8  # what compiled code compares and ORs one by one
BELOW, ABOVE = 1, 1  # rows of the stage table before the first stage and after the last, for integers that are no stage


class StageRows(NamedTuple):
    """The stage table in plain Python, so that a compiler sees constants; without the rows like that of no stage."""

    otherwise: int  # word of a stage that is not in ``rows``, or of an integer that is no stage
    rows: tuple[tuple[int, int], ...]  # (stage, word)


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
    for stages, bit in watched_bits(rules.op_rules).items():
        for stage in stages:
            words[BELOW + stage] |= bit
    return words


def build_stage_rows(rules: MaskRules) -> StageRows:
    """The rows of ``build_stage_words`` that a compiler has to tell apart."""
    *rows, otherwise = _stage_words(rules)[BELOW:]
    return StageRows(otherwise, tuple((stage, word) for stage, word in enumerate(rows) if word != otherwise))


def words_of_stages(stages: Tensor, stage_words: Tensor, table: StageRows) -> Tensor:
    """Words before gates, of any integers.

    A gather is one op, which is what eager code wants. A compiler makes of it loads one by one, with conversions to
    int64 and checks of the range around them, so that it is given comparisons instead.

    Args:
        stages: integer ``[...]``.
        stage_words: see ``build_stage_words``.
        table: of the same rules.

    Returns: int32 ``[...]``.
    """
    if not torch.compiler.is_compiling() or len(table.rows) > UNROLLED_STAGES:
        return stage_words[stages.clamp(-BELOW, stage_words.shape[0] - BELOW - ABOVE).int() + BELOW]
    words = torch.full_like(stages, table.otherwise, dtype=torch.int32)
    for stage, word in table.rows:
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
