"""Judge every op and every transition of a log against a rule set.

The state of each slot is tracked from the events before; what the log itself claims of it is compared, not believed.
Ops are collected with a snapshot of their environment and judged in batches by the engine.
"""

from dataclasses import dataclass, field, replace
from typing import BinaryIO

import torch

from esper_masks import reference
from esper_masks.engine import MaskEngine
from esper_masks.rules import MaskRules, Op
from esper_masks.telemetry.events import Germinated, Malformed, Other, Outcome, StageChanged, read_events
from esper_masks.telemetry.report import Finding, Report

BATCH_CELLS = 1 << 15  # slots in one batch of judgements
NO_STAGE = -1  # a stage that the rules do not have
UNKNOWN_AGE = 2**31 - 1  # passes every gate
CLEARED = ("CULLED", "PRUNED")  # logs do not record the clearing that follows; the slot counts as empty


@dataclass
class SlotTrack:
    """What the events so far say of one slot."""

    index: int  # among the slots of its environment
    stage: str
    logged: str = ""  # the stage the last event named, which a cleared slot no longer has
    seed: str | None = None
    line: int = 0  # of the last event
    outcome_due: str | None = None  # stage whose outcome event may follow
    waiting: "Judgement | None" = None  # an op that waits for its age


@dataclass
class EnvTrack:
    """What the events so far say of one environment; its first event, whatever it is, opens its first episode."""

    last_number: int = -1
    slots: dict[str, SlotTrack] = field(default_factory=dict)


@dataclass
class Judgement:
    """An op and the environment it was taken in."""

    op: Op
    rows: list[list[int]]  # stage, age, features of every slot
    slot: int
    finding: Finding  # what to report if it is illegal, but for the reason
    stage: str


class Replay:
    """Reads logs one after another into one report.

    Args:
        rules: the rule set to judge by; its switches are left at their defaults.
        max_findings: findings kept; more are only counted.
    """

    def __init__(self, rules: MaskRules, max_findings: int = 10_000):
        self.rules = _without_features(rules.resolve())
        self.report = Report(rules, max_findings)
        self._stages = {stage.name: stage for stage in rules.stages}
        self._entering = {op.enters.name: op for op in self.rules.op_rules if op.enters is not None}
        self._empty = rules.empty.name
        self._engines: dict[int, MaskEngine] = {}
        self._batch: list[Judgement] = []
        self._cells = 0
        self._envs: dict[int, EnvTrack] = {}
        self._file = ""
        self._line = 0
        self._first_finding = 0  # of the current file

    def read(self, stream: BinaryIO, name: str) -> None:
        """Replay one log. Environments of different files are different environments."""
        self._file, self._line, self._envs = name, 0, {}
        self._first_finding = len(self.report.findings)
        self.report.files += 1
        for self._line, event in enumerate(read_events(stream), start=1):
            self.report.lines += 1
            match event:
                case Germinated():
                    self._germinated(event)
                case StageChanged():
                    self._stage_changed(event)
                case Outcome():
                    self._outcome(event)
                case Other():
                    self.report.other_events.add(event.event_type)
                case Malformed():
                    self.report.malformed += 1
                    self._found(None, None, None, "malformed line", event.reason)
        self.finish()

    def finish(self) -> Report:
        """Judge what is still waiting and put the findings in order."""
        for env in self._envs.values():
            for slot in env.slots.values():
                self._release(slot, None)
        self._judge_batch()
        of_this_file = self.report.findings[self._first_finding :]
        self.report.findings[self._first_finding :] = sorted(of_this_file, key=lambda finding: finding.line)
        return self.report

    # -- events -------------------------------------------------------------------------------------------------------

    def _germinated(self, event: Germinated) -> None:
        env = self._env(event.env)
        self.report.seeds += 1
        if event.number <= env.last_number:
            self.report.episodes += 1
            for slot in env.slots.values():
                self._release(slot, None)
                slot.stage, slot.seed = self._empty, None
        env.last_number = event.number
        slot = self._slot(env, event.slot)
        self._release(slot, None)
        if (op := self._entering.get("GERMINATED")) is not None:
            self._submit(self._judgement(op, env, slot, event.env, event.slot, event.seed))
        self._move(slot, "GERMINATED", event.seed)

    def _stage_changed(self, event: StageChanged) -> None:
        env = self._env(event.env)
        slot = self._slot(env, event.slot)
        self._release(slot, None)
        self.report.transitions += 1
        if event.target not in self._stages:
            self.report.unknown_stages.add(event.target)
        if event.source != slot.stage:
            self._disagree(event, f"the event says from {event.source}, the slot is {self._history(slot)}")
        elif slot.seed is not None and event.seed != slot.seed:
            self._disagree(event, f"the slot is {self._history(slot)}")
        op = self._entering.get(event.target)
        if op is not None and event.target != "GERMINATED":
            slot.waiting = self._judgement(op, env, slot, event.env, event.slot, event.seed)
        else:
            self._judge_transition(event, slot)
        self._move(slot, event.target, event.seed)
        slot.outcome_due = event.target

    def _outcome(self, event: Outcome) -> None:
        env = self._env(event.env)
        slot = self._slot(env, event.slot)
        if slot.outcome_due == event.stage and slot.seed == event.seed:
            self._release(slot, event.age)
        else:
            why = f"no stage change of this seed into {event.stage} came before; the slot is {self._history(slot)}"
            self._found(event.env, event.slot, event.seed, f"{event.stage} out of place", why)
        slot.outcome_due = None

    # -- tracking -----------------------------------------------------------------------------------------------------

    def _env(self, env_id: int) -> EnvTrack:
        if env_id not in self._envs:
            self._envs[env_id] = EnvTrack()
            self.report.episodes += 1
        return self._envs[env_id]

    def _slot(self, env: EnvTrack, slot_id: str) -> SlotTrack:
        return env.slots.setdefault(slot_id, SlotTrack(len(env.slots), self._empty))

    def _move(self, slot: SlotTrack, stage: str, seed: str) -> None:
        slot.stage = self._empty if stage in CLEARED else stage
        slot.logged, slot.seed, slot.line, slot.outcome_due = stage, seed, self._line, None

    def _history(self, slot: SlotTrack) -> str:
        if slot.seed is None:
            return f"{slot.stage}: no seed has germinated in it in this episode"
        if slot.logged in CLEARED:
            return f"{slot.stage} since {slot.seed} was {slot.logged} in line {slot.line}"
        return f"{slot.stage} since line {slot.line} ({slot.seed})"

    def _disagree(self, event: StageChanged, why: str) -> None:
        self.report.disagreements += 1
        self._found(event.env, event.slot, event.seed, "log and tracked state disagree", why)

    def _found(self, env: int | None, slot: str | None, seed: str | None, what: str, why: str) -> None:
        self.report.add_finding(Finding(self._file, self._line, env, slot, seed, what, why))

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
        self._found(event.env, event.slot, event.seed, f"illegal transition {name}", why)

    def _judgement(self, op: Op, env: EnvTrack, slot: SlotTrack, env_id: int, slot_id: str, seed: str) -> Judgement:
        self.report.ops.add(op.name)
        padding = [0] * (len(self.rules.feature_names) - 2)
        rows = [[int(self._stages.get(s.stage, NO_STAGE)), UNKNOWN_AGE, *padding] for s in env.slots.values()]
        finding = Finding(self._file, self._line, env_id, slot_id, seed, f"illegal {op.name}", "")
        return Judgement(op, rows, slot.index, finding, slot.stage)

    def _release(self, slot: SlotTrack, age: int | None) -> None:
        """Judge the op that waits for its age, with the age or without."""
        judgement, slot.waiting = slot.waiting, None
        if judgement is None:
            return
        if age is None:
            self.report.age_unknown += 1
        else:
            judgement.rows[slot.index][1] = min(age, UNKNOWN_AGE)
        self._submit(judgement)

    def _submit(self, judgement: Judgement) -> None:
        self._batch.append(judgement)
        self._cells += len(judgement.rows)
        if self._cells >= BATCH_CELLS:
            self._judge_batch()

    def _judge_batch(self) -> None:
        by_width: dict[int, list[Judgement]] = {}
        for judgement in self._batch:
            by_width.setdefault(len(judgement.rows), []).append(judgement)
        illegal: list[Judgement] = []
        for width, group in by_width.items():
            words = self._engine(width)(torch.tensor([j.rows for j in group], dtype=torch.int32)).slot_words
            chosen = words[torch.arange(len(group)), torch.tensor([j.slot for j in group])]
            legal = (chosen >> torch.tensor([int(j.op.id) for j in group])) & 1
            illegal.extend(judgement for judgement, ok in zip(group, legal.tolist()) if not ok)
        self._batch, self._cells = [], 0  # only now: an interrupt during the work above loses nothing
        for judgement in illegal:
            self._report_illegal(judgement)

    def _engine(self, width: int) -> MaskEngine:
        if width not in self._engines:
            self._engines[width] = MaskEngine(self.rules, [f"slot {i}" for i in range(width)])
        return self._engines[width]

    def _report_illegal(self, judgement: Judgement) -> None:
        why = reference.forbids(self.rules, judgement.op, judgement.rows, judgement.slot) or "forbidden"
        if judgement.stage not in self._stages:
            why = f"the slot is {judgement.stage}, which is no stage of {self.rules.name}"
        self.report.illegal.add(judgement.op.name)
        self.report.add_finding(Finding(**{**vars(judgement.finding), "why": why}))


def _without_features(rules: MaskRules) -> MaskRules:
    """The rules less the gates on features that logs do not tell; what is not known is not held against an op."""
    return replace(rules, op_rules=tuple(replace(op, requires={}) for op in rules.op_rules))
