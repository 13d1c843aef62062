"""The distribution of whole actions: the op first, then every head that it uses."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from esper_masks.actions.draws import slot_wise_heads
from esper_masks.actions.tables import draw_tables, layout_tables
from esper_masks.checks import before_last, check_actions, check_bool, check_generator, check_noise
from esper_masks.distributions.base import ONCE, MaskedDistribution
from esper_masks.distributions.faults import Validate, check_mode, raise_faults
from esper_masks.distributions.forms import AnyHeads, of_decision
from esper_masks.distributions.logits import HeadLogits, check_floors
from esper_masks.distributions.noise import Noise, NoiseKey, keyed_uniforms, uniforms
from esper_masks.distributions.softmax import normalized
from esper_masks.distributions.stacked import StackedHeads
from esper_masks.distributions.unrolled import UnrolledHeads
from esper_masks.masks.masks import ActionMasks


class FactoredCategorical(MaskedDistribution):
    """Distributions of whole actions, exact under the masks: nothing illegal has a probability.

        prob(action)  ==  P(op) * P(slot | op) * prod(P(action[head] | op, slot) for head in the others that op uses)

    The op is drawn among the legal ones, the slot among those in which that op is legal, every other head among the
    choices that are left to that op in that slot. A head that the op ignores takes its canonical value and adds exactly
    0 to log-probability and entropy; in an action that is scored it may hold anything. A layout without ops has heads
    that are independent of each other.

    Arithmetic and results are fp32 for half-precision logits. A faulty row (a head left without a legal choice, with
    only legal logits of -inf, or with a legal one that is NaN or +inf) and a row that is not active have action -1 in
    all heads, log-probability 0 and entropy 0, and give no gradient to their logits.

    Inside ``torch.compile``, logits ``[..., ops, n]`` or ``[..., slots, n]`` and heads that masks from the caller have
    limited need lookup tables that only eager code makes. Create one such distribution in eager code first. For a
    divergence, create one that has the conditioned heads of both distributions.

    >>> import esper_masks as em, torch
    >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    >>> masks = engine(engine.pack_slots([{"mid": em.SlotState(stage=4, age=2)}]))
    >>> joint = FactoredCategorical(torch.zeros(1, 15), masks)
    >>> joint.sample(noise=torch.tensor([[0.5, 0.5, 0.5, 0.9]]))  # slot, blueprint, blend, op: CULL in mid
    tensor([[1, 0, 0, 2]])

    Args:
        logits: head -> ``[..., n]``, or ``[..., ops, n]`` for a head whose logits depend on the op (any but the op
            itself), or ``[..., slots, n]`` for the heads ``by_slot``; or all heads side by side in head order,
            ``[..., sum of head sizes]``. fp16, bf16, fp32 or fp64.
        masks: which actions are legal, with the same leading shape.
        by_slot: names of the heads whose logits depend on the slot of the action (any but op and slot): shapes cannot
            tell slots from ops where there are as many.
        active: bool ``[...]``; False for padding rows and agents that do not act, which are never faulty.
        min_prob: least probability of each legal choice of a head, given op and slot, see ``MaskedCategorical``; there
            k is the number of the head's legal choices under that op, in that slot. One number, or one per head, by
            name or in head order. None, or a head without a number, means no floor.
        validate: see ``MaskedCategorical``, but ``"off"`` looks for no faults at all. A faulty row still never yields
            an illegal action; what else it yields is unspecified.

    Raises:
        ValueError: logits, a floor or a mode that do not fit; names the head.
        InvalidStateMachineError: faulty rows under ``validate="raise"``; names rows and heads.
    """

    _expectation = "over enumerate_support() by log_prob(...).exp()"
    _transposes = _again = True  # of ``UnrolledHeads``
    _form: AnyHeads

    def __init__(
        self,
        logits: Tensor | Mapping[str, Tensor],
        masks: ActionMasks,
        *,
        by_slot: Sequence[str] = (),
        active: Tensor | None = None,
        min_prob: float | Sequence[float | None] | Mapping[str, float | None] | None = None,
        validate: Validate = "raise",
    ):
        check_mode(validate)
        if not isinstance(masks, ActionMasks):
            raise ValueError(
                f"masks must be ActionMasks, got {type(masks).__name__}; ActionMasks.from_bools makes them"
            )
        if active is not None:
            active = check_bool("active", active, masks.shape, masks.device, fixed=0, own=True).expand(masks.shape)
        self.min_prob, self._validate = check_floors(min_prob, masks.layout), validate
        self._set(HeadLogits.check(logits, masks, by_slot), masks, active)
        if validate == "raise":
            raise_faults(self._faulty, lambda: self.faults, self.fault_names)

    def _set(self, logits: HeadLogits, masks: ActionMasks, active: Tensor | None) -> None:
        heads = torch.Size([len(masks.layout.heads)])
        super().__init__(masks.shape, heads, validate_args=False)  # torch's validation fails under compile
        self.masks, self.active, self._logits = masks, active, logits
        tables = draw_tables(masks.layout, masks.device, logits.by_op, logits.by_slot, masks.dynamic)
        made_of = tables, logits.arithmetic(), masks, self.min_prob
        if of_decision(tables.unrolled) == "unrolled":
            self._form = UnrolledHeads(*made_of, transposes=self._transposes, again=self._again)
        else:
            self._form = StackedHeads(*made_of)
        self._ignored = None if active is None else ~active
        if self._validate != "off":
            faulty = self._form.faulty()
            self._faulty = faulty if active is None else faulty & active
            self._ignored = faulty if active is None else faulty | ~active

    @property
    def faults(self) -> Tensor:
        """Heads at fault, bit h for head h, in active rows: int64 ``[...]``."""
        faults = self._form.faults()
        return faults if self.active is None else faults * self.active

    @property
    def fault_names(self) -> Sequence[str]:
        return self.masks.layout.head_names

    # -- actions ------------------------------------------------------------------------------------------------------

    def sample_and_log_prob(
        self,
        sample_shape: Any = ONCE,
        *,
        noise: Noise | None = None,
        dtype: torch.dtype = torch.int64,
        generator: None = None,
    ) -> tuple[Tensor, Tensor]:
        """``sample`` and ``log_prob`` of what was drawn, to the last bit; compiled, at half the time of the two.

        Args:
            sample_shape: see ``sample``.
            noise: see ``sample``; or the key that uniforms are computed from.
            dtype: of the actions, integers that hold -1 and every choice.
            generator: see ``sample``.

        Returns: actions ``[*sample_shape, ..., heads]``, and ``[*sample_shape, ...]``, through which gradients flow.
        Raises:
            ValueError, TypeError: see ``sample``.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        check_generator(generator, shape)
        action, log_prob = self._form.draw_and_score(self._uniforms(shape, noise), self._ignored, dtype)
        return action, self._zero_ignored(log_prob)

    def _uniforms(self, shape: torch.Size, noise: Noise | None) -> Any:
        like = self._form.like
        if isinstance(noise, NoiseKey):
            return keyed_uniforms(noise, shape, like.dtype)
        return uniforms(shape, like.dtype, like.device) if noise is None else check_noise(noise, shape, like)

    def _draw(self, shape: torch.Size, noise: Tensor | None) -> Tensor:
        return self._form.draw(self._uniforms(shape, noise), self._ignored)

    @property
    def mode(self) -> Tensor:
        """The most probable op, its most probable slot, then that of its other heads: int64 ``[..., heads]``."""
        return self._form.mode(self._ignored)

    def legal(self, action: Tensor) -> Tensor:
        """Whether the masks permit whole actions: integer ``[*sample, ..., heads]`` -> bool ``[*sample, ...]``."""
        return self.masks.permits(self._check_value("action", action))

    def action_faults(self, action: Tensor) -> Tensor:
        """``faults``, and of active rows without one whose action is illegal or does not exist ``1 << heads``.

        For stored actions, whose masks may have changed since: the log-probability of such an action is -inf, and
        nothing else tells. ``raise_on_fault(policy.action_faults(actions), heads=policy.fault_names)`` names the rows.

        Args:
            action: integer ``[*sample, ..., heads]``.

        Returns: int64 ``[*sample, ...]``.
        Raises:
            ValueError: see ``log_prob``.
        """
        return self.log_prob_and_faults(action)[1]

    def log_prob_and_faults(self, action: Tensor, name: str = "action") -> tuple[Tensor, Tensor]:
        """``log_prob`` and ``action_faults`` in one pass; ``name`` is that of the actions, in errors."""
        log_prob, illegal = self._form.log_prob_and_illegal(self._check_value(name, action))
        faults = self.faults
        illegal = illegal & (faults == 0)
        illegal = illegal if self.active is None else illegal & self.active
        return self._zero_ignored(log_prob), torch.where(illegal, 1 << len(self.masks.layout.heads), faults)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of whole actions.

        Args:
            value: integer ``[*sample, ..., heads]``, or what ``enumerate_support(expand=False)`` gives.

        Returns: ``[*sample, ...]``; -inf for an action that is illegal or does not exist.
        Raises:
            ValueError: not integers, or a shape whose last axes are not those of the batch and the heads.
        """
        return self._zero_ignored(self._form.log_prob(self._check_value("value", value)))

    def head_log_probs(self, value: Tensor) -> Tensor:
        """Log-probability of each head's value given op and slot, ``[*sample, ..., heads]``; 0 if the op ignores it."""
        return self._zero_ignored_heads(self._form.score(self._check_value("value", value)))

    def _check_value(self, name: str, value: Tensor) -> Tensor:
        """Whole actions ``[*sample, ..., heads]``; those of ``enumerate_support(expand=False)`` for each row."""
        batch, names = self.batch_shape, self.masks.layout.head_names
        # axes of 1 first: whoever exports a program has a batch of any size, that of the whole actions among them
        ones = isinstance(value, Tensor) and value.ndim > 1 and value.shape[1:] == (*[1] * len(batch), len(names))
        if ones and len(value) == layout_tables(self.masks.layout, self.masks.device).size:
            value = value.expand(-1, *batch, -1)
        check_actions(name, value, batch, names)
        return value

    # -- entropy ------------------------------------------------------------------------------------------------------

    def entropy(self) -> Tensor:
        """``raw_entropy() / log(number of legal whole actions)``, ``[...]``; 0 where one action is legal."""
        return normalized(self.raw_entropy(), self.masks.count())

    def head_entropies(self) -> Tensor:
        """Normalized entropy of each head under its own mask, ``[..., heads]``: for regularizers.

        Whatever the probability of the ops that use the head, so that a bonus reaches the head of a rare op, and before
        ``min_prob``. The slot's is over the slots that some op using a slot may take. A head with logits for each op
        has the mean over the legal ops that use it, 0 if there is none. A head with logits or choices of its own in
        each slot has the mean over the legal pairs of op and slot that use it.
        """
        return self._zero_ignored_heads(self._form.head_entropies())

    # -- as a torch distribution --------------------------------------------------------------------------------------

    @property
    def support(self) -> constraints.Constraint:
        """Each head's values, legal or not."""
        sizes = layout_tables(self.masks.layout, self.masks.device).sizes
        each = constraints.integer_interval(0, sizes - 1)  # type: ignore[no-untyped-call]  # torch has no types here
        return constraints.independent(each, 1)  # type: ignore[no-untyped-call]  # nor here

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All whole actions in the order of ``engine.joint_actions``, legal or not in a row.

        Returns: int64 ``[size, ..., heads]``, or ``[size, *1, heads]`` unless expanded.
        Raises:
            ValueError: more of them than an int64 can number.
        """
        tables = layout_tables(self.masks.layout, self.masks.device)
        tables.check_numbered()
        actions = tables.decode(torch.arange(tables.size, device=self.masks.device))
        actions = actions.view(tables.size, *[1] * len(self.batch_shape), -1)
        return actions.expand(-1, *self.batch_shape, -1) if expand else actions

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same distribution for more rows, in a batch shape to which this one's broadcasts.

        Raises:
            ValueError: a shape to which it does not.
        """
        batch = torch.Size(batch_shape)
        masks, active = self.masks.expand(batch), None if self.active is None else self.active.expand(batch)
        return self._derive(self._logits.map(lambda t: t.expand(*batch, -1)), masks, active)

    def __getitem__(self, index: Any) -> Self:
        """Some of the rows: any index of the batch axes.

        Raises:
            IndexError: more axes than the batch has, or out of range.
        """
        masks, active = self.masks.at(index), None if self.active is None else self.active[index]
        return self._derive(self._logits.map(lambda t: t[before_last(index)]), masks, active)

    def _zero_ignored_heads(self, values: Tensor) -> Tensor:
        return values if self._ignored is None else values.masked_fill(self._ignored.unsqueeze(-1), 0)

    def __repr__(self) -> str:
        heads = ", ".join(f"{head.name}: {head.size}" for head in self.masks.layout.heads)
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, heads=({heads}))"


def _kl(p: FactoredCategorical, q: FactoredCategorical) -> Tensor:
    """KL(p || q) of whole actions in nats, ``[...]``: +inf only where q lacks p's support; 0 for ignored rows."""
    if p.masks.layout is not q.masks.layout and p.masks.layout != q.masks.layout:
        raise ValueError(f"p and q have other heads, ops or slots: {p!r}, {q!r}")
    if p.batch_shape != q.batch_shape:
        raise ValueError(f"p has batch {tuple(p.batch_shape)}, q {tuple(q.batch_shape)}; expand one of them")
    by_op = tuple(sorted({*p._logits.by_op, *q._logits.by_op}))
    ours, theirs = (slot_wise_heads(dist._logits.by_slot, dist.masks.dynamic) for dist in (p, q))
    by_slot = tuple(sorted({*p._logits.by_slot, *q._logits.by_slot, *ours ^ theirs}))
    p, q = (dist._derive(dist._logits.given(by_op, by_slot), dist.masks, dist.active) for dist in (p, q))  # same draws
    divergence = p._form.divergence(q._form)
    for ignored in (p._ignored, q._ignored):
        divergence = divergence if ignored is None else divergence.masked_fill(ignored, 0)
    return divergence


register_kl(FactoredCategorical, FactoredCategorical)(_kl)  # type: ignore[no-untyped-call]  # torch has no types here
