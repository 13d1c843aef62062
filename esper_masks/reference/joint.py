"""The oracle of the policy: the distribution of whole actions in one environment, by enumeration.

It follows the definition and no derivation: probabilities are products along an action, and what is said of the whole
is a sum over all whole actions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from esper_masks.reference import policy
from esper_masks.reference.lifecycle import Action, joint_actions
from esper_masks.reference.policy import Floats, Mask
from esper_masks.reference.situation import canonical_value, permitted
from esper_masks.rules import Head, MaskRules, Op
from esper_masks.rules.names import BY_SLOT, OP, SLOT, SLOT_BY_OP

Row = tuple[Floats, Mask]  # logits, and which of them count
Context = dict[str, Row]  # head -> its row


class Joint:
    """The distribution of whole actions in one environment.

    The op is drawn first, under ``masks["op"]``; then the slot, if the op uses it, from ``masks["slot_by_op"][op]``;
    then any other head that the op uses, from what the rules permit under that op and ``masks[head]`` or, for a head
    with choices by slot, ``masks["NAME_by_slot"][slot]`` allows. A head that the op ignores takes its canonical value
    and adds nothing.

    Args:
        rules: resolved rules.
        masks: what ``reference.masks`` gives for the environment, restricted further or not.
        logits: head -> n floats or, for any head but the op, ops × n floats, of which the rows of illegal ops are never
            looked at; for the heads of ``by_slot`` slots × n floats, of which the rows of slots that no legal op may
            take are never looked at.
        min_prob: the floor of each head, a number or head -> number; none for None and for a head that is not in it.
        by_slot: heads with a row of logits for each slot.

    Attributes:
        contexts: legal op -> head that it uses, ``op`` among them -> its logits and its mask under that op; without
            the heads whose row depends on the slot.
        slot_contexts: legal op and slot -> head that it uses and whose row depends on the slot -> the same.
        faults: the heads without probabilities in some context where they are evaluated: under each legal op that
            uses them or, where the row depends on the slot, each legal pair of op and slot; and for a head with one row
            and one mask, other than the slot, also under its plain mask. Only ``legal`` works in an environment at
            fault; the rest raises ValueError.

    Raises:
        ValueError: heads or sizes that are not those of the rules, or a ``min_prob`` that is not in [0, 1).
    """

    def __init__(
        self,
        rules: MaskRules,
        masks: Mapping[str, Any],
        logits: Mapping[str, Sequence[Any]],
        *,
        min_prob: float | Mapping[str, float | None] | None = 0.0,
        by_slot: Sequence[str] = (),
    ):
        self.rules, self.masks, self.logits = rules, masks, logits
        names = rules.head_names
        floors = min_prob if isinstance(min_prob, Mapping) else dict.fromkeys(names, min_prob)
        if set(logits) != set(names) or not set(floors) <= set(names):
            raise ValueError(f"logits of {list(logits)} and min_prob of {list(floors)}; the heads are {list(names)}")
        self.min_prob = {name: floors.get(name) for name in names}
        self.per_slot = set(by_slot)
        if not self.per_slot <= set(names) - {SLOT, OP}:
            raise ValueError(f"logits by slot of {sorted(by_slot)}; there may be some of any head but slot and op")
        rows = {name for name in names if any(isinstance(row, Sequence) for row in logits[name])}
        self.per_op = rows - self.per_slot
        if OP in self.per_op or any(len(logits[name]) != len(rules.op_rules) for name in self.per_op):
            raise ValueError(
                f"heads with a row of logits an op: {sorted(self.per_op)}; wanted {rules.op_names}, not op"
            )
        if any(name not in rows or len(logits[name]) != len(masks[SLOT]) for name in self.per_slot):
            raise ValueError(f"heads with a row of logits a slot: {sorted(by_slot)}; wanted {len(masks[SLOT])} rows")
        for name in names:
            for row in logits[name] if name in rows else [logits[name]]:
                policy.check_row(row, masks[name], self.min_prob[name])
        self.slotted = {name for name in names if name in self.per_slot or f"{name}{BY_SLOT}" in masks}
        legal = [op for op in rules.op_rules if masks[OP][op.id]]
        self.contexts: dict[int, Context] = {
            int(op.id): {
                head.name: self._row(head, op) for head in rules.heads if head.name in {OP, *op.uses} - self.slotted
            }
            for op in legal
        }
        self.slot_contexts: dict[tuple[int, int], Context] = {
            (int(op.id), slot): {
                head.name: self._slot_row(head, op, slot)
                for head in rules.heads
                if head.name in {*op.uses} & self.slotted
            }
            for op in legal
            for slot, on in enumerate(masks[SLOT_BY_OP][op.id])
            if on and SLOT in op.uses
        }
        self.faults = {
            name for name in names if any(policy.probabilities(*row) is None for row in self._evaluated(name))
        }

    def _row(self, head: Head, op: Op) -> Row:
        """Logits and mask of a head once the op is drawn."""
        logits, plain = self.logits[head.name], self.masks[head.name]
        if head.name == OP:
            return logits, plain
        if head.name in self.per_op:
            logits = logits[op.id]
        if head.name == SLOT:
            return logits, self.masks[SLOT_BY_OP][op.id]
        return logits, self._under(head, op, plain)

    def _slot_row(self, head: Head, op: Op, slot: int) -> Row:
        """Logits and mask of a head once op and slot are drawn."""
        logits, by_slot = self.logits[head.name], self.masks.get(f"{head.name}{BY_SLOT}")
        if head.name in self.per_op | self.per_slot:
            logits = logits[slot if head.name in self.per_slot else op.id]
        return logits, self._under(head, op, self.masks[head.name] if by_slot is None else by_slot[slot])

    @staticmethod
    def _under(head: Head, op: Op, mask: Mask) -> Mask:
        """The choices of a mask that the rules permit to an op."""
        own = permitted(head, op, len(mask))
        return [on and choice in own for choice, on in enumerate(mask)]

    def _given(self, name: str) -> list[Row]:
        """The rows of a head, one for each legal op that uses it, or for each legal pair of op and slot."""
        contexts = [*self.contexts.values(), *self.slot_contexts.values()]
        return [context[name] for context in contexts if name in context]

    def _evaluated(self, name: str) -> list[Row]:
        """Every row of a head that needs probabilities."""
        if name == SLOT or name in self.per_op | self.slotted:
            return self._given(name)
        return [(self.logits[name], self.masks[name]), *self._given(name)]

    def _check_faults(self) -> None:
        if self.faults:
            raise ValueError(f"the environment has no policy: the heads at fault are {', '.join(sorted(self.faults))}")

    def _of(self, values: Mapping[str, int]) -> Context:
        """The rows of the heads of an action, as far as its op and its slot are legal."""
        op = values[OP]
        return {**self.contexts.get(op, {}), **self.slot_contexts.get((op, values[SLOT]), {})}

    def _probabilities(self, context: Context) -> dict[str, list[float]]:
        return {name: policy.probabilities(*row, min_prob=self.min_prob[name]) or [] for name, row in context.items()}

    @cached_property
    def conditionals(self) -> dict[int, dict[str, list[float]]]:
        """Legal op -> head of its context -> its probabilities once that op is drawn."""
        self._check_faults()
        return {op: self._probabilities(context) for op, context in self.contexts.items()}

    @cached_property
    def slot_conditionals(self) -> dict[tuple[int, int], dict[str, list[float]]]:
        """Legal op and slot -> head of its context -> its probabilities once both are drawn."""
        self._check_faults()
        return {pair: self._probabilities(context) for pair, context in self.slot_contexts.items()}

    def legal(self, action: Sequence[int]) -> bool:
        """Whether the op is legal and, under it, the value of every head it uses; the others may hold anything."""
        values = dict(zip(self.rules.head_names, action, strict=True))
        context = self._of(values)
        return bool(context) and all(
            0 <= values[name] < len(on) and on[values[name]] for name, (_, on) in context.items()
        )

    def actions(self) -> dict[Action, float]:
        """Every legal whole action and its probability, in the order of ``joint_actions``."""
        self._check_faults()
        names = self.rules.head_names
        result = {}
        for action in filter(self.legal, joint_actions(self.rules, len(self.masks[SLOT]))):
            values = dict(zip(names, action))
            op, slot = values[OP], values[SLOT]
            conditionals = {**self.conditionals[op], **self.slot_conditionals.get((op, slot), {})}
            result[action] = math.prod(p[values[name]] for name, p in conditionals.items())
        return result

    def head_log_probs(self, action: Sequence[int]) -> list[float]:
        """Logarithm of each head's share in the probability of an action, 0 for a head that the op ignores.

        An illegal value has -inf. Under an op that is not legal the op has it, and the other heads have 0; in a slot
        that is not legal the slot has it, and the heads whose row depends on the slot have 0.
        """
        self._check_faults()
        values = dict(zip(self.rules.head_names, action, strict=True))
        context = self._of(values) or {OP: (self.logits[OP], self.masks[OP])}
        shares = {
            name: policy.log_probability(logits, mask, values[name], min_prob=self.min_prob[name])
            for name, (logits, mask) in context.items()
        }
        return [shares.get(name, 0.0) for name in values]

    def log_prob(self, action: Sequence[int]) -> float:
        """Logarithm of the probability of an action, whatever the heads hold that the op ignores; -inf if illegal."""
        return sum(self.head_log_probs(action))

    def raw_entropy(self) -> float:
        """Entropy in nats of the distribution of whole actions."""
        return policy.raw_entropy(list(self.actions().values()))

    def entropy(self) -> float:
        """The same over the logarithm of the number of legal whole actions."""
        p = list(self.actions().values())
        return policy.entropy(p, len(p))

    def head_entropies(self) -> list[float]:
        """Normalized entropy of each head on its own, before the floor, in head order.

        A head with one row of logits is taken under its plain mask, the slot under the slots that any legal op may
        take. With a row an op: the mean over the legal ops that use the head. Where the row depends on the slot: the
        mean over the legal pairs of op and slot that use the head. 0 where there is nothing to take.
        """
        self._check_faults()
        result = []
        for name in self.rules.head_names:
            if name in self.slotted or name in self.per_op:
                rows = self._given(name)
            elif name == SLOT:
                masks = [mask for _, mask in self._given(SLOT)]
                rows = [(self.logits[SLOT], [any(column) for column in zip(*masks)])] if masks else []
            else:
                rows = [(self.logits[name], self.masks[name])]
            values = [policy.entropy(policy.probabilities(logits, mask) or [], sum(mask)) for logits, mask in rows]
            result.append(sum(values) / len(values) if values else 0.0)
        return result

    def sample(self, noise: Sequence[float]) -> list[int]:
        """An action from one uniform in [0, 1] a head, in head order: the op's decides first."""
        uniform = dict(zip(self.rules.head_names, noise, strict=True))
        return self._choose(lambda name, p: policy.sample(p, uniform[name]))

    def edge_distances(self, noise: Sequence[float]) -> list[float]:
        """How far each head's noise is from where ``sample`` changes its value; +inf for a head that the op ignores."""
        names = self.rules.head_names
        values = dict(zip(names, self.sample(noise)))
        op, slot = values[OP], values[SLOT]
        given = {**self.conditionals[op], **self.slot_conditionals.get((op, slot), {})}
        return [policy.edge_distance(given[name], u) if name in given else math.inf for name, u in zip(names, noise)]

    def mode(self) -> list[int]:
        """The op's most likely value, then that of each head it uses: not always the most likely whole action."""
        return self._choose(lambda name, p: policy.mode(p))

    def _choose(self, pick: Callable[[str, Floats], int]) -> list[int]:
        first, *_ = self.conditionals.values()  # the op's own row is the same under every op
        op = pick(OP, first[OP])
        chosen = {name: pick(name, p) for name, p in self.conditionals[op].items()}
        in_slot = self.slot_conditionals.get((op, chosen.get(SLOT, -1)), {})
        chosen |= {name: pick(name, p) for name, p in in_slot.items()}
        return [chosen[head.name] if head.name in chosen else canonical_value(head) for head in self.rules.heads]


def joint_kl(p: Joint, q: Joint) -> float:
    """Divergence of q from p in nats, summed over whole actions; +inf where p may take one that q never takes.

    Log-probs are compared, so that what q takes once in exp(1000) times counts 1000 and not infinity.

    Raises:
        ValueError: either has no policy, or their heads differ.
    """
    if p.rules.head_names != q.rules.head_names:
        raise ValueError(f"heads {p.rules.head_names} and {q.rules.head_names} have no divergence")
    q_log_probs = {action: q.log_prob(action) for action in q.actions()}
    return sum(
        share * (p.log_prob(action) - q_log_probs.get(action, -math.inf))
        for action, share in p.actions().items()
        if share > 0
    )
