"""What a whole action looks like: heads, their choices, and which choices each op leaves open.

Everything here is static. The state of the slots decides which ops are legal where (the slot words); given an op, every
head but the slot has a fixed mask. That is why words are enough to derive all masks, whole actions included. Only a
head that is ``dynamic`` has more to say, in choice words of its own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from esper_masks.compiled.torch_private import outside_transforms
from esper_masks.rules import Head, MaskRules, SlotHead
from esper_masks.rules.names import BY_SLOT, MASK_NAMES, MAX_HEADS, MAX_OPS, OP, SLOT

WORD_BITS, WIDE_WORD_BITS = 31, 63  # of an int32 word and of an int64 one, below the sign bit
WHOLE = "ACT"  # the one op of a layout without ops, of which every action is
CHOICE_BITS = 32  # of an int32 choice word, its sign bit among them

Choices = int | Sequence[str]  # how many there are, or their names
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
            head, the ops that are legal in every enabled slot: their bits tell which slots are enabled. Without rules
            there are none, and all ops that use a slot stand for them.
        opened: for each op the choices that are legal while that op is, as indices.
        closed: the choices that are legal while no opener is; the whole mask if it is static.
        by_slot: whether the rules give it choices of its own in each slot.
        dynamic: whether the rules give it choices that depend on the state, of each slot or of the whole row. Then
            ``by_op`` has all that some state leaves, and masks have choice words for the head.
    """

    name: str
    choices: tuple[str, ...]
    canonical: int
    users: int
    by_op: tuple[tuple[int, ...], ...]
    openers: int
    opened: tuple[tuple[int, ...], ...]
    closed: tuple[int, ...]
    by_slot: bool = False
    dynamic: bool = False

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
        free: word of the ops that act in no slot and are not always legal: slot words do not tell them where no slot is
            enabled.
    """

    ops: tuple[str, ...]
    slot_ids: tuple[str, ...]
    heads: tuple[HeadLayout, ...]
    always: int
    unconditional: int
    possible: int
    free: int = 0
    _tables: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)  # see ``tables``

    @classmethod
    def of(
        cls,
        op: Sequence[str],
        slot: Choices,
        heads: Mapping[str, Choices] | None = None,
        uses: Mapping[str, Sequence[str]] | None = None,
        by_op: Mapping[str, Mapping[str, Sequence[int | str]]] | None = None,
    ) -> "ActionLayout":
        """The layout of a game without rules, for masks from ``ActionMasks.from_bools``.

        >>> import esper_masks as em
        >>> layout = em.ActionLayout.of(
        ...     op=("NOOP", "MOVE", "ATTACK"),
        ...     slot=8,
        ...     heads={"direction": 4},
        ...     uses={"MOVE": ("slot", "direction"), "ATTACK": ("slot",)},
        ... )
        >>> layout.head_names
        ('slot', 'direction', 'op')

        Args:
            op: names of the ops. One that uses no head is legal in every row, unless the caller's own mask of ops
                forbids it; by custom it is the first. A row that is left without an op is at fault.
            slot: number or names of the slots.
            heads: name -> number or names of its choices; in the action they stand between slot and op.
            uses: op -> the heads that it uses, ``"slot"`` among them; none for an op that is not in it.
            by_op: head -> op -> the choices that this op permits, as indices or names; all for an op that is not in it.

        Raises:
            ValueError: names, numbers or choices that do not fit together.
        """
        return _without_rules(op, slot, heads or {}, uses or {}, by_op or {})

    @classmethod
    def multi_discrete(cls, heads: Mapping[str, Choices]) -> "ActionLayout":
        """The layout of an action of several numbers, independent of each other; it has neither ops nor slots.

        >>> import esper_masks as em
        >>> em.ActionLayout.multi_discrete({"a": 4, "b": 9}).logit_size
        13

        Args:
            heads: name -> number or names of its choices, in the order of the action vector.

        Raises:
            ValueError: names or numbers that do not fit.
        """
        return _independent(heads)

    @property
    def head_names(self) -> tuple[str, ...]:
        return tuple(head.name for head in self.heads)

    @property
    def choice_names(self) -> tuple[str, ...]:
        """The heads other than op and slot, which callers may mask."""
        return tuple(name for name in self.head_names if name not in (OP, SLOT))

    @property
    def logit_size(self) -> int:
        """Sum of the head sizes: the width of flat logits and of flat masks, and of the layer that gives them."""
        return sum(head.size for head in self.heads)

    @property
    def word_dtype(self) -> torch.dtype:
        """What holds a bit for each op, below the sign bit: int32, or int64 for more than 31 ops."""
        return torch.int32 if word_bits(len(self.ops)) == WORD_BITS else torch.int64

    @property
    def static(self) -> int:
        """The sign bit of a word, which no op has."""
        return -(1 << word_bits(len(self.ops)))

    @property
    def all_ops(self) -> int:
        """The word with every op legal."""
        return (1 << len(self.ops)) - 1

    @property
    def slot_users(self) -> int:
        """Word of the ops that use a slot."""
        return self.head(SLOT).users if self.slot_ids else 0

    @property
    def without_slot(self) -> int:
        """Word of the ops that use none."""
        return self.all_ops ^ self.slot_users  # traced code with dynamic shapes knows no ~ of an int

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
        with torch.inference_mode(False), outside_transforms():  # tables made in a rollout may serve an update
            made = make()
        if all(type(buffer) is Tensor for buffer in made.buffers()):  # fake ones must not outlive their mode
            self._tables[key] = made
        return made

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tables": {}}


def word_bits(ops: int) -> int:
    """Bits below the sign bit of the word that holds as many ops."""
    return WORD_BITS if ops <= WORD_BITS else WIDE_WORD_BITS


def choice_words(choices: int) -> int:
    """How many choice words a head needs: choice c is bit ``c % 32`` of word ``c // 32``."""
    return -(-choices // CHOICE_BITS)


def choice_bit(choice: int) -> int:
    """Bit of a choice in its word, an int32: the last one is the sign bit."""
    bit = choice % CHOICE_BITS
    return 1 << bit if bit < CHOICE_BITS - 1 else -(1 << bit)


def build_layout(rules: MaskRules, slot_ids: Sequence[str]) -> ActionLayout:
    """The layout of resolved rules over the given slots."""
    emptied = {head.name for head in rules.heads if head.dynamic}  # where a state may leave no choice
    always = [op for op in rules.op_rules if op.always and emptied.isdisjoint(op.uses)]
    return ActionLayout(
        ops=rules.op_names,
        slot_ids=tuple(slot_ids),
        heads=tuple(_build_head(rules, head, tuple(slot_ids), _word(op.id for op in always)) for head in rules.heads),
        always=_word(op.id for op in always),
        unconditional=_word(op.id for op in always if SLOT not in op.uses),
        possible=_word(op.id for op in rules.op_rules if not op.disabled),
        free=_word(op.id for op in rules.op_rules if not (op.always or op.in_slot or op.disabled)),
    )


def _build_head(rules: MaskRules, head: Head, slot_ids: tuple[str, ...], always: int) -> HeadLayout:
    is_slots = head.name == SLOT or isinstance(head, SlotHead)
    choices = rules.op_names if head.name == OP else slot_ids if is_slots else tuple(head.choices)

    def indices(names: Sequence[str]) -> tuple[int, ...]:
        return tuple(sorted(choices.index(name) for name in names))

    canonical = 0 if head.canonical is None else choices.index(head.canonical)
    legal = indices(head.open_choices) if head.choices else tuple(range(len(choices)))
    for table in head.slot_tables:  # what some slot leaves
        legal = tuple(choice for choice in legal if any(choice in own for own in table.choices.values()))
    users = {op.id for op in rules.op_rules if head.name in op.uses}
    permits = {op: _both(indices(head.by_op[op]), legal) if head.by_op else legal for op in users}
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
        openers=always if head.name == SLOT else _word(opened),
        opened=tuple(opened.get(op.id, ()) for op in rules.op_rules),
        closed=closed,
        by_slot=head.by_slot,
        dynamic=head.dynamic,
    )


def _both(some: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    return tuple(choice for choice in some if choice in others)


def _word(ops: Iterable[IntEnum]) -> int:
    return sum(1 << op for op in ops)


# -- layouts without rules --------------------------------------------------------------------------------------------


def _without_rules(
    op: Sequence[str],
    slot: Choices,
    heads: Mapping[str, Choices],
    uses: Mapping[str, Sequence[str]],
    by_op: Mapping[str, Mapping[str, Sequence[int | str]]],
) -> ActionLayout:
    """See ``ActionLayout.of``."""
    for what, given in (("heads", heads), ("uses", uses), ("by_op", by_op)):
        if not isinstance(given, Mapping):
            raise ValueError(f"{what} must be a mapping, got {given!r:.80}")
    if isinstance(op, int):
        raise ValueError(f"op must be the names of the ops, got {op!r}; uses= needs their names")
    ops, slot_ids = _names("op", op), _names(SLOT, slot)
    if len(ops) > MAX_OPS:
        raise ValueError(f"{len(ops)} ops; a word has bits for {MAX_OPS}. Make a head of what tells similar ops apart")
    _check_heads(heads, MAX_HEADS - 2, " beside op and slot")
    known = (SLOT, *heads)
    users: dict[str, list[str]] = {name: [] for name in known}
    for user, used in uses.items():
        if user not in ops:
            raise ValueError(f"uses names the op {user!r}; the ops are {', '.join(ops)}")
        if isinstance(used, str) or len(set(used)) != len(tuple(used)):
            raise ValueError(f"uses[{user!r}] must be names of heads, each once, got {used!r:.80}")
        for name in used:
            if name not in known:
                raise ValueError(f"uses[{user!r}] names the head {name!r}; it may use {', '.join(known)}")
            users[name].append(user)
    for name in heads:
        if not users[name]:
            raise ValueError(f"no op uses the head {name!r}; name it in uses=")
    for name in by_op:
        if name not in heads:
            raise ValueError(f"by_op names the head {name!r}; the heads are {', '.join(heads) or 'none'}")
    every = range(len(ops))
    made = [_plain_head(SLOT, slot_ids, ops, users[SLOT], {})]
    made += [_plain_head(name, _names(name, of), ops, users[name], by_op.get(name, {})) for name, of in heads.items()]
    slot_users = made[0].users
    own = tuple((at,) for at in every)
    made += [HeadLayout(OP, ops, 0, (1 << len(ops)) - 1, own, (1 << len(ops)) - 1, own, ())]
    all_ops = (1 << len(ops)) - 1
    return ActionLayout(ops, slot_ids, tuple(made), 0, 0, possible=all_ops, free=all_ops & ~slot_users)


def _plain_head(
    name: str,
    choices: tuple[str, ...],
    ops: Sequence[str],
    users: Sequence[str],
    by_op: Mapping[str, Sequence[int | str]],
) -> HeadLayout:
    """A head of a layout without rules."""
    whole = tuple(range(len(choices)))
    permits = dict.fromkeys(users, whole)
    for op, permitted in by_op.items():
        where = f"by_op[{name!r}]"
        if op not in users:
            raise ValueError(f"{where} names the op {op!r}; the ops that use the head are {', '.join(users)}")
        if isinstance(permitted, (str, int)) or not permitted:
            raise ValueError(f"{where}[{op!r}] must be some choices, got {permitted!r:.80}")
        numbers = [choices.index(one) if one in choices else one for one in permitted]
        for number in numbers:
            if type(number) is not int or number not in whole:
                raise ValueError(
                    f"{where}[{op!r}] has {number!r}; the choices are {', '.join(choices)}, numbered from 0"
                )
        permits[op] = tuple(sorted({int(number) for number in numbers}))
    word = sum(1 << at for at, op in enumerate(ops) if op in users)
    return HeadLayout(
        name,
        choices,
        canonical=0,
        users=word,
        by_op=tuple(permits.get(op, (0,)) for op in ops),
        openers=word if name == SLOT or by_op else 0,
        opened=tuple(permits.get(op, ()) if by_op else () for op in ops),
        closed=(0,) if by_op else whole,
    )


def _independent(heads: Mapping[str, Choices]) -> ActionLayout:
    """See ``ActionLayout.multi_discrete``."""
    if not isinstance(heads, Mapping) or not heads:
        raise ValueError(f"heads must be a mapping from name to number of choices, got {heads!r:.80}")
    _check_heads(heads, MAX_HEADS)
    made = tuple(_plain_head(name, _names(name, of), (WHOLE,), (WHOLE,), {}) for name, of in heads.items())
    return ActionLayout((WHOLE,), (), made, 0, 0, possible=1, free=1)


def _check_heads(heads: Mapping[str, Choices], most: int, beside: str = "") -> None:
    """Raise ``ValueError`` for too many heads, or for one with a name that means something else."""
    if len(heads) > most:
        raise ValueError(f"{len(heads)} heads; there may be {most}{beside}")
    for name in heads:
        if not isinstance(name, str) or not name or name in (SLOT, OP, *MASK_NAMES) or name.endswith(BY_SLOT):
            raise ValueError(f"no head can be called {name!r}")


def _names(head: str, given: Choices) -> tuple[str, ...]:
    """Names of choices; numbers from 0 where only their number is given."""
    if isinstance(given, int) and not isinstance(given, bool):
        if given < 1:
            raise ValueError(f"{head!r} needs at least one choice, got {given}")
        return tuple(map(str, range(given)))
    names = () if isinstance(given, (str, bool)) or not isinstance(given, Iterable) else tuple(given)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ValueError(f"{head!r} must be a number of choices, or names that differ, got {given!r:.80}")
    return names
