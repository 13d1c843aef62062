"""What a way has to give: checks that come before any timing. Each is an AssertionError where something is wrong."""

from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import esper_masks as em
from esper_masks.bench.inputs import LIMIT, Decision, state_dicts
from esper_masks.bench.libraries import Make, entropies, ours_decision
from esper_masks.bench.loops import MODULES
from esper_masks.rules.names import BY_SLOT, SLOT_BY_OP

ALIKE = 0.999  # share of rows whose action must be the same: the noise of others falls within rounding of an edge
PIECE = 1 << 16  # rows that are checked at a time, so that a check takes no more memory than what it checks
LOOPED = 4096  # rows whose masks a loop makes again
ENUMERATED = 4  # rows whose whole actions the oracle goes through


class Scored(NamedTuple):
    """Actions of a batch and their scores."""

    action: Tensor  # drawn, or given
    values: tuple[Tensor, ...]  # log-probability and entropy in nats [batch]; ours may give more entropies
    gradient: Tensor | None = None  # of the sum of the values, like the logits; None where nobody asks for it


def draw(make: Make, logits: Tensor, masks: Any) -> Scored:
    """One action a row by a distribution of any library, and its scores."""
    dist = make(logits, masks)
    action = dist.sample()
    return Scored(action, scores(dist, action))


def scores(dist: Any, action: Tensor) -> tuple[Tensor, ...]:
    """The values of ``Scored``, by a distribution of any library."""
    return dist.log_prob(action), *entropies(dist)


def with_gradient(values_of: Callable[[Tensor], tuple[Tensor, ...]], logits: Tensor, action: Tensor) -> Scored:
    """Values that are computed from logits, which are a leaf, and their gradient."""
    logits.grad = None
    values = values_of(logits)
    torch.stack([value.sum() for value in values]).sum().backward()
    assert logits.grad is not None, "the values have no gradient"
    return Scored(action, values, logits.grad)


def check_scores(make: Make, logits: Tensor, masks: Any, made: Scored, piece: int = PIECE) -> None:
    """Actions are legal; their values and gradient are those of a distribution in eager code.

    Args:
        make: that distribution, one of ours.
        logits: ``[batch, columns]``.
        masks: as ``make`` takes them.
        made: what is checked. What it lacks of the values, such as the entropies of single heads, is not compared.
        piece: rows at a time.
    """
    for rows in pieces(len(logits), piece):
        _check_piece(make, *tree_map_only(Tensor, itemgetter(rows), (logits, masks, made)))


def _check_piece(make: Make, logits: Tensor, masks: Any, made: Scored) -> None:
    assert legal(masks, made.action).all(), "an action is illegal"

    def values_of(logits: Tensor) -> tuple[Tensor, ...]:
        return scores(make(logits, masks), made.action)[: len(made.values)]

    if made.gradient is None:
        with torch.no_grad():
            expected = values_of(logits)
    else:
        _, expected, gradient = with_gradient(values_of, logits.detach().requires_grad_(), made.action)
        near(made.gradient, gradient)
    for value, other in zip(made.values, expected, strict=True):
        near(value, other)


def pieces(batch: int, piece: int = PIECE) -> Iterator[slice]:
    """A batch in parts that are checked one by one."""
    return (slice(start, start + piece) for start in range(0, batch, piece))


def legal(masks: em.ActionMasks | Tensor | list[Tensor], action: Tensor) -> Tensor:
    """Bool ``[batch]``: whether masks of a whole action, of a head or of heads drawn by themselves permit an action."""
    if isinstance(masks, em.ActionMasks):
        return masks.permits(action)
    if isinstance(masks, Tensor):
        return masks.gather(1, action[:, None])[:, 0]
    return torch.stack([legal(mask, one) for mask, one in zip(masks, action.unbind(-1))]).all(0)


def check_draws(step: em.DecisionStep, inputs: Decision) -> None:
    """For given noise, a step draws what the distribution in eager code draws."""
    batch, same = len(inputs.logits), 0
    noise = torch.rand(batch, len(inputs.engine.layout.heads), device=inputs.logits.device)
    actions = step(inputs.states, inputs.logits, inputs.totals, noise=noise, **inputs.given).actions
    for rows in pieces(batch):
        drawn = ours_decision(inputs.logits[rows], inputs.masks.select(rows)).sample(noise=noise[rows])
        same += int((actions[rows] == drawn).all(-1).sum())
    assert same >= min(ALIKE * batch, batch - 1), f"{batch - same} other actions for the same noise"


def check_oracle(inputs: Decision, made: Scored) -> None:
    """Whole actions of the first rows are scored as the oracle scores them, by enumeration."""
    masks = inputs.masks
    for at in range(min(ENUMERATED, len(made.action))):
        bools = {name: masks[name][at].tolist() for name in masks} | {SLOT_BY_OP: masks.slot_by_op[at].tolist()}
        bools |= {name: mask[at].tolist() for name, mask in masks_by_slot(masks).items()}
        logits = dict(zip(masks, (part.tolist() for part in inputs.logits[at].split(inputs.flat[0]))))
        joint = em.reference.Joint(inputs.engine.rules, bools, logits)
        expected = joint.log_prob(made.action[at].tolist()), joint.raw_entropy()
        near(torch.stack([value[at] for value in made.values[:2]]), torch.tensor(expected))


def masks_by_slot(masks: em.ActionMasks) -> dict[str, Tensor]:
    """The masks of the heads that have choices of their own in each slot, named as the oracle names them."""
    heads = [masks.layout.head_names[head] for head, by_slot in masks.dynamic if by_slot]
    return {f"{head}{BY_SLOT}": masks.by_slot(head) for head in heads}


def illegal_share(inputs: Decision, made: Scored) -> float:
    """The share of actions that are no legal whole ones, though each head by itself is."""
    return 1 - float(inputs.masks.permits(made.action).float().mean())


def masks_of(layout: em.ActionLayout, made: em.Decision) -> em.ActionMasks:
    """The masks under which a decision was made."""
    if made.packed is not None:
        return em.ActionMasks.from_packed(layout, made.packed)
    assert made.slot_words is not None
    return em.ActionMasks.from_words(layout, made.slot_words)


def aten_ops(run: Callable[[], Any]) -> int:
    """How many operators of torch a call runs."""
    counter = _Counter()
    with counter:
        run()
    return counter.number


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return function(*args, **(kwargs or {}))


def check_masks(inputs: Decision, made: em.ActionMasks | Mapping[str, Any]) -> None:
    """Masks of a batch are the engine's, and the engine's are right."""
    same_masks(made, inputs.masks)
    check_engine(inputs)


def same_masks(made: em.ActionMasks | Mapping[str, Any], expected: em.ActionMasks) -> None:
    """Words, or bool masks of all heads and at most those by op and by slot beside them, are what is expected."""
    if isinstance(made, em.ActionMasks):
        assert torch.equal(made.slot_words, expected.slot_words)
        assert torch.equal(made.op_words, expected.op_words)
        assert torch.equal(made.pack(), expected.pack())
        return
    ours = {**expected, SLOT_BY_OP: expected.slot_by_op, **masks_by_slot(expected)}
    assert set(expected) <= set(made) <= set(ours), f"masks of {', '.join(made) or 'nothing'}"
    for name, mask in made.items():
        assert torch.equal(ours[name].cpu(), torch.as_tensor(mask).cpu()), name


def check_engine(inputs: Decision) -> None:
    """The engine's masks of the first rows are those of the best loop, or of the oracle for rules that have no loop."""
    engine, rules = inputs.engine, inputs.engine.rules
    has_loop = rules.name in MODULES
    rows = slice(LOOPED if has_loop else LOOPED // 16)  # the oracle takes its time
    totals = inputs.totals[rows].tolist()
    if has_loop:
        dicts, ids = state_dicts(engine, inputs.states[rows]), list(engine.slot_ids)
        made = MODULES[rules.name].one_tensor(dicts, ids, ids, totals, LIMIT)
    else:
        given = tree_map_only(Tensor, itemgetter(rows), inputs.given)
        limit: dict[str, Any] = {"max_seeds": LIMIT} if engine.program.limited else {}
        made = em.reference.masks(rules, inputs.states[rows].tolist(), totals, **limit, **given)
    same_masks(made, inputs.masks.select(rows))


def near(value: Tensor, expected: Tensor | None) -> None:
    """Two results are no further apart than rounding takes them."""
    assert expected is not None
    torch.testing.assert_close(value.detach(), expected.detach(), rtol=1e-4, atol=1e-5, check_stride=False)
