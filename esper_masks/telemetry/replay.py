"""Judge every op and every transition of a log against a rule set.

The state of each slot is tracked from the events before; what the log itself claims of it is compared, not believed.
Ops are collected with a snapshot of their environment and judged in batches by the engine.
"""

from collections.abc import Iterator, Set
from dataclasses import replace
from functools import cache
from typing import BinaryIO

import torch

from esper_masks import reference
from esper_masks.masks.engine import MaskEngine
from esper_masks.rules import Count, Head, MaskRules, Op, SlotHead
from esper_masks.rules.combined import plain_guards
from esper_masks.rules.fields import FrozenMapping
from esper_masks.rules.gates import is_known, lift, parts_of
from esper_masks.rules.judged import Guard, reads
from esper_masks.rules.names import AGE, INT32, STAGE
from esper_masks.telemetry.events import Germinated, Malformed, Outcome, SeedEvent, StageChanged, clean, read_events
from esper_masks.telemetry.report import Finding, Report
from esper_masks.telemetry.tracks import EnvTrack, Judgement, SlotTrack

BATCH_CELLS = 1 << 15  # slots in one batch of judgements
MAX_SLOTS = 1024  # of one environment; a log that names more is not of this kind
NO_STAGE = -1  # a stage that the rules do not have
EMPTY_SLOTS = "empty slots"  # a log names a slot once a seed germinates in it
CLEARED = ("CULLED", "PRUNED")  # logs do not record the clearing that follows; the slot counts as empty


class Replay:
    """Reads logs one after another into one report.

    Args:
        rules: the rule set to judge by; its switches are left at their defaults.
        max_findings: findings of each kind that are kept; more are only counted.
    """

    def __init__(self, rules: MaskRules, max_findings: int = 10_000):
        resolved = rules.resolve()
        self.rules = _lift(resolved, {STAGE, AGE})
        self.ageless = _lift(resolved, {STAGE})  # judge the ops whose age is unknown
        self.report = Report(rules, max_findings, not_judged=_not_judged(resolved))
        self._least_slots = _least_slots(self.rules)
        self._of_rows = {op for what, _, op in _unknown(resolved) if what in rules.row_features}
        self._stages = {stage.name: stage for stage in rules.stages}
        self._entering = {op.enters.name: op for op in self.rules.op_rules if op.enters is not None}
        self._empty = rules.empty.name
        self._engine = cache(self._make_engine)
        self._batch: list[Judgement] = []
        self._cells = 0
        self._envs: dict[int, EnvTrack] = {}
        self._file = ""
        self._line = 0
        self._first_finding = 0  # of the current file

    def read(self, stream: BinaryIO, name: str) -> None:
        """Replay one log. Environments of different files are different environments."""
        self._file, self._line, self._envs = clean(name, 4096), 0, {}
        self._first_finding = len(self.report.findings)
        self.report.files += 1
        for self._line, event in enumerate(read_events(stream), start=1):
            self.report.lines += 1
            match event:
                case SeedEvent():
                    self._follow(event)
                case Malformed():
                    self._malformed(event.reason)
                case other:
                    self.report.other_events.add(other.event_type)
        self.finish()

    def finish(self) -> Report:
        """Judge what is still waiting and put the findings in order."""
        for env in self._envs.values():
            for slot in env.slots.values():
                self._release(slot)
        self._judge_batch()
        of_this_file = self.report.findings[self._first_finding :]
        self.report.findings[self._first_finding :] = sorted(of_this_file, key=lambda finding: finding.line)
        return self.report

    # -- events -------------------------------------------------------------------------------------------------------

    def _follow(self, event: SeedEvent) -> None:
        if (place := self._place(event)) is None:
            return
        match event:
            case Germinated():
                self._germinated(event, *place)
            case StageChanged():
                self._stage_changed(event, *place)
            case Outcome():
                self._outcome(event, *place)

    def _germinated(self, event: Germinated, env: EnvTrack, slot: SlotTrack) -> None:
        self.report.seeds += 1
        number = event.number
        assert number is not None  # checked when the line was parsed
        if number <= env.last_number:
            self.report.episodes += 1
            for other in env.slots.values():
                self._release(other)
                other.logged, other.seed = "", None
                self._set_stage(env, other, self._empty)
        env.last_number = number
        self._release(slot)
        if (op := self._entering.get("GERMINATED")) is not None:
            self._submit(self._judgement(op, env, slot, event))
        self._move(env, slot, "GERMINATED", event.seed)

    def _stage_changed(self, event: StageChanged, env: EnvTrack, slot: SlotTrack) -> None:
        self._release(slot)
        self.report.transitions += 1
        if slot.logged in CLEARED and event.source == slot.logged:
            self._set_stage(env, slot, slot.logged)  # this log does record the clearing
        if event.target not in self._stages:
            self.report.unknown_stages.add(event.target)
        if event.source != slot.stage:
            self._disagree(event, f"the event says from {event.source}, the slot is {self._history(slot)}")
        elif slot.seed is not None and event.seed != slot.seed:
            self._disagree(event, f"the slot is {self._history(slot)}")
        op = self._entering.get(event.target)
        if op is not None and event.target != "GERMINATED":
            slot.waiting = self._judgement(op, env, slot, event)
        else:
            self._judge_transition(event, slot)
        self._move(env, slot, event.target, event.seed)
        slot.outcome_due = event.target

    def _outcome(self, event: Outcome, env: EnvTrack, slot: SlotTrack) -> None:
        if slot.outcome_due == event.stage and slot.seed == event.seed:
            self._release(slot, event.age)
        else:
            self.report.outcomes_out_of_place += 1
            why = f"no stage change of this seed into {event.stage} came before; the slot is {self._history(slot)}"
            self._found("outcome", event, f"{event.stage} out of place", why)
        slot.outcome_due = None

    # -- tracking -----------------------------------------------------------------------------------------------------

    def _place(self, event: SeedEvent) -> tuple[EnvTrack, SlotTrack] | None:
        """Environment and slot of an event; None if the environment has too many slots."""
        if event.env not in self._envs:
            self._envs[event.env] = EnvTrack()
            self.report.episodes += 1
        env = self._envs[event.env]
        if event.slot not in env.slots:
            if len(env.slots) >= MAX_SLOTS:
                self._malformed(f"environment {event.env} has more than {MAX_SLOTS} slots")
                return None
            env.slots[event.slot] = SlotTrack(len(env.slots), self._empty)
            env.stages.append(int(self._stages[self._empty]))
        if env.last_number < 0 and not isinstance(event, Germinated):  # the log begins in the middle of an episode
            env.last_number = max(env.last_number, event.number or 0)
        return env, env.slots[event.slot]

    def _set_stage(self, env: EnvTrack, slot: SlotTrack, stage: str) -> None:
        slot.stage = stage
        env.stages[slot.index] = int(self._stages.get(stage, NO_STAGE))

    def _move(self, env: EnvTrack, slot: SlotTrack, stage: str, seed: str) -> None:
        self._set_stage(env, slot, self._empty if stage in CLEARED else stage)
        slot.logged, slot.seed, slot.line, slot.outcome_due = stage, seed, self._line, None

    def _history(self, slot: SlotTrack) -> str:
        if slot.seed is None:
            return f"{slot.stage}: no seed has germinated in it in this episode"
        if slot.logged in CLEARED:
            return f"{slot.stage} since {slot.seed} was {slot.logged} in line {slot.line}"
        return f"{slot.stage} since line {slot.line} ({slot.seed})"

    def _disagree(self, event: StageChanged, why: str) -> None:
        self.report.disagreements += 1
        self._found("disagreement", event, "log and tracked state disagree", why)

    def _malformed(self, reason: str) -> None:
        self.report.malformed += 1
        finding = Finding(self._file, self._line, None, None, None, "malformed line", reason)
        self.report.add_finding("malformed", finding)

    def _found(self, kind: str, event: SeedEvent, what: str, why: str) -> None:
        self.report.add_finding(kind, self._finding(event, what, why))

    def _finding(self, event: SeedEvent, what: str, why: str = "") -> Finding:
        return Finding(self._file, self._line, event.env, event.slot, event.seed, what, why)

    # -- judging ------------------------------------------------------------------------------------------------------

    def _judge_transition(self, event: StageChanged, slot: SlotTrack) -> None:
        source, target = self._stages.get(slot.stage), self._stages.get(event.target)
        if source is not None and target is not None and target in self.rules.transitions[source]:
            return
        name = f"{slot.stage}->{event.target}"
        self.report.illegal_transitions.add(name)
        if source is None or target is None:
            why = f"{self.rules.name} has no stage {slot.stage if source is None else event.target}"
        else:
            permitted = ", ".join(stage.name for stage in self.rules.transitions[source]) or "nothing"
            why = f"{slot.stage} may go to {permitted}; the slot is {self._history(slot)}"
        self._found("transition", event, f"illegal transition {name}", why)

    def _judgement(self, op: Op, env: EnvTrack, slot: SlotTrack, event: SeedEvent) -> Judgement:
        self.report.ops.add(op.name)
        finding = self._finding(event, f"illegal {op.name}")
        return Judgement(op, env.stages[:], slot.index, list(env.slots), finding, slot.stage)

    def _release(self, slot: SlotTrack, age: int | None = None) -> None:
        """Judge the op that waits for its age, with the age or without."""
        judgement, slot.waiting = slot.waiting, None
        if judgement is None:
            return
        if age is None:
            self.report.age_unknown += 1
        else:
            judgement.age = min(age, INT32[-1])
        self._submit(judgement)

    def _submit(self, judgement: Judgement) -> None:
        self.report.row_unknown += judgement.op.name in self._of_rows
        self._batch.append(judgement)
        self._cells += max(len(judgement.stages), self._least_slots)
        if self._cells >= BATCH_CELLS:
            self._judge_batch()

    def _judge_batch(self) -> None:
        groups: dict[tuple[int, bool], list[Judgement]] = {}
        for judgement in self._batch:
            width = 1 << (max(len(judgement.stages), self._least_slots) - 1).bit_length()  # few widths, few engines
            groups.setdefault((width, judgement.age is None), []).append(judgement)
        illegal: list[Judgement] = []
        for (width, ageless), group in groups.items():
            engine, each = self._engine(width, ageless), torch.arange(len(group))
            slots = torch.tensor([judgement.slot for judgement in group])
            states = engine.empty_slots(len(group))
            there = torch.zeros(states.shape[:-1], dtype=torch.bool)
            for i, judgement in enumerate(group):
                states[i, : len(judgement.stages), 0] = torch.frombuffer(judgement.stages, dtype=torch.int32)
                there[i, : len(judgement.stages)] = True
            states[each, slots, 1] = torch.tensor([judgement.age or 0 for judgement in group], dtype=torch.int32)
            legal = (
                engine(states, enabled=there).slot_words[each, slots] >> torch.tensor([int(j.op.id) for j in group]) & 1
            )
            illegal.extend(judgement for judgement, ok in zip(group, legal.tolist()) if not ok)
        self._batch, self._cells = [], 0  # only now: an interrupt during the work above loses nothing
        for judgement in illegal:
            self._report_illegal(judgement)

    def _make_engine(self, width: int, ageless: bool) -> MaskEngine:
        return MaskEngine(self.ageless if ageless else self.rules, [f"slot {i}" for i in range(width)])

    def _report_illegal(self, judgement: Judgement) -> None:
        rules = self.ageless if judgement.age is None else self.rules
        rows = [[stage, judgement.age or 0, *[0] * len(rules.features)] for stage in judgement.stages]
        op = rules.op_rules[judgement.op.id]
        why = reference.forbids(rules, op, rows, judgement.slot, slot_ids=judgement.slot_ids)
        if judgement.stage not in self._stages:
            why = f"the slot is {judgement.stage}, which is no stage of {self.rules.name}"
        self.report.illegal.add(judgement.op.name)
        self.report.add_finding("op", replace(judgement.finding, why=why or "forbidden"))


def _lift(rules: MaskRules, known: Set[str]) -> MaskRules:
    """The rules without what reads something that is not known: that is not held against an op.

    Of the slots beside the one that is judged, no more than the stage is known; and of those that a log has not named,
    which are empty if they are there, not even whether they are.
    """
    lifted = [lift(op, scope, known) for op, scope in zip(rules.op_rules, rules.scopes)]
    ops = [
        replace(
            op,
            when=tuple(guard for guard in op.when if not _counts_empty(guard, rules)),
            uses=tuple(name for name in op.uses if not _may_be_empty(rules.head(name), rules)),
        )
        for op in lifted
    ]
    bare = [not (op.always or op.in_slot or op.when or op.uses) for op in ops]
    return replace(
        rules,
        op_rules=tuple(replace(op, disabled=op.disabled or alone) for op, alone in zip(ops, bare)),
        heads=tuple(_lift_head(rules, head) for head in rules.heads),
        kinds=FrozenMapping(),
    )


def _lift_head(rules: MaskRules, head: Head) -> Head:
    if isinstance(head, SlotHead):
        scope = rules.target_scopes[head.name]
        kept = (guard for guard in head.when if is_known(guard, scope, {STAGE}) and not _counts_empty(guard, rules))
        return replace(head, when=tuple(kept))
    return replace(head, by_feature=()) if head.by_feature else head


def _counts_empty(guard: Guard, rules: MaskRules) -> bool:
    """Whether a guard counts slots that are empty."""
    counts = (one for one in plain_guards((guard,)) if isinstance(one, Count))
    return any(rules.empty in count.stages for count in counts)


def _may_be_empty(head: Head, rules: MaskRules) -> bool:
    """Whether a second slot may be empty."""
    return isinstance(head, SlotHead) and rules.empty in rules.target_scopes[head.name].legal


def _least_slots(rules: MaskRules) -> int:
    """The slots of an engine that does not refuse the rules for what they count."""
    guards = [guard for _, own, _ in rules.judged() for guard in own if isinstance(guard, Count)]
    stages = (None, *rules.stages)
    return 1 + max((guard.bounds.ends(stage)[0] or 0 for guard in guards for stage in stages), default=0)


def _unknown(rules: MaskRules) -> Iterator[tuple[str, str, str]]:
    """What ops read and logs do not tell, by their gates and by the heads that they use: that, of what, of which op."""
    for op, part in parts_of(rules.op_rules, rules.scopes):
        yield from ((what, op.name, op.name) for what in sorted(reads(part) - {STAGE, AGE}))
    for op in rules.op_rules:
        if any(_counts_empty(guard, rules) for guard in op.when):
            yield EMPTY_SLOTS, op.name, op.name
        for head in (rules.head(name) for name in op.uses):
            where = f"{head.name} of {op.name}"
            yield from ((feature, where, op.name) for feature, _ in head.feature_choices)
            if isinstance(head, SlotHead):
                if _may_be_empty(head, rules) or any(_counts_empty(guard, rules) for guard in head.when):
                    yield EMPTY_SLOTS, where, op.name
                scope = rules.target_scopes[head.name]
                parts = [part for guard in head.when for part in guard.closes(scope)]
                yield from ((what, where, op.name) for part in parts for what in sorted(reads(part) - {STAGE}))


def _not_judged(rules: MaskRules) -> tuple[str, ...]:
    """The gates that logs tell nothing of."""
    return tuple(dict.fromkeys(f"{what} of {where}" for what, where, _ in _unknown(rules)))
