"""Whole actions of one row by enumeration, from layout and masks alone: for layouts that no rules have made.

It follows the definition: the op, the slot given the op, every other head given op and slot.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from esper_masks.actions.layout import ActionLayout, HeadLayout
from esper_masks.reference import policy
from tests.helpers import assert_near

Action = tuple[int, ...]
PENDING, READY = 0, 1  # what a pod may be


class Row:
    """The distribution of whole actions in one row.

    Args:
        masks: of one row, without leading axes.
        logits: head -> ``[n]``; ``[ops, n]``, or ``[slots, n]`` for the heads ``by_slot``.
        by_slot: names of heads.
        floors: head -> least probability of a legal choice.
    """

    def __init__(
        self,
        masks: em.ActionMasks,
        logits: Mapping[str, Any],
        by_slot: Sequence[str] = (),
        floors: Mapping[str, float | None] | None = None,
    ):
        self.layout, self.logits, self.floors = masks.layout, logits, floors or {}
        self.names, self.by_slot = masks.layout.head_names, by_slot
        self.has_op, self.slots = "op" in self.names, len(masks.layout.slot_ids)
        self.legal_ops = masks["op"].tolist() if self.has_op else [True]
        self.pairs = masks.slot_by_op.tolist() if self.slots else []
        others = [name for name in self.names if name not in ("slot", "op")]
        self.slot_wise = {
            name for name in others if name in by_slot or (self.layout.position(name), True) in masks.dynamic
        }
        self.own = {name: self._choices(masks, name) for name in others}  # choices[slot] of a head
        self.plain = {name: masks[name].tolist() for name in self.names}
        self._probs: dict[tuple[str, int, int], list[float]] = {}
        self.faults = self._faults()

    def _choices(self, masks: em.ActionMasks, name: str) -> list[list[bool]]:
        if self.slots:
            rows: list[list[bool]] = masks.by_slot(name).tolist()
            return rows
        return [masks[name].tolist()]

    def mask(self, name: str, op: int, slot: int) -> list[bool]:
        """Choices of a head once op and slot are known."""
        if name == "op":
            return list(self.legal_ops)
        if name == "slot":
            return list(self.pairs[op])
        permitted = self.layout.head(name).by_op[op]
        return [on and choice in permitted for choice, on in enumerate(self.own[name][slot])]

    def row(self, name: str, op: int, slot: int) -> tuple[list[float], list[bool]]:
        values = self.logits[name]
        if name in self.by_slot:
            values = values[slot]
        elif isinstance(values[0], list):
            values = values[op]
        return values, self.mask(name, op, slot)

    def probs(self, name: str, op: int, slot: int) -> list[float]:
        if (name, op, slot) not in self._probs:
            found = policy.probabilities(*self.row(name, op, slot), min_prob=self.floors.get(name))
            assert found is not None
            self._probs[name, op, slot] = found
        return self._probs[name, op, slot]

    def used(self, op: int) -> list[str]:
        """Heads in the order in which they are drawn."""
        heads = [head.name for head in self.layout.heads if head.users >> op & 1 and head.name not in ("slot", "op")]
        return ["op"] * self.has_op + ["slot"] * self.uses_slot(op) + heads

    def uses_slot(self, op: int) -> bool:
        return bool(self.slots) and bool(self.layout.slot_users >> op & 1)

    def contexts(self, name: str) -> list[tuple[int, int]]:
        """Legal ops, or pairs of op and slot, under which a head is drawn."""
        found = []
        for op, legal in enumerate(self.legal_ops):
            if legal and (self.layout.head(name).users >> op & 1 or name == "op"):
                slots = [s for s in range(self.slots) if self.pairs[op][s]] if name in self.slot_wise else [0]
                found += [(op, slot) for slot in slots]
        return found

    def _faults(self) -> set[str]:
        faults = set()
        for name in self.names:
            rows = [self.row(name, *context) for context in self.contexts(name)]
            if name == "op":
                rows = [(self.logits["op"], list(self.legal_ops))]
            elif name != "slot" and name not in self.slot_wise and not isinstance(self.logits[name][0], list):
                rows.append((self.logits[name], self.plain[name]))
            if any(policy.probabilities(*row) is None for row in rows):
                faults.add(name)
        return faults

    def log_prob(self, name: str, op: int, slot: int, choice: int) -> float:
        return policy.log_probability(*self.row(name, op, slot), choice, min_prob=self.floors.get(name))

    def actions(self) -> dict[Action, float]:
        """Every legal whole action and its log-probability."""
        result = {}
        for op, legal in enumerate(self.legal_ops):
            if not legal:
                continue
            free = [range(h.size) if h.users >> op & 1 and h.name != "op" else [h.canonical] for h in self.layout.heads]
            for values in product(*free):
                chosen = {**dict(zip(self.names, values)), **({"op": op} if self.has_op else {})}
                slot = chosen["slot"] if self.uses_slot(op) else 0
                parts = []
                for name in self.used(op):
                    on = self.mask(name, op, slot)[chosen[name]]
                    if not on:
                        break
                    parts.append(self.log_prob(name, op, slot, chosen[name]))
                else:
                    result[tuple(chosen[name] for name in self.names)] = sum(parts)
        return result

    def choose(self, pick: Callable[[str, list[float]], int]) -> tuple[Action, dict[str, list[float]]]:
        """An action, head by head, and the probabilities that its heads were picked from."""
        chosen, op, slot, rows = {h.name: h.canonical for h in self.layout.heads}, 0, 0, {}
        if self.has_op:
            rows["op"] = self.probs("op", 0, 0)
            op = chosen["op"] = pick("op", rows["op"])
        for name in self.used(op)[self.has_op :]:
            rows[name] = self.probs(name, op, slot)
            chosen[name] = pick(name, rows[name])
            slot = chosen["slot"] if name == "slot" else slot
        return tuple(chosen[name] for name in self.names), rows

    def mode(self) -> Action:
        return self.choose(lambda name, p: policy.mode(p))[0]

    def sample(self, noise: Sequence[float]) -> tuple[Action, float]:
        """An action, and how near the noise is to giving another one."""
        uniform = dict(zip(self.names, noise))
        action, rows = self.choose(lambda name, p: policy.sample(p, uniform[name]))
        return action, min((policy.edge_distance(p, uniform[name]) for name, p in rows.items()), default=math.inf)

    def head_entropies(self) -> list[float]:
        result = []
        for name in self.names:
            contexts, logits = self.contexts(name), self.logits[name]
            rows = [self.row(name, *context) for context in contexts]
            if name in self.slot_wise or isinstance(logits[0], list):
                pass
            elif name == "op":
                rows = [(logits, list(self.legal_ops))]
            elif name == "slot":
                rows = [(logits, [any(column) for column in zip(*(mask for _, mask in rows))])] if rows else []
            else:
                rows = [(logits, self.plain[name])]
            each = [policy.entropy(policy.probabilities(*row) or [], sum(row[1])) for row in rows]
            result.append(sum(each) / len(each) if each else 0.0)
        return result


def divergence(p: Row, q: Row) -> float:
    theirs = q.actions()
    return sum(math.exp(x) * (x - theirs[a]) if a in theirs else math.inf for a, x in p.actions().items())


# -- layouts and masks of any make -------------------------------------------------------------------------------------


def head_of(name: str, size: int, uses: Mapping[int, Sequence[int]], ops: int, **fields: Any) -> HeadLayout:
    """A head whose mask depends on nothing but choice words and on what each op that uses it permits."""
    users = sum(1 << op for op in uses)
    canonical = fields.pop("canonical", 0)
    alike = len(set(map(tuple, uses.values()))) <= 1
    every = tuple(next(iter(uses.values()), range(size)))
    return HeadLayout(
        name=name,
        choices=tuple(f"{name}{c}" for c in range(size)),
        canonical=canonical,
        users=users,
        by_op=tuple(tuple(uses.get(op, (canonical,))) for op in range(ops)),
        openers=0 if alike else users,
        opened=tuple(() if alike else tuple(uses.get(op, ())) for op in range(ops)),
        closed=every if alike else (canonical,),
        **fields,
    )


def layout_of(ops: int, slots: int, uses_slot: Sequence[int], heads: Sequence[HeadLayout], at: int = 0) -> ActionLayout:
    """Op 0 is always legal and uses nothing; the slot stands at a place among the heads, the op last."""
    every = range(ops)
    slot = head_of("slot", slots, dict.fromkeys(uses_slot, tuple(range(slots))), ops)
    slot = HeadLayout(**{**vars(slot), "openers": 1, "opened": tuple(range(slots) if not op else () for op in every)})
    op = HeadLayout(
        name="op",
        choices=tuple(f"OP{op}" for op in every),
        canonical=0,
        users=(1 << ops) - 1,
        by_op=tuple((op,) for op in every),
        openers=(1 << ops) - 1,
        opened=tuple((op,) for op in every),
        closed=(),
    )
    return ActionLayout(
        ops=op.choices,
        slot_ids=slot.choices,
        heads=(*heads[:at], slot, *heads[at:], op),
        always=1,
        unconditional=1,
        possible=(1 << ops) - 1,
    )


def independent(sizes: Mapping[str, int]) -> ActionLayout:
    """A layout without ops and slots."""
    heads = tuple(head_of(name, size, {0: range(size)}, 1) for name, size in sizes.items())
    return ActionLayout(ops=("ACT",), slot_ids=(), heads=heads, always=1, unconditional=1, possible=1)


def cluster(pods: Sequence[Sequence[int]], room: Any, nodes: int = 3) -> tuple[em.ActionMasks, ActionLayout]:
    """WAIT; BIND a pending pod to a node with room for it; EVICT a ready one.

    Args:
        pods: of each row, what the slots hold.
        room: bool ``[batch, slots, nodes]``.
        nodes: how many nodes.
    """
    layout = layout_of(3, len(pods[0]), [1, 2], [head_of("node", nodes, {1: range(nodes)}, 3)])
    state = torch.tensor(pods)
    pairs = torch.stack([torch.ones_like(state, dtype=torch.bool), state == PENDING, state == READY], 1)
    ops, slots = torch.ones(len(pods), 3, dtype=torch.bool), torch.ones_like(pairs[:, 0])
    masks = em.ActionMasks.from_bools(layout, {"op": ops, "slot": slots, "node": torch.as_tensor(room)}, pairs)
    return masks, layout


def random_layout(rng: random.Random, ops: int | None = None) -> tuple[ActionLayout, list[str]]:
    """A layout of any make, and its heads that may depend on the slot."""
    ops, slots = ops or rng.randint(2, 5), rng.randint(1, 4)
    acting = [op for op in range(1, ops) if rng.random() < 0.8]
    heads, wide = [], []
    for number in range(rng.randint(1, 3)):
        size = rng.choice([1, 2, 3, 4]) if number else rng.choice([1, 2, 3, 35])
        in_slots = rng.random() < 0.7
        users = [op for op in (acting if in_slots else range(1, ops)) if rng.random() < 0.7]
        some = {op: sorted(rng.sample(range(size), rng.randint(1, size))) for op in users}
        if rng.random() < 0.5:
            some = dict.fromkeys(users, tuple(range(size)))
        wide += [f"h{number}"] * (in_slots and bool(users))
        heads.append(head_of(f"h{number}", size, some, ops, canonical=rng.randrange(size)))
    return layout_of(ops, slots, acting, heads, rng.randint(0, len(heads))), wide


def random_masks(
    rng: random.Random, layout: ActionLayout, wide: Sequence[str], batch: int, slot_wise: Sequence[str] | None = None
) -> em.ActionMasks:
    """Masks of any make, in some heads by slot: by default some of those that may depend on it."""
    seed = torch.Generator().manual_seed(rng.randrange(2**31))

    def some(*shape: int, share: float = 0.6) -> Tensor:
        return torch.rand(batch, *shape, generator=seed) < share

    given = {}
    for head in layout.heads:
        if head.name in (slot_wise if slot_wise is not None else [name for name in wide if rng.random() < 0.7]):
            given[head.name] = some(len(layout.slot_ids), head.size)
        elif head.name in ("slot", "op") or "op" not in layout.head_names or rng.random() < 0.4:
            given[head.name] = some(head.size, share=0.85)
    if "op" not in layout.head_names:
        return em.ActionMasks.from_bools(layout, given)
    given["op"][:, 0] = True
    return em.ActionMasks.from_bools(layout, given, some(len(layout.ops), len(layout.slot_ids)))


def random_logits(
    layout: ActionLayout, batch: Sequence[int], by_op: Sequence[str] = (), by_slot: Sequence[str] = (), seed: int = 0
) -> dict[str, Tensor]:
    generator, rows = torch.Generator().manual_seed(seed), {}
    for head in layout.heads:
        axes = (len(layout.ops),) if head.name in by_op else (len(layout.slot_ids),) if head.name in by_slot else ()
        rows[head.name] = torch.randn(*batch, *axes, head.size, generator=generator, dtype=torch.float64)
    return rows


def row_of(
    masks: em.ActionMasks,
    logits: Mapping[str, Tensor],
    env: int,
    by_slot: Sequence[str] = (),
    floors: Mapping[str, float | None] | None = None,
) -> Row:
    return Row(masks.select(env), {name: x[env].tolist() for name, x in logits.items()}, by_slot, floors)


def assert_equals_row(dist: em.FactoredCategorical, row: Row, env: int, noise: Tensor, drawn: Tensor) -> None:
    """Everything that one row gives, over every whole action."""
    names, one = row.names, dist[env]
    assert {names[h] for h in range(len(names)) if int(one.faults) >> h & 1} == row.faults
    every = one.enumerate_support()
    if row.faults:
        assert drawn[env].tolist() == one.mode.tolist() == [-1] * len(names)
        assert (one.log_prob(every) == 0).all()
        assert one.raw_entropy() == one.entropy() == one.head_entropies().sum() == 0
        return
    scores = row.actions()
    probs = [math.exp(score) for score in scores.values()]
    legal = [tuple(action) in scores for action in every.tolist()]
    assert len(probs) == sum(legal) == int(one.masks.count())  # each has a number
    assert one.legal(every).tolist() == legal
    expected = [scores.get(tuple(action), -math.inf) for action in every.tolist()]
    assert_near(one.log_prob(every), expected)
    assert_near(one.head_log_probs(every).sum(-1), expected)
    assert_near(one.raw_entropy(), policy.raw_entropy(probs))
    assert_near(one.entropy(), policy.entropy(probs, len(probs)))
    assert_near(one.head_entropies(), row.head_entropies())
    assert tuple(one.mode.tolist()) == row.mode()
    action, distance = row.sample(noise[env].tolist())
    if distance > 1e-9:
        assert tuple(drawn[env].tolist()) == action
