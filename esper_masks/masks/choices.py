"""Choice words: which choices of a head are legal, a bit each; of a row, or of each slot.

Choice c is bit ``c % 32`` of word ``c // 32``, so that a head of 40 choices has two int32 words, ``[..., 2]`` for a row
and ``[..., slots, 2]`` for its slots.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from esper_masks.actions.layout import CHOICE_BITS, choice_bit, choice_words
from esper_masks.actions.tables import as_choice_words
from esper_masks.masks.stage_words import WordRows, compare, look_up
from esper_masks.rules import Head, MaskRules
from esper_masks.rules.names import MAX_STAGE

MOVES_BYTES = sum(1 << 56 - 7 * byte for byte in range(8))  # byte i, at bit 8 i, to bit 56 + i
LARGE = 1 << 14  # bools


class PackedMask(NamedTuple):
    """A mask of a head that was checked, as choice words: int32 ``[..., k]`` or ``[..., slots, k]``."""

    words: Tensor


def pack_choices(mask: Tensor, bits: Tensor) -> Tensor:
    """Bool ``[..., n]`` as choice words, int32 ``[..., k]``.

    A sum over bits takes 1 ns a bool on a CPU. A compiler that sees the bits of a word one by one makes vectors over
    rows of them. Eager code takes eight bytes of 0 and 1 as one int64, and multiplies it by a number that moves byte i
    to bit 56 + i, where no two products meet; that is for a low byte that comes first, as on all that torch runs on.

    Args:
        mask: bools.
        bits: int32 ``[32]``, bit of each choice in its word.
    """
    size = mask.shape[-1]
    if torch.compiler.is_compiling():
        of_words = mask.unsqueeze(-2)
        if size > CHOICE_BITS:
            of_words = _filled(mask, CHOICE_BITS).unfold(-1, CHOICE_BITS, CHOICE_BITS)
        each = [torch.where(of_choice, choice_bit(at), 0).int() for at, of_choice in enumerate(of_words.unbind(-1))]
        return reduce(torch.bitwise_or, each)
    if is_large(mask):
        truths = (mask.view(torch.uint8) != 0).view(torch.uint8)  # true may be any byte but 0
        eights = _filled(truths, 8).view(torch.int64) * MOVES_BYTES >> 56
        return _filled(eights.to(torch.uint8), 4).view(torch.int32)
    parts = torch.split(mask, CHOICE_BITS, -1)
    words = [torch.where(part, bits[: part.shape[-1]], 0).sum(-1, dtype=torch.int32) for part in parts]
    return torch.stack(words, -1)  # in memory as those of large masks, or compiled code that takes both is made twice


def is_large(mask: Tensor) -> bool:
    """Whether a mask has so many bools, on a CPU, that to pack them takes longer than to call torch a few times."""
    return mask.device.type == "cpu" and mask.numel() >= LARGE


def words_of(mask: Tensor | PackedMask, bits: Tensor) -> Tensor:
    """The choice words of a mask."""
    return mask.words if isinstance(mask, PackedMask) else pack_choices(mask, bits)


def _filled(values: Tensor, whole: int) -> Tensor:
    """Contiguous, with zeros behind the last axis until its length is a multiple."""
    lacking = -values.shape[-1] % whole
    return pad(values, (0, lacking)) if lacking else values.contiguous()


def beside(words: Sequence[Tensor]) -> Tensor:
    """k words ``[...]`` as ``[..., k]``; in memory one after the other."""
    return words[0].unsqueeze(-1) if len(words) == 1 else torch.stack(list(words)).movedim(0, -1)


def unpack_choices(words: Tensor, size: int, bits: Tensor) -> Tensor:
    """Choice words ``[..., k]`` as bool ``[..., size]``; see ``pack_choices``."""
    if size <= CHOICE_BITS:
        return (words & bits[:size]) != 0
    return (words.unsqueeze(-1) & bits).flatten(-2)[..., :size] != 0


def overlap(words: Tensor, permitted: Sequence[int]) -> Tensor:
    """Whether choice words ``[..., k]`` have one of some choices: bool ``[...]``."""
    hits = [(words[..., at] & choices) != 0 for at, choices in enumerate(permitted) if choices]
    return reduce(torch.logical_or, hits) if hits else torch.zeros_like(words[..., 0], dtype=torch.bool)


def has_choice(words: Sequence[Tensor], choice: int) -> Tensor:
    """Whether choice words, k of ``[...]``, have a choice: bool ``[...]``."""
    return (words[choice // CHOICE_BITS] & as_choice_words([choice % CHOICE_BITS], CHOICE_BITS)[0]) != 0


def in_slot(words: Tensor, slot: Tensor, by_slot: bool) -> list[Tensor]:
    """Choice words in a slot each, k of int32 ``[...]``, by comparisons; whatever, where there is no such slot.

    Args:
        words: ``[..., k]``, or ``[..., slots, k]``.
        slot: integer ``[...]``.
        by_slot: which of the two the words are.
    """
    if not by_slot:
        return list(words.unbind(-1))
    made = []
    for of_slots in words.unbind(-1):
        word, *others = of_slots.unbind(-1)
        for at, other in enumerate(others, 1):
            word = torch.where(slot == at, other, word)
        made.append(word)
    return made


def entry(words: Tensor, at: Tensor) -> Tensor:
    """The word at a place each: of ``[..., words]`` for int64 ``[*sample, ...]``."""
    return words.expand(*at.shape, -1).gather(-1, at.unsqueeze(-1)).squeeze(-1)


class ChoiceLookup(NamedTuple):
    """The choices that a feature of the slot leaves to a head, in plain Python."""

    column: int
    rows: tuple[WordRows, ...]  # for each choice word
    words: tuple[tuple[int, ...], ...] | None  # the same for each choice word as a table; None: values are far apart


def build_lookups(rules: MaskRules, head: Head) -> tuple[ChoiceLookup, ...]:
    """What ``by_stage`` and ``by_feature`` of a head leave; only a choice that is in all of them is legal."""
    made = []
    for reads, choices in head.slot_tables:
        of_values = {value: as_choice_words(own, len(head.choices)) for value, own in choices.items()}
        each = range(choice_words(len(head.choices)))
        rows = tuple(WordRows(0, tuple((value, of_values[value][at]) for value in of_values)) for at in each)
        words = None
        if of_values and min(of_values) >= 0 and max(of_values) <= MAX_STAGE:
            none = (0,) * len(each)
            values = range(max(of_values) + 2)
            words = tuple(tuple(of_values.get(value, none)[at] for value in values) for at in each)
        made.append(ChoiceLookup(rules.feature_names.index(reads), rows, words))
    return tuple(made)


def look_up_choices(states: Tensor, lookup: ChoiceLookup, table: Tensor | None) -> Tensor:
    """The choice words of each slot, int32 ``[..., slots, k]``.

    Args:
        states: integer ``[..., slots, features]``.
        lookup: see ``build_lookups``.
        table: its words, int32 ``[k, BELOW + values + ABOVE]``; None where there are none.
    """
    values = states[..., lookup.column]
    if table is None:
        return beside([compare(values, torch.int32, rows) for rows in lookup.rows])
    return beside(look_up(values, table.unbind(), lookup.rows))


def batch_last(function: Callable[..., Tensor], trailing: int) -> Callable[..., Tensor]:
    """A function of tensors ``[rows, ...]`` as one of ``[rows, ...]`` whose memory stays batch-last.

    Args:
        function: takes tensors whose last axes, ``trailing`` of them, are the first, and gives one of that kind.
        trailing: how many axes stand behind those of rows.
    """
    last, first = tuple(range(-trailing, 0)), tuple(range(trailing))
    return lambda *tensors: function(*[t.movedim(last, first) for t in tensors]).movedim(first, last)
