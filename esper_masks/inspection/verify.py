"""Does every way of computing the masks of a rule set agree, and is the set what its author means?

Two passes over each setting of the switches, with an engine and the loops of ``reference`` side by side. The first
judges every op and every head with choices by slot by itself, in the environments of ``trials``: there is the reason
why they are enough. It takes for granted that an engine reads of a state what the oracle reads. The second does not:
whole environments, with values far beyond those of the rules, other numbers of slots, head masks and constraints, are
drawn at random and compared in full, with heads, whole actions, what these lead to, and explanations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from esper_masks import reference
from esper_masks.inspection.lint import lint
from esper_masks.inspection.subjects import Slots, Subject, as_row, build_slots, subjects_of, tried_values
from esper_masks.inspection.trials import Environments, Trials
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.reference.explain import explain
from esper_masks.rules import MaskRules
from esper_masks.rules.names import BY_SLOT, INT32, OP, SLOT, SLOT_BY_OP

FAR_SLOTS = 5  # of an environment that is drawn at random, or more where there are more kinds
FAR = (INT32[0], -7, 77, INT32[-1])  # what no rule speaks of
FAR_ENVIRONMENTS = 300  # of each round
CLOSELY = 20  # of them, with whole actions and explanations
CHUNK = 1 << 13  # environments at a time

Progress = Callable[[float, int], None]  # settings of the switches done, and in all


@dataclass
class Verification:
    """What ``verify`` found.

    Args:
        rules: name of the rules.
        notes: what the author may not have meant; no error.
        settings: combinations of rule switches that are done.
        environments: environments compared, over all settings.
        verdicts: times the oracle judged an op in a slot, or the choices of a head.
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


@dataclass
class _Judged:
    """The environments of a subject, and what the oracle says of each: bool ``[environments, n]``."""

    trials: Trials
    verdicts: Tensor


def verify(
    rules: MaskRules,
    progress: Progress = lambda done, of: None,
    *,
    engine: Callable[..., MaskEngine] = MaskEngine,
    chunk: int = CHUNK,
) -> Verification:
    """Lint a rule set, and compare engine, whole actions, explanations and oracle.

    Args:
        rules: a rule set, switches and all.
        progress: called as the work goes on.
        engine: what makes the engine that is compared.
        chunk: environments at a time.
    """
    result = Verification(rules.name, lint(rules))
    settings = list(product(*rules.switches.values()))
    slots = build_slots(rules, subjects_of(rules))  # whatever switches waive: enough for each setting
    judged: dict[str, _Judged] = {}  # settings share the verdicts of what they do not change
    try:
        for values in settings:
            switches: dict[str, Any] = dict(zip(rules.switches, values))
            where = ", ".join(f"{name}={value!r}" for name, value in switches.items())
            comparison = _Comparison(rules.resolve(**switches), engine, slots, result, f"{where}: " if where else "")

            def advance(part: float) -> None:
                progress(result.settings + part, len(settings))

            comparison.each_by_itself(judged, chunk, advance)
            comparison.at_random()
            result.settings += 1
            advance(0)
    except KeyboardInterrupt:
        result.interrupted = True
    return result


class _Comparison:
    """One setting of the switches; differences go into the result as they are found."""

    def __init__(
        self,
        rules: MaskRules,
        engine: Callable[..., MaskEngine],
        slots: Slots,
        result: Verification,
        where: str,
    ):
        self.rules, self.make, self.result, self.where, self.kinds = rules, engine, result, where, set[str]()
        self.subjects, self.tried = subjects_of(rules), tried_values(rules)
        # the rules say whether there is a limit: an engine that has lost it would say that there is none
        self.limited = any(op.seed_limit for op in rules.op_rules)
        self.slots = slots
        self.open: list[Trials] = []  # with an environment in which the subject is legal

    def made(self, slots: Slots) -> MaskEngine:
        """The engine that is compared."""
        return self.make(self.rules, slots.ids, **({"kinds": slots.kinds} if self.rules.kinds else {}))

    def found(self, kind: str, place: str) -> None:
        if kind not in self.kinds:
            self.kinds.add(kind)
            self.result.disagreements.append(f"{self.where}{kind}: disagreement at {place}")

    # -- each subject by itself ---------------------------------------------------------------------------------------

    def each_by_itself(self, judged: dict[str, _Judged], chunk: int, advance: Callable[[float], None]) -> None:
        engine, chosen = self.made(self.slots), dict[str, tuple[Sequence[int], int]]()
        for done, subject in enumerate(self.subjects):

            def step(part: float, done: int = done) -> None:
                advance((done + part) / len(self.subjects))

            key = repr((subject.name, subject.guards, sorted(subject.legal), subject.heads, subject.op))
            if key not in judged:
                trials = Trials(subject, self.slots, self.tried, chosen)
                judged[key] = _Judged(trials, self._judge(trials, chunk, lambda part: step(part / 2)))
            trials = judged[key].trials
            if trials.open is None:
                self._never_legal(subject)
            else:
                self.open.append(trials)
            for head in subject.heads if subject.op is None else ():
                chosen[head.name] = trials.held() if trials.open is not None else ((-1,) * len(trials.names), 0)
            self._compare(engine, judged[key], chunk, lambda part: step((1 + part) / 2))

    def _never_legal(self, subject: Subject) -> None:
        note = f"{subject.name} is legal in nothing that verify tried"
        if subject.legal and not (subject.op is not None and subject.op.disabled) and note not in self.result.notes:
            self.result.notes.append(note)

    def _judge(self, trials: Trials, chunk: int, step: Callable[[float], None]) -> Tensor:
        verdicts = []
        for rows in torch.split(trials.rows, chunk):
            verdicts += [trials.subject.judge(one, slot) for one, slot in trials.situations(rows)]
            step(len(verdicts) / len(trials.rows))
        self.result.verdicts += len(verdicts)
        return torch.tensor(verdicts)

    def _compare(self, engine: MaskEngine, judged: _Judged, chunk: int, step: Callable[[float], None]) -> None:
        trials, done = judged.trials, 0
        for rows, wanted in zip(torch.split(trials.rows, chunk), torch.split(judged.verdicts, chunk)):
            environments = trials.environments(rows)
            for limit in sorted(set(environments.limits[:, 1].tolist())):
                here = (environments.limits[:, 1] == limit).nonzero().squeeze(-1)
                some = Environments(*(_at(part, here) for part in environments))
                masks = engine(some.states, max_seeds=limit, **_inputs(some))
                wrong = (trials.subject.computed(masks, some.where) != wanted[here]).any(-1)
                for env in wrong.nonzero()[:1].flatten().tolist():
                    self.found(f"{trials.subject.name} in slot {engine.slot_ids[some.where[env]]}", _place(some, env))
            done += len(rows)
            self.result.environments += len(rows)
            step(done / len(trials.rows))

    # -- whole environments at random ---------------------------------------------------------------------------------

    def at_random(self) -> None:
        """More slots, a limit and enabled slots of each environment, and values far from those of the rules."""
        groups = len(self.slots.groups)
        count = max(FAR_SLOTS, groups + 2, groups * (len(self.slots.groups[0]) - 2))  # enough for what is counted
        members = {
            kind: tuple(f"far{at}" for at in range(count) if kind in self.slots.kinds_of[at % groups])
            for kind in self.rules.kinds
        }
        far = Slots(tuple(f"far{at}" for at in range(count)), members, (), ())
        engine, generator = self.made(far), torch.Generator().manual_seed(0)
        for given in self._rounds(count, generator):
            states = self._states(count, generator)
            totals = _drawn((0, 1, 2, 5, FAR[-1]), (FAR_ENVIRONMENTS,), generator)
            limits = _drawn((-1, 0, 1, 3, 70_000), (FAR_ENVIRONMENTS,), generator)
            given = {"max_seeds": limits if self.limited else 0, **given, **self._rows(generator)}
            masks = engine(states, totals, **given)
            expected = reference.masks(self.rules, states, totals, kinds=far.numbers, **given)
            self._heads(masks, expected, states)
            few = {
                name: value if isinstance(value, int) else _at(value, slice(CLOSELY)) for name, value in given.items()
            }
            self._whole_actions(engine, states[:CLOSELY], totals[:CLOSELY], few, expected)
            self._explained(engine, states, totals, given, expected, far)
            self.result.environments += len(states)

    def _rounds(self, slots: int, generator: torch.Generator) -> Iterator[dict[str, Any]]:
        """What is given beside the states of each round."""
        yield {}
        yield {"enabled": _drawn((0, 1, 1), (FAR_ENVIRONMENTS, slots), generator).bool()}
        alone = {name for op in self.rules.op_rules if SLOT not in op.uses for name in op.uses}
        sizes = {head.name: len(head.choices) or slots for head in self.rules.heads if head.name not in (SLOT, OP)}
        by_head = {name: (size,) if name in alone else (slots, size) for name, size in sizes.items()}
        by_name = {name if len(shape) == 1 else f"{name}{BY_SLOT}": shape for name, shape in by_head.items()}
        by_name |= {SLOT_BY_OP: (len(self.rules.op_rules), slots), SLOT: (slots,)}
        for what, shapes in (("head_masks", by_head), ("restrict", by_name)):
            yield {
                what: {
                    name: _drawn((0, 1, 1, 1), (FAR_ENVIRONMENTS, *shape), generator).bool()
                    for name, shape in shapes.items()
                }
            }

    def _states(self, slots: int, generator: torch.Generator) -> Tensor:
        """Slots at random, and as many in which something is legal, but for one column."""
        shape, names = (FAR_ENVIRONMENTS, slots), self.rules.feature_names
        columns = [_drawn((*self.tried[name], *FAR), shape, generator) for name in names]
        states = torch.stack(columns, -1)
        if self.open:
            held = torch.tensor([trials.held()[0] for trials in self.open], dtype=torch.int32)
            likely = held[torch.randint(len(held), shape, generator=generator)]
            column = torch.randint(len(names), shape, generator=generator)
            own = _drawn((0, 0, 1), shape, generator).bool().unsqueeze(-1) & (
                torch.arange(len(names)) == column.unsqueeze(-1)
            )
            likely = torch.where(own, states, likely)
            states = torch.where(_drawn((0, 1), shape, generator).bool().unsqueeze(-1), likely, states)
        return states

    def _rows(self, generator: torch.Generator) -> dict[str, Any]:
        rows = {
            name: _drawn(self.tried[as_row(name)], (FAR_ENVIRONMENTS,), generator) for name in self.rules.row_features
        }
        return {"row": rows} if rows else {}

    def _heads(self, masks: ActionMasks, expected: dict[str, list[Any]], states: Tensor) -> None:
        for name, wanted in expected.items():
            if name in self.rules.head_names:
                kind, ours = f"head {name}", masks[name]
            elif name == SLOT_BY_OP:
                kind, ours = name, masks.slot_by_op
            else:
                kind, ours = name, masks.by_slot(name.removesuffix(BY_SLOT))
            for env in (ours != torch.tensor(wanted)).flatten(1).any(-1).nonzero()[:1].flatten().tolist():
                self.found(kind, f"{states[env].tolist()}")

    def _whole_actions(
        self, engine: MaskEngine, states: Tensor, totals: Tensor, given: dict[str, Any], expected: dict[str, list[Any]]
    ) -> None:
        of_env = [{name: values[env] for name, values in expected.items()} for env in range(len(states))]
        wanted = torch.tensor([reference.joint_mask(self.rules, one, states.shape[1]) for one in of_env])
        masks = engine(states, totals, **given)
        if not torch.equal(masks.joint(), wanted):
            self.found("whole actions", "states at random")
        if not torch.equal(masks.count().long(), wanted.sum(-1)):
            self.found("number of whole actions", "states at random")
        actions = list(reference.joint_actions(self.rules, states.shape[1]))
        each = torch.tensor(actions).unsqueeze(1).expand(-1, len(states), -1)
        after, legal = engine.successors(states, each, totals, **given)
        lead_to = states.expand_as(after).clone()
        for env, at in wanted.nonzero().tolist():
            lead_to[at, env] = torch.tensor(reference.after(self.rules, states[env].tolist(), actions[at]))
        wrong = (after != lead_to).flatten(2).any(-1) | (legal != wanted.T)
        for at, env in wrong.nonzero()[:1].tolist():
            self.found("successors", f"{states[env].tolist()}, action {actions[at]}")

    def _explained(
        self,
        engine: MaskEngine,
        states: Tensor,
        totals: Tensor,
        given: dict[str, Any],
        expected: dict[str, list[Any]],
        slots: Slots,
    ) -> None:
        for env in range(CLOSELY):
            one = {name: _one(value, env) for name, value in given.items()}
            own = explain(
                self.rules, states[env].tolist(), slots.ids, total_seeds=int(totals[env]), kinds=slots.numbers, **one
            )
            told = engine.explain(states, env, totals, **given)
            for kind, explanation in (("explain", own), ("engine.explain", told)):
                if [explanation.legal(op) for op in explanation.ops] != expected[OP][env]:
                    self.found(kind, f"{states[env].tolist()}")


def _inputs(some: Environments) -> dict[str, Any]:
    """What an engine takes beside states and a limit."""
    return {"total_seeds": some.limits[:, 0], "enabled": some.enabled, **({"row": some.row} if some.row else {})}


def _at(part: Any, here: Any) -> Any:
    return {name: values[here] for name, values in part.items()} if isinstance(part, dict) else part[here]


def _one(value: Any, env: int) -> Any:
    """What one environment has of a batch, in plain Python."""
    if isinstance(value, dict):
        return {name: _one(one, env) for name, one in value.items()}
    return value[env].tolist() if isinstance(value, Tensor) else value


def _drawn(values: Sequence[int], shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)[torch.randint(len(values), tuple(shape), generator=generator)]


def _place(some: Environments, env: int) -> str:
    """An environment in words."""
    row = "".join(f", {name} {int(values[env])}" for name, values in some.row.items())
    total, limit = some.limits[env].tolist()
    return f"{some.states[env].tolist()}, enabled {some.enabled[env].tolist()}, {total} seeds of {limit}{row}"
