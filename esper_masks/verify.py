"""Is a rule set what its author means, and does every way of computing its masks agree?

Two slots are enough for all. What is legal in a slot depends on its own features, on the environment's totals, and on
the other slots only through "some enabled slot is in a blocking stage": one other slot in every state says all that any
number of others can. The op mask is an OR over slots, and OR does not care how many or in which order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from esper_masks import reference
from esper_masks.engine import MaskEngine
from esper_masks.explain import explain
from esper_masks.masks import ActionMasks
from esper_masks.rule_checks import INT32, OP
from esper_masks.rules import MaskRules

SEEDS = ((1, 2), (2, 2), (3, 2), (3, 0))
SLOTS = ("a", "b")
CHUNK = 1 << 18  # environments at a time

Progress = Callable[[int, int], None]  # settings done, settings in all


@dataclass
class Verification:
    """What ``verify`` found.

    Args:
        rules: name of the rules.
        notes: what the author may not have meant; no error.
        settings: combinations of rule switches.
        environments: environments compared, over all settings.
        verdicts: times the oracle judged an op in a slot.
        disagreements: the first difference of each kind.
        interrupted: stopped before the end.
    """

    rules: str
    notes: list[str]
    settings: int = 0
    environments: int = 0
    verdicts: int = 0
    disagreements: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def agrees(self) -> bool:
        return not self.disagreements

    def to_json(self) -> dict[str, Any]:
        """What ``esper-masks verify --json`` prints."""
        return asdict(self) | {"agrees": self.agrees}


def lint(rules: MaskRules) -> list[str]:
    """What the author of rules may not have meant. Rules that contradict themselves are refused when they are made."""
    notes = []
    reached, frontier = {rules.empty}, [rules.empty]
    while frontier:
        following = [stage for stage in rules.transitions[frontier.pop()] if stage not in reached]
        reached.update(following)
        frontier += following
    for stage in rules.stages:
        if stage not in reached:
            notes.append(f"stage {stage.name} is never reached from {rules.empty.name}")
        elif not any(stage in rules.legal_stages(op.id) for op in rules.op_rules if not op.always):
            onward = ", ".join(to.name for to in rules.transitions[stage])
            after = f"it moves on by itself to {onward}" if onward else "it never ends"
            notes.append(f"stage {stage.name}: no op acts in it; {after}")
    for op in rules.op_rules:
        if op.disabled or (not op.always and not rules.legal_stages(op.id) & reached):
            notes.append(f"op {op.name} never becomes legal")
    used = {name for op in rules.op_rules for name in op.uses}
    notes += [f"head {head.name} is used by no op" for head in rules.heads if head.name not in used | {OP}]
    return notes


def slot_space(rules: MaskRules) -> Tensor:
    """Everything that one slot can be: int32 ``[rows, features]``.

    Every stage and every integer between and beside them × every age threshold and its neighbours × every value of
    every feature and its neighbours.
    """
    stages = range(-1, max(rules.stages) + 2)
    ages = _neighbours(op.min_age for op in rules.op_rules if op.min_age is not None)
    features = [_neighbours(map(int, values)) for values in rules.features.values()]
    return torch.tensor(list(product(stages, ages or [0], *features)), dtype=torch.int32)


def _neighbours(values: Iterable[int]) -> list[int]:
    return sorted({near for value in values for near in (value - 1, value, value + 1) if near in INT32})


def seed_space(rules: MaskRules) -> Sequence[tuple[int, int]]:
    """Total and limit: below, at, above, and without one."""
    return SEEDS if any(op.seed_limit for op in rules.op_rules) else ((0, 0),)


def verify(rules: MaskRules, progress: Progress = lambda done, of: None) -> Verification:
    """Lint a rule set, and compare engine, whole actions, explanations and oracle over all that two slots can be.

    The oracle judges every state of a slot beside every stage of the other (it looks at nothing else of another slot,
    see ``reference.forbids``); the engine computes every pair in full.

    Args:
        rules: a rule set, switches and all.
        progress: called after each setting of the switches.
    """
    result = Verification(rules.name, lint(rules))
    settings = list(product(*rules.switches.values()))
    judged: dict[str, Tensor] = {}  # settings that only change heads share the oracle's verdicts
    try:
        for values in settings:
            switches: dict[str, Any] = dict(zip(rules.switches, values))
            engine = MaskEngine(rules, SLOTS, **switches)
            key = repr(engine.rules.op_rules)
            if key not in judged:
                judged[key] = _judge(engine.rules, result)
            found = _compare(engine, judged[key], result)
            where = ", ".join(f"{name}={value!r}" for name, value in zip(rules.switches, values))
            result.disagreements += [f"{where + ': ' if where else ''}{line}" for line in found]
            result.settings += 1
            progress(result.settings, len(settings))
    except KeyboardInterrupt:
        result.interrupted = True
    return result


def _judge(rules: MaskRules, result: Verification) -> Tensor:
    """The oracle's verdicts: bool ``[seeds, rows, others, enabled, other enabled, ops]``; explanations must agree.

    The other slot holds each stage in turn, with age and features 0.
    """
    rows, seeds = slot_space(rules), seed_space(rules)
    stages = sorted({row[0] for row in rows.tolist()})
    others = [[stage, *[0] * (rows.shape[1] - 1)] for stage in stages]
    verdicts = []
    for (total, limit), row, other in product(seeds, rows.tolist(), others):
        for enabled in product((False, True), repeat=2):
            slots = [row, other]
            reasons = explain(rules, slots, SLOTS, enabled=enabled, total_seeds=total, max_seeds=limit).reasons
            verdicts.append([own is None for own, _ in reasons])
    result.verdicts += len(verdicts) * len(rules.op_rules)
    return torch.tensor(verdicts).view(len(seeds), len(rows), len(others), 2, 2, len(rules.op_rules))


def _compare(engine: MaskEngine, verdicts: Tensor, result: Verification) -> list[str]:
    """The first difference of each kind under one setting of the switches."""
    rules = engine.rules
    rows, both = slot_space(rules), torch.arange(2)
    stage_at = rows[:, 0].long() - int(rows[:, 0].min())  # place of a row's stage among the others
    found: dict[str, str] = {}
    seen: set[tuple[int, ...]] = set()
    for first_rows in torch.split(torch.arange(len(rows)), max(1, CHUNK // (4 * len(rows)))):
        pairs = torch.cartesian_prod(first_rows, torch.arange(len(rows)), both, both)
        first, second, on_first, on_second = pairs.unbind(-1)
        states, enabled = rows[pairs[:, :2]], pairs[:, 2:].bool()
        for at, (total, limit) in enumerate(seed_space(rules)):
            totals = torch.full((len(pairs),), total, dtype=torch.int32)
            masks = engine(states, totals, max_seeds=limit, enabled=enabled)
            own = verdicts[at, first, stage_at[second], on_first, on_second]
            other = verdicts[at, second, stage_at[first], on_second, on_first]
            wrong = (masks.slot_by_op != torch.stack([own, other], -1)).nonzero()
            if len(wrong):
                env, op, slot = wrong[0].tolist()
                name = rules.op_rules[op].name
                found.setdefault(
                    name,
                    f"{name} in slot {SLOTS[slot]} of {states[env].tolist()}, enabled {enabled[env].tolist()}, "
                    f"{total} seeds of {limit}: engine and oracle disagree",
                )
            result.environments += len(pairs)
            words = torch.cat([masks.slot_words, masks.op_words.unsqueeze(-1), enabled.int()], -1)
            for key, env in zip(*_first_of_each(words)):
                if tuple(key) not in seen:  # heads and whole actions follow from the words: once for each
                    seen.add(tuple(key))
                    for kind, line in _compare_heads(rules, masks.select(env), enabled[env].tolist()):
                        found.setdefault(kind, line)
    return list(found.values())


def _first_of_each(words: Tensor) -> tuple[list[list[int]], list[int]]:
    """Distinct rows, and where each occurs first."""
    distinct, place = torch.unique(words, dim=0, return_inverse=True)
    index = torch.arange(len(words))
    first = torch.full((len(distinct),), len(words)).scatter_reduce(0, place, index, "amin")
    return distinct.tolist(), first.tolist()


def _compare_heads(rules: MaskRules, masks: ActionMasks, enabled: Sequence[bool]) -> Iterator[tuple[str, str]]:
    """What differs, and where."""
    expected = reference.head_masks(rules, masks.slot_by_op.tolist(), enabled)
    joint = reference.joint_mask(rules, expected, len(SLOTS))
    same = {f"head {name}": masks[name].tolist() == expected[name] for name in rules.head_names}
    same["whole actions"] = masks.joint().tolist() == joint
    same["number of whole actions"] = int(masks.count()) == sum(joint)
    for kind, equal in same.items():
        if not equal:
            yield kind, f"{kind}: engine and oracle disagree where slots have words {masks.slot_words.tolist()}"
