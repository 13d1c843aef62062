"""All heads of whole actions, every choice a vector over rows: the form that a compiler fuses into one loop."""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from esper_masks.actions.draws import STATIC, Draw
from esper_masks.actions.tables import DrawTables
from esper_masks.distributions.forms import is_long
from esper_masks.distributions.logits import Floors
from esper_masks.distributions.softmax import LongSoftmax, MaskedSoftmax, Slabs, UnrolledSoftmax, exceeds, spread
from esper_masks.masks.masks import ActionMasks

Given = tuple[int, MaskedSoftmax, Tensor]  # head, its probabilities given the op, whether the op uses it


class UnrolledHeads:
    """Every choice of every draw a vector over rows, without padding and without gathers.

    A compiler fuses all of these ops into one loop over rows, in which what lies between logits and actions stays in
    registers. So a value is picked by a chain of ``where`` over the ops, never looked up: a load from a computed place
    is one scalar at a time. Choices that no state allows are left out. A *long* head, see ``forms``, is one tensor
    ``[n, ...]`` all the same, or the loop would take minutes to build.

    See ``AnyHeads`` for arguments and methods. Logits row by row are transposed first: a compiler that does not
    vectorize loads which are not side by side needs it. For others it is a detour, so ``transposes=False`` leaves it
    out.
    """

    def __init__(self, tables: DrawTables, parts: list[Tensor], masks: ActionMasks, floors: Floors, transposes: bool):
        # numbers seen through a module are constants to a compiler, with dynamic=True too; those of a layout are not
        self.tables, self.draws, ops = tables, tables.draws, masks.op_words
        self.words = [
            ops | STATIC,
            *masks.slot_words.unbind(-1),
            *(torch.where((ops & openers) == 0, STATIC, ops) for openers in tables.closing),
        ]
        heads = torch.split(parts[0], tables.sizes, -1) if len(parts) == 1 else parts
        # a compiler keeps the result of cat in memory, batch-last: row-major logits are transposed once, at the door
        self.columns = torch.cat([part.movedim(-1, 0) for part in heads])  # [columns, ...]
        # unbound once: a gradient of each index would be as large as all columns
        self.each = self.columns.unbind() if transposes else [column for part in parts for column in part.unbind(-1)]
        self.slot_words = masks.slot_words.movedim(-1, 0)
        self.constraints = masks.constraint_columns().movedim(-1, 0) if masks.restricted else None
        self.floors = (0.0,) * len(tables.sizes) if floors is None else floors
        bits = tables.bits.view(tables.width, tables.count)
        self.softmaxes = [self._softmax(draw, bits[:, at]) for at, draw in enumerate(self.draws)]
        self.like = self.softmaxes[0].total

    def _softmax(self, draw: Draw, bits: Tensor, op: Tensor | None = None, parts: Sequence[Draw] = ()) -> MaskedSoftmax:
        """Of one draw; or of all draws of a head as one, each row with the logits and the bit of its own op.

        So merged, the head is drawn once for all ops, where stacked code draws it once for each. Of ``esper-2025-12``
        the slot's choices have bits ``1110 1110 1110``; a row whose op is CULL keeps bit 2 of them, so that slot s is
        illegal where ``words[1 + s] & 1110 & 0100`` is 0. A row whose op has no slot keeps no bit: nothing is legal,
        and nobody asks.

        Args:
            draw: the one, or ``given_op(parts)``.
            bits: its bits, int32 ``[width]``.
            op: ``[*sample, ...]``.
            parts: the draws.
        """
        long = is_long(draw, self.draws[0])
        choices = range(draw.size) if long else [k for k, some in enumerate(draw.bits) if some] or [0]

        def sampled(slabs: Slabs) -> Slabs:
            """To be broadcast against samples."""
            return slabs if op is None or not long else [spread(slab, op.ndim) for slab in slabs]

        logits, words = sampled(self._logits(draw, choices, long)), self._words(draw, bits, choices, long)
        illegal: Sequence[Tensor | None]
        if op is None:
            illegal = [None if word is None else word == 0 for word in words]
        else:
            for part in parts:
                if part.columns != draw.columns:
                    own, rows = sampled(self._logits(part, choices, long)), self._uses(op, part.users)
                    logits = [torch.where(rows, x, others) for x, others in zip(own, logits)]
            bit = torch.zeros_like(op, dtype=torch.int32)
            for i in self._ops(draw.users):
                bit = torch.where(op == i, 1 << i, bit)
            kept = [word & bit for word in sampled([word for word in words if word is not None])]
            logits, illegal = [x.expand(word.shape) for x, word in zip(logits, kept)], [word == 0 for word in kept]
        if draw.constraint is not None:
            assert self.constraints is not None
            held, first = self.constraints, draw.constraint
            each = sampled([held[first : first + draw.size]] if long else [held[first + k] for k in choices])
            illegal = [~holds if no is None else no | ~holds for no, holds in zip(illegal, each)]
        floor = self.floors[draw.head]
        softmax = LongSoftmax if long else UnrolledSoftmax
        return softmax(logits, illegal, actions=choices, min_prob=floor, capped=exceeds(floor, len(choices)))

    def _logits(self, draw: Draw, choices: Sequence[int], long: bool) -> Slabs:
        first = draw.columns[0]  # a head's columns lie side by side
        return [self.columns[first : first + draw.size]] if long else [self.each[first + k] for k in choices]

    def _words(self, draw: Draw, bits: Tensor, choices: Sequence[int], long: bool) -> Sequence[Tensor | None]:
        """What of the words decides a choice: nothing is left of them where it is illegal; None for never."""
        if not long:
            return [
                None if draw.bits[k] & STATIC and not draw.words[k] else self.words[draw.words[k]] & draw.bits[k]
                for k in choices
            ]
        if len(set(draw.words)) > 1:  # the slot's, of which an op is legal in one as in another
            return [self.slot_words & draw.bits[0]]
        return [self.words[draw.words[0]] & bits[: draw.size].view(-1, *[1] * (self.columns.ndim - 1))]

    # -- faults -------------------------------------------------------------------------------------------------------

    def draw_faults(self) -> Slabs:
        """Draws that leave their row without an action, bool ``[...]`` each."""
        needed = [(self.words[0] & draw.needed_by) != 0 for draw in self.draws]
        return [softmax.invalid & present for softmax, present in zip(self.softmaxes, needed)]

    def faulty(self) -> Tensor:
        return _any(self.draw_faults())

    def faults(self) -> Tensor:
        faults = zip(self.draws, self.draw_faults())
        return reduce(torch.bitwise_or, [fault.long() << draw.head for draw, fault in faults])

    # -- actions ------------------------------------------------------------------------------------------------------

    def draw(self, noise: Tensor, ignored: Tensor | None) -> Tensor:
        return self.draw_and_score(noise, ignored)[0]

    def draw_and_score(
        self, noise: Tensor | Slabs, ignored: Tensor | None, dtype: torch.dtype = torch.int64
    ) -> tuple[Tensor, Tensor]:
        """The same, with the log-probabilities of the actions, ``[*sample, ...]``; uniforms may come head by head."""
        uniforms, op_at = noise.unbind(-1) if isinstance(noise, Tensor) else noise, self.draws[0].head
        op, score = self.softmaxes[0].draw_and_score(uniforms[op_at])
        actions, scores = self._unused(op, score)
        for head, softmax, used in self._given(op):
            drawn = softmax.draw_and_score(uniforms[head])
            actions[head], scores[head] = (torch.where(used, *of) for of in zip(drawn, (actions[head], scores[head])))
        return self._whole(actions, ignored, dtype), _total(scores)

    def mode(self, ignored: Tensor | None) -> Tensor:
        op = self.softmaxes[0].mode().to(self.like.dtype)
        actions, _ = self._unused(op, op)
        for head, softmax, used in self._given(op):
            actions[head] = torch.where(used, softmax.mode().to(op.dtype), actions[head])
        return self._whole(actions, ignored)

    def _whole(self, actions: Slabs, ignored: Tensor | None, dtype: torch.dtype = torch.int64) -> Tensor:
        if ignored is not None:
            actions = [action.masked_fill(ignored, -1) for action in actions]
        return torch.stack([action.to(dtype) for action in actions]).movedim(0, -1)  # where a compiler ends its loop

    def score(self, actions: Tensor) -> Tensor:
        return torch.stack(self._scores(*self._values(actions))).movedim(0, -1)

    def log_prob(self, actions: Tensor) -> Tensor:
        return _total(self._scores(*self._values(actions)))

    def log_prob_and_illegal(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        values, op, given = self._values(actions)
        illegal = [softmax.forbids(values[head]) & used for head, softmax, used in given]
        return _total(self._scores(values, op, given)), _any([self.softmaxes[0].forbids(op), *illegal])

    def _values(self, actions: Tensor) -> tuple[Slabs, Tensor, list[Given]]:
        """Each head's value, the op, and what is drawn given it."""
        values = actions.to(self.like.dtype).unbind(-1)
        op = values[self.draws[0].head]
        return values, op, self._given(op)

    def _scores(self, values: Slabs, op: Tensor, given: list[Given]) -> list[Tensor]:
        _, scores = self._unused(op, self.softmaxes[0].score(op))
        for head, softmax, used in given:
            scores[head] = torch.where(used, softmax.score(values[head]), scores[head])
        return scores

    def _unused(self, op: Tensor, score: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Actions and scores where the op uses no other head."""
        actions = [torch.full_like(op, choice) for choice in self.tables.canonical_choices]
        scores, op_at = [torch.zeros_like(score)] * len(actions), self.draws[0].head
        actions[op_at], scores[op_at] = op, score
        return actions, scores

    def _given(self, op: Tensor) -> list[Given]:
        """Each head that is drawn, its probabilities given the op, and whether the op uses it, ``[*sample, ...]``."""
        given = []
        for (head, at, whole), bits in zip(self.tables.drawn, self.tables.drawn_bits):
            parts = [self.draws[i] for i in at]
            softmax = self.softmaxes[at[0]] if len(at) == 1 else self._softmax(whole, bits, op, parts)
            given.append((head, softmax, self._uses(op, whole.users)))
        return given

    def _uses(self, op: Tensor, users: int) -> Tensor:
        return _any([op == i for i in self._ops(users)])

    def _ops(self, users: int) -> list[int]:
        return [i for i in range(len(self.tables.users)) if users >> i & 1]

    # -- entropy and divergence ---------------------------------------------------------------------------------------

    def raw_entropy(self) -> Tensor:
        return self._chain([softmax.raw_entropy() for softmax in self.softmaxes])

    def head_entropies(self) -> Tensor:
        entropies = []
        for head in range(len(self.tables.sizes)):
            own = [s for s, draw in zip(self.softmaxes, self.draws) if draw.head == head and draw.plain]
            each = [softmax.normalized_entropy() for softmax in own]
            if len(each) > 1:
                count = _total([softmax.legal_actions().clamp_max(1) for softmax in own]).clamp_min(1)
                each = [_total(each) / count]
            entropies.append(each[0] if each else torch.zeros_like(self.softmaxes[0].total))
        return torch.stack(entropies).movedim(0, -1)

    def divergence(self, other: "UnrolledHeads") -> Tensor:
        values = [p.divergence(q) for p, q in zip(self.softmaxes, other.softmaxes)]
        lacking = [value == math.inf for value in values]
        finite = self._chain([value.masked_fill(none, 0) for value, none in zip(values, lacking)])
        drawn = [log_prob != -math.inf for log_prob in self.softmaxes[0].log_probs()]  # a probability may underflow
        beyond = [lacking[0]]
        for draw, none in zip(self.draws[1:], lacking[1:]):
            beyond += [none & by for op, by in enumerate(drawn) if draw.users >> op & 1]
        return finite.masked_fill(_any(beyond), math.inf)

    def _chain(self, values: Slabs) -> Tensor:
        """The op's value, and that of every draw times the probability that a head is taken from it."""
        probs, total = self.softmaxes[0].probs(), values[0]
        for draw, value in zip(self.draws[1:], values[1:]):
            if draw.users:
                usage = _total([p for op, p in enumerate(probs) if draw.users >> op & 1])
                total = total + usage * value
        return total


def _total(values: Slabs) -> Tensor:
    return sum(values[1:], values[0])


def _any(values: Slabs) -> Tensor:
    return reduce(torch.logical_or, values)
