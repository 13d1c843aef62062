"""Is a rule set what its author means, and does every way of computing its masks agree?

Two slots are enough for all. What is legal in a slot depends on its own features, on the environment's totals, and on
the other slots only through "some enabled slot is in a blocking stage": one other slot in every state says all that any
number of others can. The op mask is an OR over slots, and OR does not care how many or in which order.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from esper_masks import reference
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.reference.explain import explain
from esper_masks.rules import MaskRules
from esper_masks.rules.gates import InSlot, gates_of
from esper_masks.rules.names import AGE, INT32, OP, STAGE

SLOTS = ("a", "b")
SEEDS = ((1, 2), (2, 2), (3, 2), (3, 0))  # so far, and their limit, on all sides of where it changes a verdict
FAR_SLOTS = tuple(f"far{i}" for i in range(5))
FAR = (INT32[0], -7, 77, INT32[-1])  # what no rule speaks of
FAR_ENVIRONMENTS = 300

Progress = Callable[[float, int], None]  # settings of the switches done, and in all


@dataclass
class Verification:
    """What ``verify`` found.

    Args:
        rules: name of the rules.
        notes: what the author may not have meant; no error.
        settings: combinations of rule switches that are done.
        environments: environments compared, over all settings.
        verdicts: times the oracle judged an op in a slot.
        disagreements: the first difference of each kind under each setting.
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
        """Everything was compared, and nothing differs."""
        return not self.disagreements and not self.interrupted

    def to_json(self) -> dict[str, Any]:
        """What ``esper-masks verify --json`` prints."""
        return asdict(self) | {"agrees": self.agrees}


def lint(rules: MaskRules) -> list[str]:
    """What the author of rules may not have meant. Rules that contradict themselves are refused when they are made."""
    notes = []
    reached = [rules.empty]
    for stage in reached:  # which grows on the way
        reached += [to for to in rules.transitions[stage] if to not in reached]
    for stage in rules.stages:
        if stage not in reached:
            notes.append(f"stage {stage.name} is never reached from {rules.empty.name}")
        elif not any(stage in rules.legal_stages(op.id) for op in rules.op_rules if not op.always):
            onward = ", ".join(to.name for to in rules.transitions[stage])
            after = f"it moves on by itself to {onward}" if onward else "it never ends"
            notes.append(f"stage {stage.name}: no op acts in it; {after}")
    for op in rules.op_rules:
        if rules.legal_stages(op.id).isdisjoint(reached):
            notes.append(f"op {op.name} never becomes legal")
    used = {name for op in rules.op_rules for name in op.uses}
    notes += [f"head {head.name} is used by no op" for head in rules.heads if head.name not in used | {OP}]
    return notes


def slot_space(rules: MaskRules) -> Tensor:
    """Everything that one slot can be: int32 ``[rows, features]``.

    Every stage, every value of a feature and every value that the engine compares one with, each with its neighbours.
    An engine that compares with a wrong value differs from the oracle there, and one that leaves a comparison out is
    likely to differ far beyond, where ``verify`` draws at random: the oracle need not say where its verdicts change.
    """
    values: dict[str, set[int]] = {STAGE: {*rules.stages}, AGE: set()}
    values |= {name: {*members} for name, members in rules.features.items()}
    for gate in gates_of(*rules.op_rules):
        for part in gate.closes():
            if isinstance(part, InSlot):
                values[part.reads].add(part.value)
    tried = [{int(value) + step for value in known for step in (-1, 0, 1)} for known in values.values()]
    rows = product(*(sorted(near for near in column if near in INT32) or [0] for column in tried))
    return torch.tensor(list(rows), dtype=torch.int32)


def verify(
    rules: MaskRules,
    progress: Progress = lambda done, of: None,
    *,
    engine: Callable[..., MaskEngine] = MaskEngine,
    chunk: int = 1 << 18,
) -> Verification:
    """Lint a rule set, and compare engine, whole actions, explanations and oracle.

    Over all that two slots can be the oracle judges every state of a slot beside every stage of the other (it looks at
    nothing else of another slot, see ``reference.forbids``); the engine computes every pair in full. Other numbers of
    slots, and values far beyond the rules', are drawn at random.

    Args:
        rules: a rule set, switches and all.
        progress: called as the work goes on.
        engine: what makes the engine that is compared.
        chunk: environments at a time.
    """
    result = Verification(rules.name, lint(rules))
    settings = list(product(*rules.switches.values()))
    judged: dict[str, Tensor] = {}  # settings that only change heads share the oracle's verdicts
    try:
        for values in settings:
            switches: dict[str, Any] = dict(zip(rules.switches, values))
            where = ", ".join(f"{name}={value!r}" for name, value in switches.items())
            comparison = _Comparison(engine(rules, SLOTS, **switches), result, where)

            def advance(part: float) -> None:
                progress(result.settings + part, len(settings))

            key = repr(comparison.rules.op_rules)
            if key not in judged:
                judged[key] = comparison.judge(lambda part: advance(part / 2))
            comparison.every_pair(judged[key], chunk, lambda part: advance(0.5 + part / 2))
            comparison.far_beyond(engine(rules, FAR_SLOTS, **switches))
            result.settings += 1
            advance(0)
    except KeyboardInterrupt:
        result.interrupted = True
    return result


class _Comparison:
    """One setting of the switches; differences go into the result as they are found."""

    def __init__(self, engine: MaskEngine, result: Verification, where: str):
        self.engine, self.rules, self.result = engine, engine.rules, result
        self.where, self.kinds = f"{where}: " if where else "", set[str]()
        self.rows = slot_space(self.rules)
        # the rules say whether there is a limit: an engine that has lost it would say that there is none
        self.seeds = SEEDS if any(op.seed_limit for op in self.rules.op_rules) else ((0, 0),)

    def found(self, kind: str, place: str) -> None:
        if kind not in self.kinds:
            self.kinds.add(kind)
            self.result.disagreements.append(f"{self.where}{kind}: disagreement at {place}")

    def judge(self, progress: Callable[[float], None]) -> Tensor:
        """The oracle's verdicts, bool ``[seeds, rows, others, enabled, other enabled, ops]``, as it explains them.

        The other slot holds each stage in turn, with age and features 0.
        """
        rules, rows, verdicts = self.rules, self.rows.tolist(), []
        others = [[stage, *[0] * (len(rows[0]) - 1)] for stage in sorted({row[0] for row in rows})]
        for at, ((total, limit), row) in enumerate(product(self.seeds, rows)):
            for other, enabled in product(others, product((False, True), repeat=2)):
                told = explain(rules, [row, other], SLOTS, enabled=enabled, total_seeds=total, max_seeds=limit)
                by_op = [[reason is None for reason in reasons] for reasons in told.reasons]
                verdicts.append([own for own, _ in by_op])
                if [told.legal(op) for op in told.ops] != reference.head_masks(rules, by_op, enabled)[OP]:
                    self.found("explain", f"{[row, other]}, enabled {enabled}, {total} seeds of {limit}")
            progress(at / (len(self.seeds) * len(rows)))
        self.result.verdicts += 2 * len(verdicts) * len(rules.op_rules)
        return torch.tensor(verdicts).view(len(self.seeds), len(rows), len(others), 2, 2, len(rules.op_rules))

    def every_pair(self, verdicts: Tensor, chunk: int, progress: Callable[[float], None]) -> None:
        """Words of every pair of slots; heads, whole actions and explanations follow from them, once for each word."""
        rows, both = self.rows, torch.arange(2)
        stage_at = torch.unique(rows[:, 0], return_inverse=True)[1]  # place of a row's stage among the others
        heads: dict[tuple[int, ...], dict[str, list[Any]]] = {}
        for first_rows in torch.split(torch.arange(len(rows)), max(1, chunk // (4 * len(rows)))):
            pairs = torch.cartesian_prod(first_rows, torch.arange(len(rows)), both, both)
            first, second, on_first, on_second = pairs.unbind(-1)
            states, enabled = rows[pairs[:, :2]], pairs[:, 2:].bool()
            for at, (total, limit) in enumerate(self.seeds):
                totals = torch.full((len(pairs),), total, dtype=torch.int32)
                masks = self.engine(states, totals, max_seeds=limit, enabled=enabled)
                own = verdicts[at, first, stage_at[second], on_first, on_second]
                other = verdicts[at, second, stage_at[first], on_second, on_first]
                for env, op, slot in (masks.slot_by_op != torch.stack([own, other], -1)).nonzero()[:1].tolist():
                    place = f"{states[env].tolist()}, enabled {enabled[env].tolist()}, {total} seeds of {limit}"
                    self.found(f"{self.rules.op_rules[op].name} in slot {SLOTS[slot]}", place)
                self.result.environments += len(pairs)
                words = torch.cat([masks.slot_words, masks.op_words.unsqueeze(-1), enabled.int()], -1)
                distinct, place_of, firsts = _distinct(words)
                for key, env in zip(distinct, firsts.tolist()):
                    if key not in heads:
                        by_op, on = masks.slot_by_op[env].tolist(), enabled[env].tolist()
                        one = heads[key] = reference.head_masks(self.rules, by_op, on)
                        one["joint"] = reference.joint_mask(self.rules, one, len(SLOTS))
                        told = self.engine.explain(states, env, totals, max_seeds=limit, enabled=enabled)
                        if [told.legal(op) for op in told.ops] != one[OP]:
                            self.found("engine.explain", f"{states[env].tolist()}, {total} seeds of {limit}")
                self._heads(masks, masks.select(firsts), [heads[key] for key in distinct], place_of)
            progress((int(first_rows[-1]) + 1) / len(rows))

    def _heads(self, masks: ActionMasks, distinct: ActionMasks, expected: list[dict[str, Any]], place: Tensor) -> None:
        """Heads of all environments, whole actions of those with distinct words."""
        wanted = {name: torch.tensor([one[name] for one in expected]) for name in expected[0]}
        pairs = {f"head {name}": (masks[name], wanted[name][place]) for name in self.rules.head_names}
        pairs["whole actions"] = (distinct.joint(), wanted["joint"])
        pairs["number of whole actions"] = (distinct.count().long(), wanted["joint"].sum(-1))
        for kind, (ours, theirs) in pairs.items():
            if not torch.equal(ours, theirs):
                self.found(kind, "the states of two slots")

    def far_beyond(self, engine: MaskEngine) -> None:
        """More slots, a limit and enabled slots of each environment, and values far from those of the rules."""
        generator = torch.Generator().manual_seed(0)
        shape = (FAR_ENVIRONMENTS, len(FAR_SLOTS))

        def drawn(values: Sequence[int], size: tuple[int, ...] = shape) -> Tensor:
            index = torch.randint(len(values), size, generator=generator)
            return torch.tensor(values, dtype=torch.int32)[index]

        columns = [[*column.unique().tolist(), *FAR] for column in self.rows.T]
        states = torch.stack([drawn(column) for column in columns], -1)
        totals, limits = (drawn(values, shape[:1]) for values in ((0, 1, 2, 5, FAR[-1]), (-1, 0, 1, 3, 70_000)))
        enabled = drawn((0, 1, 1)).bool()
        limit = limits if self.seeds is SEEDS else 0
        for on in (None, enabled):
            masks = engine(states, totals, max_seeds=limit, enabled=on)
            expected = reference.masks(self.rules, states, totals, max_seeds=limit, enabled=on)
            for name, wanted in expected.items():
                ours = masks.slot_by_op if name == "slot_by_op" else masks[name]
                for env in (ours != torch.tensor(wanted)).flatten(1).any(-1).nonzero()[:1].flatten().tolist():
                    self.found(f"{name} of {len(FAR_SLOTS)} slots", f"{states[env].tolist()}")
            self.result.environments += len(states)


def _distinct(words: Tensor) -> tuple[list[tuple[int, ...]], Tensor, Tensor]:
    """Distinct rows, which of them each row is, and where each occurs first."""
    distinct, place = torch.unique(words, dim=0, return_inverse=True)
    first = torch.full((len(distinct),), len(words)).scatter_reduce(0, place, torch.arange(len(words)), "amin")
    return [tuple(row) for row in distinct.tolist()], place, first
