"""The form of a distribution: chosen here, and nowhere else.

Everything is written in two forms, with one signature and the same results:

    stacked     one tensor over all actions       few ops, each over everything: what eager code wants
    unrolled    a vector over rows per action     many ops, which a compiler fuses into one loop over rows

In eager code an op costs more than its arithmetic, so eager code is stacked. Compiled code is unrolled as long as it
is small, because each unrolled action takes a fraction of a second to build. An unrolled whole action may still have a
*long* head: that head alone stays one tensor, or one for each slot. So do the draws of a *family*, see ``runs``.

A stacked whole action without floors is *quick* in eager code on a CPU: there some ops take forty times as long as
others, and it has more of the others, see ``quick``. A GPU, where each op is a launch, has the plain one. So have
transforms, for which gradients are not written out, with the sums of the quick one.

No form depends on the number of rows. Within the quick one, few rows take fewer ops, and many are taken in pieces: to
the same bits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from esper_masks.actions.draws import Draw, draws_alike
from esper_masks.compiled.torch_private import traced_export, traced_transform, transformed
from esper_masks.masks.masks import ActionMasks

Form = Literal["stacked", "quick", "unrolled"]
Made = TypeVar("Made")

LONGEST_ROW = 16  # actions of an unrolled row: with more, a stacked one is nearly as fast
LONG_DRAW = 8  # actions that take as long to build as a long draw of its own, counted where there are many
LONGEST_DECISION = 128  # actions of all unrolled draws: high, because stacked draws are padded to the widest

_used: Literal["stacked", "unrolled"] | None = None
_quick = True
_longest_row, _longest_decision = LONGEST_ROW, LONGEST_DECISION


def of_row(actions: int) -> Form:
    """The form of one head with so many actions."""
    return _used or ("unrolled" if torch.compiler.is_compiling() and actions <= LONGEST_ROW else "stacked")


def of_decision(draws: Sequence[Draw], compiled: bool | None = None) -> Form:
    """The form of a whole action.

    Args:
        draws: see ``build_draws``.
        compiled: whether for compiled code; by default whether a compiler is tracing this call.
    """
    compiled = torch.compiler.is_compiling() if compiled is None else compiled
    if _used or not compiled:
        return _used or "stacked"
    crowded, alone = is_crowded(draws), [draws[run.start] for run in runs(draws) if len(run) == 1]
    sizes = [LONG_DRAW * crowded if is_long(draw, crowded) else draw.size for draw in alone]
    return "unrolled" if sum(sizes) <= LONGEST_DECISION else "stacked"


def is_crowded(draws: Sequence[Draw]) -> bool:
    """Whether an unrolled whole action would be too large, had every draw of its own but for those of long heads."""
    return sum(draw.size for draw in draws if not is_long(draw)) > _longest_decision


def is_long(draw: Draw, crowded: bool = False) -> bool:
    """Whether a head stays one tensor in an unrolled whole action: it has many choices, in all its slots together.

    The op does only where the whole action is crowded: unrolled, three times as fast, each op decides what is drawn.
    """
    return draw.size * draw.slots > _longest_row and (crowded or not draw.of_op)


def runs(draws: Sequence[Draw]) -> list[range]:
    """The draws of an unrolled whole action, in order: one by one or, where it is crowded, by *family*.

    A family, the draws of one head that differ in their op alone, is one tensor.
    """
    if is_crowded(draws):
        return draws_alike(draws)
    return [range(at, at + 1) for at in range(len(draws))]


def is_quick(logits: Tensor) -> bool:
    """Whether a stacked whole action without floors is made for eager code on a CPU."""
    return _quick and logits.device.type == "cpu" and not torch.compiler.is_compiling()


def is_plain() -> bool:
    """Whether each op runs as it is written: nothing traces it or sees it first."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return not traced and not transformed()


def apply(function: Callable[..., Made], *inputs: Any, again: bool) -> Made:
    """``function(*inputs)``.

    Args:
        function: of tensors, to tensors; it changes nothing.
        inputs: its arguments.
        again: in code that is compiled, whether the gradient computes the results again, and does not keep them. To
            write a vector to memory and to read it takes longer than to compute it, a bool above all. No transform and
            no export takes a checkpoint.
    """
    if not (again and torch.compiler.is_compiling()) or traced_export() or traced_transform():
        return function(*inputs)
    made: Made = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return made


def choice_words(masks: ActionMasks) -> Tensor:
    """The choice words of the heads ``masks.dynamic`` side by side, as draws read them: int32 ``[..., words]``."""
    words = []
    for at, slot_wise in masks.dynamic:
        name = masks.layout.head_names[at]
        choices = masks.choices[name]
        words += [choices.flatten(-2)] if slot_wise else [masks.whole_choices(name), choices]
    return torch.cat(words, -1)


def chosen() -> tuple[Form | None, int, int]:
    """What decides on the form beside the action, see ``use``."""
    return _used, _longest_row, _longest_decision


@contextmanager
def use(form: Form, *, longest_row: int = LONGEST_ROW, longest_decision: int = LONGEST_DECISION) -> Iterator[None]:
    """Every distribution that this process makes inside takes one form, in eager code too: for tests of the forms.

    Compiled steps keep what they were built with.

    Args:
        form: the form.
        longest_row: a head with more choices is long in an unrolled whole action.
        longest_decision: with more choices in all it is crowded.
    """
    global _used, _quick, _longest_row, _longest_decision
    before = _used, _quick, _longest_row, _longest_decision
    _used, _quick = "unrolled" if form == "unrolled" else "stacked", form == "quick"
    _longest_row, _longest_decision = longest_row, longest_decision
    try:
        yield
    finally:
        _used, _quick, _longest_row, _longest_decision = before


class AnyHeads(Protocol):
    """All heads of whole actions, in either form.

    A head is drawn given the op or, where it has a draw in each slot, given op and slot. Of an action whose slot does
    not exist, such a head counts as ignored.

    Both are made of

        tables: constants of the draws.
        parts: logits side by side in one or more tensors ``[..., columns]``, float32 or float64.
        masks: which actions are legal.
        floors: least probability of a legal choice, one per head; None for none.
    """

    like: Tensor  # of the dtype and on the device of the arithmetic

    def faulty(self) -> Tensor:
        """Rows without an action, active or not, bool ``[...]``."""

    def faults(self) -> Tensor:
        """The same with a bit for each head, int64 ``[...]``."""

    def draw(self, noise: Tensor, ignored: Tensor | None) -> Tensor:
        """Actions ``[*sample, ..., heads]`` of uniforms of that shape; -1 where a used head has no choice.

        Args:
            noise: uniforms, ``[*sample, ..., heads]``.
            ignored: bool ``[...]``, rows whose actions are -1 in all heads.
        """

    def draw_and_score(
        self, noise: Tensor | Sequence[Tensor], ignored: Tensor | None, dtype: torch.dtype = torch.int64
    ) -> tuple[Tensor, Tensor]:
        """The same, with the log-probabilities of the actions, ``[*sample, ...]``. A tensor per head will do, too."""

    def mode(self, ignored: Tensor | None) -> Tensor:
        """The op's mode, then each head's given that op, the slot's first: ``[..., heads]``."""

    def score(self, actions: Tensor) -> Tensor:
        """Log-probability of each head's value given the op, ``[*sample, ..., heads]``; 0 if the op ignores it."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability of whole actions, ``[*sample, ...]``."""

    def log_prob_and_illegal(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and whether the masks forbid the actions or there are none such, bool ``[*sample, ...]``."""

    def raw_entropy(self) -> Tensor:
        """Entropy of whole actions in nats by the chain rule, ``[...]``."""

    def head_entropies(self) -> Tensor:
        """Normalized entropy of every head's own choices before any floor: ``[..., heads]``."""

    def divergence(self, other: Self) -> Tensor:
        """KL(self || other) of whole actions in nats, ``[...]``; both have the same draws."""
