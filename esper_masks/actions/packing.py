"""How masks lie in one int32 tensor ``[..., words]``, so that its width alone says what is in it.

A layout has several *forms*, each of another width. In all of them the fields follow each other in this order:

    slot words     one a slot
    op word        in every form but the first; there too where slot words do not tell all ops
    slot mask      a bit a slot, in every form but the first
    choice words   head after head: those of the row, or slot after slot

The first form holds what an engine gives without head masks and constraints: choice words of the heads that are
dynamic. The second has choice words of every head. Then there is one for each set of heads that may have choices by
slot, in which these have them; of more than ``MOST_SETS_OF`` such heads one for each head and one for all. A word of 64
bits takes two places, the lower half first. Where two forms would have the same width, the later one is padded, by some
words where heads are small.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from esper_masks.actions.layout import WORD_BITS, ActionLayout, choice_words, word_bits
from esper_masks.rules.names import BY_SLOT, OP, SLOT, SLOT_BY_OP

MOST_SETS_OF = 4  # heads, of which there are 15 sets


@dataclass(frozen=True)
class Packing:
    """One form.

    Args:
        width: int32 words of a row.
        per_word: int32 words that a word of ops takes.
        op: whether it has the op word.
        slot_mask: whether it has the mask of the slot head.
        choices: the heads with choice words, in head order -> whether these are of each slot.
    """

    width: int
    per_word: int
    op: bool
    slot_mask: bool
    choices: dict[str, bool]

    def holds(self, choices: dict[str, bool], slot_mask: bool) -> bool:
        """Whether it has a place for the choice words of these heads, and for a slot mask where one is needed."""
        fits = all(name in self.choices and by_slot <= self.choices[name] for name, by_slot in choices.items())
        return fits and slot_mask <= self.slot_mask


def build_packings(layout: ActionLayout) -> tuple[Packing, ...]:
    """The forms of a layout, by the number of heads by slot."""
    slots = len(layout.slot_ids)
    heads = [layout.head(name) for name in layout.choice_names]
    per_word = 1 if word_bits(len(layout.ops)) == WORD_BITS else 2
    rows = {head.name: head.by_slot for head in heads}
    able = [head.name for head in heads if slots and not (head.by_slot or head.users & layout.without_slot)]
    forms = [(bool(layout.free), False, {head.name: head.by_slot for head in heads if head.dynamic})]
    forms += [(True, slots > 0, rows)]
    numbers = range(1, len(able) + 1) if len(able) <= MOST_SETS_OF else (1, len(able))
    sets = [some for number in numbers for some in combinations(able, number)]
    forms += [(True, True, {**rows, **dict.fromkeys(some, True)}) for some in sets]
    sizes = {head.name: choice_words(head.size) for head in heads}
    made: list[Packing] = []
    for op, slot_mask, choices in forms:
        width = (slots + op) * per_word + choice_words(slots) * slot_mask
        width += sum(sizes[name] * (slots if by_slot else 1) for name, by_slot in choices.items())
        while any(width == other.width for other in made):
            width += 1
        made.append(Packing(width, per_word, op, slot_mask, choices))
    return tuple(made)


def form_of(forms: tuple[Packing, ...], choices: dict[str, bool], slot_mask: bool, width: int | None) -> Packing:
    """The first form that holds what is asked for; or that of a width.

    Raises:
        ValueError: a width of no form, or of one that does not hold it.
    """
    fitting = [form for form in forms if form.holds(choices, slot_mask)]
    what = [f"{name} by slot" if by_slot else name for name, by_slot in choices.items()] + ["slot"] * slot_mask
    if not fitting:
        raise ValueError(f"no packed form holds choices of {', '.join(what)}: an op uses such a head without a slot")
    if width is None:
        return fitting[0]
    form = form_of_width(forms, width)
    if form not in fitting:
        raise ValueError(f"{width} words do not hold choices of {', '.join(what)}; these masks need {fitting[0].width}")
    return form


def form_of_width(forms: tuple[Packing, ...], width: int) -> Packing:
    """The form of a width; ``ValueError`` where there is none."""
    for form in forms:
        if form.width == width:
            return form
    known = ", ".join(str(form.width) for form in forms)
    raise ValueError(f"packed masks have {width} words; those of this layout have one of {known}")


def packed_width(layout: ActionLayout, names: Iterable[str] = ()) -> int:
    """Width of packed masks that hold more than an engine gives by itself.

    Args:
        layout: heads and ops.
        names: what else is limited, as ``ActionMasks.restrict`` names it: a head, a head with ``_by_slot`` behind it,
            or ``slot_by_op``.

    Raises:
        ValueError: a name that is none, or a head that can have no choices by slot.
    """
    choices = {head.name: head.by_slot for head in layout.heads if head.dynamic}
    slot_mask, always = False, layout.head(SLOT).openers if layout.slot_ids else 0
    for name in names:
        if name in (SLOT, SLOT_BY_OP):
            continue
        by_slot = name not in layout.head_names and name.endswith(BY_SLOT)
        head = name.removesuffix(BY_SLOT) if by_slot else name
        if head not in layout.head_names or (by_slot and head in (SLOT, OP)):
            raise ValueError(
                f"there is nothing called {name!r} to restrict; the heads are {', '.join(layout.head_names)}"
            )
        slot_mask = slot_mask or bool(layout.head(head).users & always)
        if head != OP:
            choices[head] = choices.get(head, False) or by_slot
    return form_of(build_packings(layout), choices, slot_mask, None).width
