"""What happens when a row has no action to take: the three modes of validation, and the check of many flags at once."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from esper_masks.compiled.torch_private import assert_on_device, under_vmap
from esper_masks.errors import InvalidStateMachineError

Validate = Literal["raise", "flag", "off"]
MODES = ("raise", "flag", "off")
SHOWN = 5  # rows that a message names

CAUSE = "such a row has no legal action, only legal logits of -inf, or a legal logit that is NaN or +inf"
ILLEGAL = "illegal action"  # what the bit behind those of the heads stands for
CHANGED = "masks or actions were written to since the decision, or are of other rows: keep copies of both, row by row"
REMEDY = "mark padding rows with active=, or pass validate='flag' and read `faults`"


class Faulty(Protocol):
    """A distribution: its faults, and the heads that their bits stand for (none for a single head)."""

    @property
    def faults(self) -> Tensor: ...

    @property
    def fault_names(self) -> Sequence[str]: ...


def check_mode(validate: str) -> None:
    """Raise ``ValueError`` unless a mode of validation is one of the three."""
    if validate not in MODES:
        raise ValueError(f"validate={validate!r} is not one of {', '.join(map(repr, MODES))}")


def raise_faults(faulty: Tensor, faults: Callable[[], Tensor], names: Sequence[str]) -> None:
    """What ``validate="raise"`` does with the faulty rows of a new distribution.

    Args:
        faulty: bool ``[...]``.
        faults: gives the words that the message names heads from; called only where a row is faulty.
        names: heads, one a bit; none for a single head.

    Raises:
        InvalidStateMachineError: in eager code. Compiled code asserts on the device (RuntimeError); under ``vmap``
            nothing is read, and the flags are all there is.
    """
    if under_vmap(faulty):
        return
    if torch.compiler.is_compiling():
        assert_on_device(~faulty.any(), f"a row is faulty; {CAUSE}; {REMEDY}")
    elif faulty.any():
        raise InvalidStateMachineError(f"{_describe([('', faults(), names)])}; {CAUSE}; {REMEDY}")


def raise_on_fault(*flags: "Tensor | Faulty", heads: Sequence[str] = (), **named: "Tensor | Faulty") -> None:
    """Raise if any of many flags is set; one read of the device for all of them.

    A training loop calls it before each optimizer step, on the distributions made with ``validate="flag"`` and on the
    gradient norm: ``0 * NaN`` in the layers behind the logits is NaN, and only the norm tells.

    >>> import torch
    >>> raise_on_fault(torch.tensor([False, False]), grad_norm=torch.tensor(0.5))
    >>> raise_on_fault(faults=torch.tensor([0, 2, 3]), heads=("slot", "op"))
    Traceback (most recent call last):
    ...
    esper_masks.errors.InvalidStateMachineError: faults: 2 of 3 rows are faulty: row 1 (op), row 2 (slot, op)

    Args:
        flags: distributions; or tensors of any shape: bool (True is a fault), integer (each bit a head, and the one
            behind them an illegal action) or floating point (what is not finite is a fault).
        heads: names of the bits of integer flags; a distribution knows its own.
        named: the same, with a name for the message.

    Raises:
        InvalidStateMachineError: names the rows and, of factored distributions, the heads.
        ValueError: something that is not a flag, or ``heads`` that are not names.
    """
    if isinstance(heads, (Tensor, str)) or not all(isinstance(head, str) for head in heads):
        raise ValueError("heads are the names of the bits of integer flags; give a flag another name")
    checks = [(name, *_read(flag, heads)) for name, flag in (*(("", f) for f in flags), *named.items())]
    found = [_is_fault(words).any() for _, words, _ in checks]
    device = next((f.device for f in found if f.device.type != "cpu"), None)
    if found and torch.stack([f if device is None else f.to(device, non_blocking=True) for f in found]).any():
        message = _describe(checks)
        if ILLEGAL in message:
            message = f"{message}; {CHANGED}"
        elif " (bit " in message:
            message = f"{message}; give heads= to name the bits: one a head, behind them one for an {ILLEGAL}"
        raise InvalidStateMachineError(message)


def _read(flag: "Tensor | Faulty", heads: Sequence[str]) -> tuple[Tensor, Sequence[str]]:
    words = flag if isinstance(flag, Tensor) else getattr(flag, "faults", None)
    if not isinstance(words, Tensor) or words.dtype.is_complex:
        got = words.dtype if isinstance(words, Tensor) else type(flag).__name__
        raise ValueError(f"a flag must be a distribution, or a tensor of bools, integers or floats; got {got}")
    return words.detach(), heads if isinstance(flag, Tensor) else flag.fault_names


def _is_fault(words: Tensor) -> Tensor:
    return ~words.isfinite() if words.is_floating_point() else words != 0


def _describe(checks: Sequence[tuple[str, Tensor, Sequence[str]]]) -> str:
    parts = []
    for name, words, heads in checks:
        faulty = _is_fault(words)
        rows = faulty.nonzero().tolist()
        if not rows:
            continue
        if words.ndim == 0:
            what = f"a fault{_detail(words, heads)}"
        else:
            which = ", ".join(f"row {_place(row)}{_detail(words[tuple(row)], heads)}" for row in rows[:SHOWN])
            more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
            what = f"{len(rows)} of {faulty.numel()} rows are faulty: {which}{more}"
        parts.append(f"{name}: {what}" if name else what)
    return "; ".join(parts)


def _place(row: Sequence[int]) -> str:
    return str(row[0] if len(row) == 1 else tuple(row))


def _detail(word: Tensor, heads: Sequence[str]) -> str:
    if word.dtype == torch.bool:
        return ""
    if word.is_floating_point():
        return f" ({word.item()})"
    names = [*heads, ILLEGAL] if heads else []
    bits = [bit for bit in range(torch.iinfo(word.dtype).bits) if int(word) >> bit & 1]
    return f" ({', '.join(names[bit] if bit < len(names) else f'bit {bit}' for bit in bits)})"
