"""Lookup tables of small integers, a stage for one, into words; and what is done with words.

A *word* is an int32 or int64; bit i says whether op i is legal. The words of the stage table carry extra bits above the
ops, such as one for each distinct set of stages that gates watch in all slots, see ``program``. So one gather and one
reduction over slots answer both questions. For ``esper-2026-06`` (6 ops, one blocking set) the row of TRAINING is

    bit   6        5        4         3      2                 1          0
          blocks?  ADVANCE  FOSSILIZE PRUNE  SET_ALPHA_TARGET  GERMINATE  WAIT
          1        1        0         1      0                 0          1          = 0b1101001
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

UNROLLED_VALUES = 16  # what compiled code compares one by one
UNROLLED_SLOTS = 8  # what is ORed one by one
BELOW, ABOVE = 1, 1  # rows of a table before value 0 and after the last, for integers that are not in it


class WordRows(NamedTuple):
    """A table in plain Python, so that a compiler sees constants; without the rows like that of no value."""

    otherwise: int  # word of an integer that is not in ``rows``
    rows: tuple[tuple[int, int], ...]  # (value, word)


def build_table(words: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Words of the values 0, 1, ... and, last, of any other integer: ``[BELOW + values + ABOVE]``."""
    return torch.tensor([words[-1]] * BELOW + list(words), dtype=dtype)


def build_rows(words: Sequence[int]) -> WordRows:
    """The same words as a compiler has to tell them apart."""
    *rows, otherwise = words
    return WordRows(otherwise, tuple((value, word) for value, word in enumerate(rows) if word != otherwise))


def look_up(values: Tensor, tables: Sequence[Tensor], rows: Sequence[WordRows]) -> list[Tensor]:
    """Words of any integers, in each of several tables over the same values.

    A gather is one op, which is what eager code wants. A compiler makes of it loads one by one, with conversions to
    int64 and checks of the range around them, so that it is given comparisons instead.

    Args:
        values: integer ``[...]``.
        tables: see ``build_table``.
        rows: see ``build_rows``.

    Returns: for each table words ``[...]`` of its dtype.
    """
    if not torch.compiler.is_compiling() or max(len(table.rows) for table in rows) > UNROLLED_VALUES:
        at = values.clamp(-BELOW, tables[0].shape[0] - BELOW - ABOVE).int() + BELOW
        return [table[at] for table in tables]
    return [compare(values, table.dtype, of) for table, of in zip(tables, rows)]


def compare(values: Tensor, dtype: torch.dtype, rows: WordRows) -> Tensor:
    """Words of any integers by comparisons alone, two ops a row; see ``look_up``."""
    words = torch.full_like(values, rows.otherwise, dtype=dtype)
    for value, word in rows.rows:
        words = torch.where(values == value, word, words)
    return words


def or_over_slots(words: Tensor) -> Tensor:
    """Bitwise OR over the last axis: ``[..., slots]`` -> ``[...]``; 0 without slots.

    torch has no OR-reduction. A few slots are taken one by one: fewest calls, and a compiler fuses them with what they
    come from. More go in halves, ceil(log2(slots)) times, which may overlap: a word ORed twice is unchanged.
    """
    slots = words.shape[-1]
    if not slots:
        return words.new_zeros(words.shape[:-1])
    if slots <= UNROLLED_SLOTS:
        return reduce(torch.bitwise_or, words.unbind(-1))
    while (width := words.shape[-1]) > 1:
        half = (width + 1) // 2
        words = words[..., :half] | words[..., width - half :]
    return words[..., 0]
