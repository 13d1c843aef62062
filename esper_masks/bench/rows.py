"""One way of making a decision, as it is timed, and the check of its outputs that comes before."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from esper_masks.bench.inputs import Decision, Head
from esper_masks.bench.libraries import LIBRARIES, entropies

Step = Callable[..., Any]


class Row:
    """One way on one batch: the functions that are timed, and what they take."""

    def __init__(self, inputs: Head | Decision, way: str, layout: str = "row-major"):
        self.inputs = inputs
        self.library = LIBRARIES[way.split()[0]]
        if isinstance(self.inputs, Decision):
            self.make, self.masks = self.library.decision, getattr(self.inputs, self.library.takes)
        else:
            self.make, self.masks = self.library.head, self.inputs.mask
        logits = self.inputs.logits
        logits = logits.T.contiguous().T if layout == "batch-last" else logits
        self.logits = logits.detach().requires_grad_()  # a leaf of its own

    def forward(self) -> Step:
        make = self.make

        def step(logits: Tensor, masks: Any) -> tuple[Tensor, ...]:
            dist = make(logits, masks)
            action = dist.sample()
            return action, dist.log_prob(action), *entropies(dist)

        return step

    def score(self) -> Step:
        make = self.make

        def step(logits: Tensor, masks: Any, action: Tensor) -> tuple[Tensor, ...]:
            dist = make(logits, masks)
            return dist.log_prob(action), *entropies(dist)

        return step

    def run(self, step: str) -> Callable[[Step], Any]:
        """What is timed, given the eager or compiled function."""
        logits, masks, action = self.logits, self.masks, self.inputs.action
        if step == "forward":
            return lambda function: function(logits, masks)

        def backward(function: Step) -> tuple[tuple[Tensor, ...], Tensor]:
            logits.grad = None
            values = function(logits, masks, action)
            sum(value.sum() for value in values).backward()
            assert logits.grad is not None
            return values, logits.grad

        return backward


def check(row: Row, step: str, result: Any) -> None:
    """Samples are legal; log-probability, entropy and gradient are those of ours, eager."""
    if step == "forward":
        action, *values = result
        legal(row, action)
        with torch.no_grad():
            own = row.score()(row.logits, row.masks, action)
            for value, other in zip(values, own, strict=True):
                near(value, other)
            if row.library is not LIBRARIES["ours"]:
                for value, other in zip(values, _of_ours(row.inputs, action), strict=True):
                    near(value, other)
        return
    values, gradient = result
    if isinstance(row.inputs, Head):
        expected = score(LIBRARIES["ours"].head, row.inputs.logits, row.inputs.mask, row.inputs.action)
    elif row.library is LIBRARIES["ours"]:
        expected = score(row.make, row.inputs.logits, row.inputs.masks, row.inputs.action)
        check_oracle(row.inputs, expected[0])
    else:
        expected = independent(row)
    for value, other in zip((*values, gradient), (*expected[0], expected[1])):
        near(value, other)


def score(make: Callable[..., Any], logits: Tensor, masks: Any, action: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Log-probability and entropies, and the gradient of their sum."""
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        dist = make(leaf, masks)
        values = dist.log_prob(action), *entropies(dist)
        sum(value.sum() for value in values).backward()
    assert leaf.grad is not None
    return tuple(value.detach() for value in values), leaf.grad


def independent(row: Row) -> tuple[tuple[Tensor, ...], Tensor]:
    """What one of our distributions a head gives; head by head the library must agree."""
    case = row.inputs
    assert isinstance(case, Decision)
    parts = zip(case.logits.split(case.sizes, -1), case.head_masks, case.action.unbind(-1))
    ours = []
    for logits, mask, action in parts:
        ours.append(score(LIBRARIES["ours"].head, logits, mask, action))
        values, gradient = score(row.library.head, logits, mask, action)
        for value, other in zip((*values, gradient), (*ours[-1][0], ours[-1][1])):
            near(value, other)
    log_prob, entropy = (torch.stack(values).sum(0) for values in zip(*(values for values, _ in ours)))
    return (log_prob, entropy), torch.cat([gradient for _, gradient in ours], -1)


def separate(logits: Tensor, masks: Sequence[Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy in nats of heads that are each drawn by itself, by ours for one head."""
    parts = logits.split([mask.shape[-1] for mask in masks], -1)
    heads = [LIBRARIES["ours"].head(part, mask) for part, mask in zip(parts, masks)]
    scores = [head.log_prob(one) for head, one in zip(heads, action.unbind(-1))]
    return torch.stack(scores).sum(0), torch.stack([head.raw_entropy() for head in heads]).sum(0)


def _of_ours(case: Head | Decision, action: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(case, Head):
        return separate(case.logits, [case.mask], action[:, None])
    return separate(case.logits, case.head_masks, action)


def legal(row: Row, action: Tensor) -> None:
    case = row.inputs
    if isinstance(case, Head):
        assert case.mask.gather(1, action[:, None]).all()
        return
    for one, mask in zip(action.unbind(-1), case.head_masks):
        if row.library is not LIBRARIES["ours"]:  # ours may give a canonical value that is no choice of its head
            assert mask.gather(1, one[:, None]).all()
    if row.library is LIBRARIES["ours"]:
        assert em.FactoredCategorical(case.logits, case.masks).legal(action).all()


def check_oracle(case: Decision, values: tuple[Tensor, ...], rows: int = 4) -> None:
    """Our decision in the first rows, by enumeration of whole actions."""
    masks = case.masks
    for at in range(rows):
        bools = {name: masks[name][at].tolist() for name in masks} | {"slot_by_op": masks.slot_by_op[at].tolist()}
        logits = dict(zip(masks, (part.tolist() for part in case.logits[at].split(case.sizes))))
        joint = em.reference.Joint(case.engine.rules, bools, logits)
        expected = joint.log_prob(case.action[at].tolist()), joint.raw_entropy()
        near(torch.stack([value[at] for value in values[:2]]), torch.tensor(expected))


def near(value: Tensor | None, expected: Tensor | None) -> None:
    """An AssertionError where two results are further apart than rounding takes them."""
    assert value is not None
    assert expected is not None
    torch.testing.assert_close(value.detach(), expected.detach(), rtol=1e-4, atol=1e-5, check_stride=False)
