"""What a whole action looks like: heads, their choices, and which choices each op leaves open.

Everything here is static. The state of the slots decides only which ops are legal where (the slot words); given an op,
every head but the slot has a fixed mask. That is why words are enough to derive all masks, whole actions included.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from esper_masks.rules import Head, MaskRules
from esper_masks.rules.names import OP, SLOT

Kept = TypeVar("Kept", bound=nn.Module)


@dataclass(frozen=True)
class HeadLayout:
    """One head of the action vector.

    Args:
        name: as in the rules.
        choices: names of its values, in index order.
        canonical: the value it takes when the op ignores it.
        users: word of the ops that use it; all of them for the op head.
        by_op: for each op the choices it permits, as indices; the canonical one alone if it ignores the head.
        openers: word of the ops of which one must be legal for the head to be open; 0 for a static mask. For the slot
            head, the ops that are legal in every enabled slot: their bits tell which slots are enabled.
        opened: for each op the choices that are legal while that op is, as indices.
        closed: the choices that are legal while no opener is; the whole mask if it is static.
    """

    name: str
    choices: tuple[str, ...]
    canonical: int
    users: int
    by_op: tuple[tuple[int, ...], ...]
    openers: int
    opened: tuple[tuple[int, ...], ...]
    closed: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.choices)


@dataclass(frozen=True)
class ActionLayout:
    """The static side of ``ActionMasks``: op names, slot ids and heads. Compares by value.

    Args:
        ops: op names; op i is bit i of a word.
        slot_ids: slot names; slot s is entry s of ``slot_words``.
        heads: in the order of the action vector.
        always: word of the ops that are legal in every enabled slot.
        unconditional: those of them that use no slot, which makes them legal in every row.
        possible: word of the ops that some state allows.
    """

    ops: tuple[str, ...]
    slot_ids: tuple[str, ...]
    heads: tuple[HeadLayout, ...]
    always: int
    unconditional: int
    possible: int
    _tables: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)  # see ``tables``

    @property
    def head_names(self) -> tuple[str, ...]:
        return tuple(head.name for head in self.heads)

    @property
    def logit_size(self) -> int:
        """Sum of the head sizes: the width of flat logits and of flat masks, and of the layer that gives them."""
        return sum(head.size for head in self.heads)

    @property
    def all_ops(self) -> int:
        """The word with every op legal."""
        return (1 << len(self.ops)) - 1

    def head(self, name: str) -> HeadLayout:
        return self.heads[self.position(name)]

    def position(self, name: str) -> int:
        """Where a head stands in the action vector.

        Raises:
            KeyError: no head of that name; names those there are.
        """
        for at, head in enumerate(self.heads):
            if head.name == name:
                return at
        raise KeyError(f"no head {name!r}; the heads are {', '.join(self.head_names)}")

    def tables(self, key: str, use: str, make: Callable[[], Kept]) -> Kept:
        """Tables that this layout keeps, so that masks never copy to the device; made where they are missing.

        Args:
            key: their name.
            use: what makes them in eager code, as an error says it.
            make: makes them.

        Raises:
            RuntimeError: they are missing inside ``torch.compile``, where they cannot be made.
        """
        if key in self._tables:
            found: Kept = self._tables[key]
            return found
        if torch.compiler.is_compiling():
            raise RuntimeError(f"lookup tables cannot be made inside torch.compile: {use} once before, in eager code")
        with torch.inference_mode(False):  # tables made in a rollout may serve an update
            made = make()
        if all(type(buffer) is Tensor for buffer in made.buffers()):  # fake ones must not outlive their mode
            self._tables[key] = made
        return made

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tables": {}}


def build_layout(rules: MaskRules, slot_ids: Sequence[str]) -> ActionLayout:
    """The layout of resolved rules over the given slots."""
    return ActionLayout(
        ops=rules.op_names,
        slot_ids=tuple(slot_ids),
        heads=tuple(_build_head(rules, head, tuple(slot_ids)) for head in rules.heads),
        always=_word(op.id for op in rules.op_rules if op.always),
        unconditional=_word(op.id for op in rules.op_rules if op.always and SLOT not in op.uses),
        possible=_word(op.id for op in rules.op_rules if not op.disabled),
    )


def _build_head(rules: MaskRules, head: Head, slot_ids: tuple[str, ...]) -> HeadLayout:
    choices = {SLOT: slot_ids, OP: rules.op_names}.get(head.name, tuple(head.choices))

    def indices(names: Sequence[str]) -> tuple[int, ...]:
        return tuple(sorted(choices.index(name) for name in names))

    canonical = 0 if head.canonical is None else choices.index(head.canonical)
    legal = indices(head.open_choices) if head.choices else tuple(range(len(choices)))
    users = {op.id for op in rules.op_rules if head.name in op.uses}
    permits = {op: indices(head.by_op[op]) if head.by_op else legal for op in users}
    opened: dict[IntEnum, tuple[int, ...]] = {}
    closed = legal
    if head.name == OP:
        permits = opened = {op.id: (int(op.id),) for op in rules.op_rules}
        closed = ()
    elif head.by_op or head.closed is not None:
        opened = permits | {op: legal for op in head.opened_by if op not in users}
        closed = (canonical,) if head.closed is None else indices(head.closed)
    return HeadLayout(
        name=head.name,
        choices=choices,
        canonical=canonical,
        users=_word(users if head.name != OP else opened),
        by_op=tuple(permits.get(op.id, (canonical,)) for op in rules.op_rules),
        openers=_word(op.id for op in rules.op_rules if op.always) if head.name == SLOT else _word(opened),
        opened=tuple(opened.get(op.id, ()) for op in rules.op_rules),
        closed=closed,
    )


def _word(ops: Iterable[IntEnum]) -> int:
    return sum(1 << op for op in ops)
