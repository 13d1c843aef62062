"""All heads of whole actions, every choice a vector over rows: the form that a compiler fuses into one loop."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.actions.draws import Draw, HeadDraws
from esper_masks.actions.layout import CHOICE_BITS
from esper_masks.actions.tables import DrawTables
from esper_masks.distributions.forms import apply, choice_words, is_crowded, is_long, runs
from esper_masks.distributions.logits import Floors
from esper_masks.distributions.softmax import LongSoftmax, MaskedSoftmax, Slabs, UnrolledSoftmax, exceeds, spread
from esper_masks.masks.masks import ActionMasks


class Given(NamedTuple):
    """A head once the op and the slot are known."""

    head: int
    softmax: MaskedSoftmax  # its probabilities
    used: Tensor  # bool [*sample, ...]: whether the op uses it


class UnrolledHeads:
    """Every choice of every draw a vector over rows, without padding and without gathers.

    A compiler fuses all of these ops into one loop over rows, in which what lies between logits and actions stays in
    registers. So a value is picked by a chain of ``where`` over ops or slots, never looked up: a load from a computed
    place is one scalar at a time. Choices that no state allows are left out. A *long* head, see ``forms``, is one
    tensor ``[n, ...]`` all the same, and a family of draws is ``[n, family, ...]``, or the loop would take minutes to
    build.

    See ``AnyHeads`` for what both forms are made of, and for methods.

    Args:
        transposes: whether logits row by row are transposed first: a compiler that does not vectorize loads which are
            not side by side needs it. For others it is a detour.
        again: whether the gradient computes again what it needs, see ``apply``.
    """

    def __init__(
        self,
        tables: DrawTables,
        parts: list[Tensor],
        masks: ActionMasks,
        floors: Floors,
        transposes: bool,
        again: bool,
    ):
        # numbers seen through a module are constants to a compiler, with dynamic=True too; those of a layout are not
        self.tables, self.draws, self.transposes, ops = tables, tables.unrolled, transposes, masks.op_words
        static = tables.static
        self.words = [
            ops | static,
            *masks.slot_words.unbind(-1),
            *(torch.where((ops & openers) == 0, static, ops) for openers in tables.closing),
        ]
        heads: Sequence[Tensor] = parts
        if len(parts) == 1:
            once = transposes and not any(map(is_long, self.draws))  # in one loop, with a column that nobody reads
            heads = [parts[0], torch.zeros_like(parts[0][..., :1])] if once else torch.split(parts[0], tables.sizes, -1)
        # a compiler keeps the result of cat in memory, batch-last: row-major logits are transposed once, at the door
        self.columns = torch.cat([part.movedim(-1, 0) for part in heads])  # [columns, ...]
        self.again = again and self.columns.requires_grad
        # unbound once: a gradient of each index would be as large as all columns
        self.each = self.columns.unbind() if transposes else [column for part in parts for column in part.unbind(-1)]
        self.slot_words = masks.slot_words.movedim(-1, 0)
        self.choice_words = choice_words(masks).unbind(-1) if tables.dynamic else ()
        self.floors = (0.0,) * len(tables.sizes) if floors is None else floors
        self.runs, self._crowded = runs(self.draws), is_crowded(self.draws)
        self.softmaxes = [self._softmax(run) if len(run) == 1 else self._family(run) for run in self.runs]
        self.op = self.softmaxes[0] if self.draws[0].of_op else None  # None: the layout has one op, which nobody draws
        self.like = self.softmaxes[0].total

    def _is_long(self, draw: Draw) -> bool:
        return is_long(draw, self._crowded)

    def _by_draw(self, values: Iterable[Tensor]) -> list[Tensor]:
        """Values of each softmax as those of each draw, ``[...]``."""
        each = [value.unbind() if len(run) > 1 else (value,) for run, value in zip(self.runs, values)]
        return [value for own in each for value in own]

    def _places(self, run: range) -> slice:
        """Where draws stand in the tables: side by side there, too, since a family has one width."""
        first = self.tables.unrolled_at[run.start]
        return slice(first, first + len(run))

    def _softmax(self, run: range) -> MaskedSoftmax:
        """Of one draw."""
        draw, tables = self.draws[run.start], self.tables
        bits = tables.bits.view(tables.width, tables.count)[:, self._places(run).start]
        choices = self._choices(draw)
        words = self._words(draw, bits, choices)
        illegal: list[Tensor | None] = [None if word is None else word == 0 for word in words]
        if draw.choice_words is not None:
            lacking = self._lacking(draw, self._held(draw), choices)
            illegal = [lacks if no is None else no | lacks for no, lacks in zip(illegal, lacking)]
        return self._made(draw, choices, self._logits(draw.columns, choices, self._is_long(draw)), illegal)

    def _family(self, run: range) -> MaskedSoftmax:
        """Of draws that differ in their op alone, ``[n, family, ...]``."""
        draw, tables, axes = self.draws[run.start], self.tables, self.words[0].ndim
        choices = range(draw.size)
        bits = tables.bits.view(tables.width, tables.count)[: draw.size, self._places(run)]
        in_slots = len(set(draw.words)) > 1
        words = self.slot_words if in_slots else self.words[draw.words[0]].unsqueeze(0)
        illegal = (words.unsqueeze(1) & bits.view(*bits.shape, *[1] * axes)) == 0
        if draw.choice_words is not None:
            lacking = self._lacking(draw, self._held(draw), choices)
            illegal = illegal | (lacking[0] if self._is_long(draw) else torch.stack([*lacking])).unsqueeze(1)
        [logits] = self._logits(draw.columns, choices, long=True)
        floor = self.floors[draw.head]
        logits, capped = logits.unsqueeze(1).expand(illegal.shape), exceeds(floor, draw.size)
        return LongSoftmax([logits], [illegal], min_prob=floor, capped=capped, again=self.again)

    def _merged(self, head: HeadDraws, bits: Tensor, op: Tensor, slot: Tensor) -> MaskedSoftmax:
        """Of all draws of a head as one, each row with the logits, the bits and the choices of its own op and slot.

        So merged, the head is drawn once for all ops, where stacked code draws it once for each. Of ``esper-2025-12``
        the slot's choices have bits ``1110 1110 1110``; a row whose op is CULL keeps bit 2 of them, so that slot s is
        illegal where ``words[1 + s] & 1110 & 0100`` is 0. A row whose op has no slot keeps no bit: nothing is legal,
        and nobody asks. A head with a draw in each slot reads words, choices and logits of the row's slot alone.

        Args:
            head: its draws.
            bits: those of ``head.whole``, words ``[width]``.
            op: ``[*sample, ...]``.
            slot: the same; only a head with a draw in each slot looks at it.
        """
        whole, long = head.whole, self._is_long(head.whole)
        choices = self._choices(whole)

        def sampled(slabs: Slabs) -> Slabs:
            """To be broadcast against samples."""
            return [spread(slab, op.ndim) for slab in slabs] if long else slabs

        logits = sampled(self._logits(whole.columns, choices, long))
        for columns, users, of_slot in head.other_logits:
            conditions = [*([self._uses(op, users)] if users else []), *([] if of_slot is None else [slot == of_slot])]
            rows = reduce(torch.logical_and, conditions)
            own = sampled(self._logits(columns, choices, long))
            logits = [torch.where(rows, x, others) for x, others in zip(own, logits)]
        if self._is_long_op:
            bit = self._bit(op) & whole.users
            for users in head.groups if len(head.groups) < len(self._ops(whole.users)) else ():
                bit = torch.where((bit & users) != 0, users, bit)
        else:
            bit = torch.zeros_like(op, dtype=self.tables.word_dtype)
            for users in head.groups:
                bit = torch.where(self._uses(op, users), users, bit)
        word = self._in_slot(slot, [self.words[draw.words[0]] for draw in head.slots]) if head.slots else None
        words = sampled([word for word in self._words(whole, bits, choices, word) if word is not None])
        kept = apply(lambda: [word & bit for word in words], again=self.again)
        logits, illegal = [x.expand(word.shape) for x, word in zip(logits, kept)], [word == 0 for word in kept]
        if whole.choice_words is not None:
            of_slots = zip(*(self._held(draw) for draw in head.slots or [whole]))
            lacking = sampled(self._lacking(whole, [self._in_slot(slot, words) for words in of_slots], choices))
            illegal = [no | lacks for no, lacks in zip(illegal, lacking)]
        return self._made(whole, choices, logits, illegal)

    def _made(
        self, draw: Draw, choices: Sequence[int], logits: Slabs, illegal: Sequence[Tensor | None]
    ) -> MaskedSoftmax:
        floor, softmax = self.floors[draw.head], LongSoftmax if self._is_long(draw) else UnrolledSoftmax
        capped = exceeds(floor, len(choices))
        return softmax(logits, illegal, actions=choices, min_prob=floor, capped=capped, again=self.again)

    def _choices(self, draw: Draw) -> Sequence[int]:
        """The choices that have a slab of their own, or share one."""
        return range(draw.size) if self._is_long(draw) else [k for k, some in enumerate(draw.bits) if some] or [0]

    def _logits(self, columns: Sequence[int], choices: Sequence[int], long: bool) -> Slabs:
        first = columns[0]  # a head's columns lie side by side
        return [self.columns[first : first + len(columns)]] if long else [self.each[first + k] for k in choices]

    def _words(
        self, draw: Draw, bits: Tensor, choices: Sequence[int], word: Tensor | None = None
    ) -> Sequence[Tensor | None]:
        """What of the words decides a choice: nothing is left of them where it is illegal; None for never.

        All choices have the one word that is given, or else each its own.
        """
        own = [self.words[draw.words[k]] if word is None else word for k in choices]
        if not self._is_long(draw):
            static = self.tables.static
            return [
                None if draw.bits[k] & static and not draw.words[k] else word & draw.bits[k]
                for k, word in zip(choices, own)
            ]
        if len(set(draw.words)) > 1:  # the slot's, of which an op is legal in one as in another
            return [self.slot_words & draw.bits[0]]
        return [own[0] & bits[: draw.size].view(-1, *[1] * own[0].ndim)]

    def _held(self, draw: Draw) -> Slabs:
        """The choice words of a draw."""
        return [self.choice_words[at] for at in sorted(set(draw.choice_words or ()))]

    def _lacking(self, draw: Draw, held: Slabs, choices: Sequence[int]) -> Slabs:
        """Where choice words lack a choice."""
        if not self._is_long(draw):
            return [(held[k // CHOICE_BITS] & draw.choice_bits[k]) == 0 for k in choices]
        parts = [
            word & self.tables.bits_of_word[: draw.size - at * CHOICE_BITS].view(-1, *[1] * word.ndim)
            for at, word in enumerate(held)
        ]
        return [torch.cat(parts) == 0]

    def _in_slot(self, slot: Tensor, values: Slabs) -> Tensor:
        """The value of each row's slot, ``[*sample, ...]``, from those of all slots; of slot 0 where there is none."""
        value = values[0]
        for at, own in enumerate(values):
            value = value if own is values[0] else torch.where(slot == at, own, value)
        return value

    # -- faults -------------------------------------------------------------------------------------------------------

    def draw_faults(self) -> Slabs:
        """Of each softmax, whether it leaves a row without an action, bool ``[...]``."""
        faults: list[Tensor] = []
        for run, softmax in zip(self.runs, self.softmaxes):
            draw, word = self.draws[run.start], self.words[self.draws[run.start].needed_word]
            if len(run) == 1:
                faults.append(softmax.invalid & ((word & draw.needed_by) != 0))
            else:
                needed_by = self.tables.needed_by[self._places(run)].view(-1, *[1] * word.ndim)
                faults.append((softmax.invalid & ((word & needed_by) != 0)).any(0))
        return faults

    def faulty(self) -> Tensor:
        return _any(self.draw_faults())

    def faults(self) -> Tensor:
        heads = [self.draws[run.start].head for run in self.runs]
        return reduce(torch.bitwise_or, [fault.long() << head for head, fault in zip(heads, self.draw_faults())])

    # -- actions ------------------------------------------------------------------------------------------------------

    def draw(self, noise: Tensor, ignored: Tensor | None) -> Tensor:
        return self.draw_and_score(noise, ignored)[0]

    def draw_and_score(
        self, noise: Tensor | Slabs, ignored: Tensor | None, dtype: torch.dtype = torch.int64
    ) -> tuple[Tensor, Tensor]:
        """The same, with the log-probabilities of the actions, ``[*sample, ...]``; uniforms may come head by head."""
        uniforms = noise.unbind(-1) if isinstance(noise, Tensor) else noise
        if self.op is None:
            actions, scores = self._unused(*[torch.zeros_like(uniforms[0])] * 2)
        else:
            actions, scores = self._unused(*self.op.draw_and_score(uniforms[self.draws[0].head]))
        for head, bits in self._heads():
            at, softmax, used = self._given(head, bits, actions)
            drawn = softmax.draw_and_score(uniforms[at])
            actions[at], scores[at] = (torch.where(used, *of) for of in zip(drawn, (actions[at], scores[at])))
        return self._whole(actions, ignored, dtype), _total(scores)

    def mode(self, ignored: Tensor | None) -> Tensor:
        like = self.like
        op = torch.zeros_like(like) if self.op is None else self.op.mode().to(like.dtype)
        actions, _ = self._unused(op, op)
        for head, bits in self._heads():
            at, softmax, used = self._given(head, bits, actions)
            actions[at] = torch.where(used, softmax.mode().to(like.dtype), actions[at])
        return self._whole(actions, ignored)

    def _whole(self, actions: Slabs, ignored: Tensor | None, dtype: torch.dtype = torch.int64) -> Tensor:
        if ignored is not None:
            actions = [action.masked_fill(ignored, -1) for action in actions]
        return torch.stack([action.to(dtype) for action in actions]).movedim(0, -1)  # where a compiler ends its loop

    def score(self, actions: Tensor) -> Tensor:
        values = self._values(actions)
        return torch.stack(self._scores(values, self._all_given(values))).movedim(0, -1)

    def log_prob(self, actions: Tensor) -> Tensor:
        values = self._values(actions)
        return _total(self._scores(values, self._all_given(values)))

    def log_prob_and_illegal(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        values = self._values(actions)
        given = self._all_given(values)
        illegal = [softmax.forbids(values[head]) & used for head, softmax, used in given]
        if self.op is not None:
            illegal = [self.op.forbids(self._op(values)), *illegal]
        return _total(self._scores(values, given)), _any(illegal)

    def _values(self, actions: Tensor) -> Slabs:
        """Each head's value."""
        values = actions.to(self.like.dtype).unbind(-1)
        # as logits are; unbound again, or a gradient would keep comparisons with them in their place
        return apply(torch.unbind, torch.stack(values), again=self.again) if self.transposes else values

    def _scores(self, values: Slabs, given: Sequence[Given]) -> list[Tensor]:
        op = self._op(values)
        _, scores = self._unused(op, torch.zeros_like(op) if self.op is None else self.op.score(op))
        for head, softmax, used in given:
            scores[head] = torch.where(used, softmax.score(values[head]), scores[head])
        return scores

    def _op(self, values: Slabs) -> Tensor:
        return torch.zeros_like(values[0]) if self.op is None else values[self.draws[0].head]

    def _unused(self, op: Tensor, score: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Actions and scores where the op uses no other head."""
        actions = [torch.full_like(op, choice) for choice in self.tables.canonical_choices]
        scores = [torch.zeros_like(score)] * len(actions)
        if self.op is not None:
            actions[self.draws[0].head], scores[self.draws[0].head] = op, score
        return actions, scores

    def _heads(self) -> Iterable[tuple[HeadDraws, Tensor]]:
        """The heads that are drawn given the op, that of slots first, and the bits of each."""
        return zip(self.tables.drawn, self.tables.drawn_bits)

    def _all_given(self, values: Slabs) -> list[Given]:
        return [self._given(head, bits, values) for head, bits in self._heads()]

    def _given(self, head: HeadDraws, bits: Tensor, values: Slabs) -> Given:
        """A head given op and slot, which are among the values of an action."""
        op = self._op(values)
        slot = op if self.tables.slot_at is None else values[self.tables.slot_at]
        used = self._uses(op, head.whole.users)
        if head.slots:  # no draw is of a slot that does not exist
            used = used & (slot >= 0) & (slot < len(head.slots))
        if len(head.draws) > 1:
            return Given(head.head, self._merged(head, bits, op, slot), used)
        [softmax] = [own for run, own in zip(self.runs, self.softmaxes) if run.start == head.draws[0]]
        return Given(head.head, softmax, used)

    @property
    def _is_long_op(self) -> bool:
        return self.op is not None and self._is_long(self.draws[0])

    def _uses(self, op: Tensor, users: int) -> Tensor:
        if self._is_long_op:
            return (self._bit(op) & users) != 0
        return _any([op == i for i in self._ops(users)])

    def _bit(self, op: Tensor) -> Tensor:
        """The bit of an op in a word, 0 for one that does not exist."""
        there = (op >= 0) & (op < self.tables.ops)
        one = torch.ones_like(op, dtype=self.tables.word_dtype)
        return torch.where(there, one << op.clamp(0, self.tables.ops - 1).to(one.dtype), 0)

    def _ops(self, users: int) -> list[int]:
        return [i for i in range(self.tables.ops) if users >> i & 1]

    # -- entropy and divergence ---------------------------------------------------------------------------------------

    def raw_entropy(self) -> Tensor:
        return self._chain([softmax.raw_entropy() for softmax in self.softmaxes])

    def head_entropies(self) -> Tensor:
        entropies = []
        for head in range(len(self.tables.sizes)):
            each_draw = [(s, self.draws[run.start]) for run, s in zip(self.runs, self.softmaxes)]  # no family is plain
            own = [(s, draw) for s, draw in each_draw if draw.head == head and draw.plain]
            each = [softmax.normalized_entropy() for softmax, _ in own]
            if len(each) > 1:
                weights = [self._weight(*of) for of in own]
                each = [_total([w * entropy for w, entropy in zip(weights, each)]) / _total(weights).clamp_min(1)]
            entropies.append(each[0] if each else torch.zeros_like(self.like))
        return torch.stack(entropies).movedim(0, -1)

    def _weight(self, softmax: MaskedSoftmax, draw: Draw) -> Tensor:
        """How many ops, or legal pairs of op and slot, a draw stands for in a mean."""
        legal = softmax.legal_actions()
        if draw.slot is None:
            return legal.clamp_max(1)
        word = self.words[draw.needed_word]
        return _total([((word & (1 << op)) != 0).to(legal.dtype) for op in self._ops(draw.users)])

    def divergence(self, other: "UnrolledHeads") -> Tensor:
        values = [p.divergence(q) for p, q in zip(self.softmaxes, other.softmaxes)]
        lacking = [value == math.inf for value in values]
        finite = self._chain([value.masked_fill(none, 0) for value, none in zip(values, lacking)])
        if self.op is None:
            return finite.masked_fill(_any(lacking), math.inf)
        drawn = [log_prob != -math.inf for log_prob in self._of_op(self.op.log_probs())]  # it may underflow
        slots = self._of_slots(lambda softmax: softmax.log_probs())
        beyond = [lacking[0]]
        for draw, none in zip(self.draws[1:], self._by_draw(lacking)[1:]):
            for op in self._ops(draw.users):
                some = none & drawn[op]
                beyond += [some if draw.slot is None else some & (slots[op][draw.slot] != -math.inf)]
        return finite.masked_fill(_any(beyond), math.inf)

    def _chain(self, values: Slabs) -> Tensor:
        """The op's value, and that of every draw times the probability that a head is taken from it.

        Args:
            values: of each softmax.
        """
        if self.op is None:
            return _total(values)
        probs, total = self._of_op(self.op.probs()), values[0]
        slots = self._of_slots(lambda softmax: softmax.probs())
        for run, value in zip(self.runs[1:], values[1:]):
            draw = self.draws[run.start]
            if len(run) > 1:
                ops = [op for at in run for op in self._ops(self.draws[at].users)]
                total = total + (self._of_ops(ops, probs) * value).sum(0)
            elif draw.users:
                ops, at = self._ops(draw.users), draw.slot
                each = [probs[op] if at is None else probs[op] * slots[op][at] for op in ops]
                total = total + _total(each) * value
        return total

    def _of_ops(self, ops: Sequence[int], probs: Slabs) -> Tensor:
        """Probabilities of some ops, ``[number of ops, ...]``."""
        if not self._is_long_op:
            return torch.stack([probs[op] for op in ops])
        assert self.op is not None
        [slab] = self.op.probs()  # a compiler makes a loop of each part that it joins
        starts = [at for at, op in enumerate(ops) if not at or op != ops[at - 1] + 1]
        parts = [slab[ops[at] : ops[end - 1] + 1] for at, end in zip(starts, [*starts[1:], len(ops)])]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _of_op(self, slabs: Slabs) -> Slabs:
        """Values of each op."""
        return slabs[0].unbind() if self._is_long_op else slabs

    def _of_slots(self, values: Callable[[MaskedSoftmax], Slabs]) -> dict[int, Slabs]:
        """Values of each slot under each op, of the ops that take a head from draws of one slot."""
        made: dict[int, Slabs] = {}
        for run, softmax in zip(self.runs, self.softmaxes):
            draws = self.draws[run.start : run.stop]
            wanted = [[op for op in self._ops(draw.users) if op in self.tables.slot_draws] for draw in draws]
            if draws[0].head != self.tables.slot_at or not any(wanted):
                continue
            slabs = values(softmax)
            each: list[Slabs] = [slabs[0].unbind() if len(run) == 1 and self._is_long(draws[0]) else slabs]
            if len(run) > 1:
                each = [slab.unbind() for slab in slabs[0].unbind(1)]
            made |= {op: own for ops, own in zip(wanted, each) for op in ops}
        return made


def _total(values: Slabs) -> Tensor:
    return sum(values[1:], values[0])


def _any(values: Slabs) -> Tensor:
    return reduce(torch.logical_or, values)
