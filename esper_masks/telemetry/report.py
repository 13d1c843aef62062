"""What an audit found: counts, findings, and their two printed forms."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from esper_masks.rules import MaskRules
from esper_masks.rulesets import ruleset, rulesets

MAX_NAMES = 1000  # distinct names kept by a counter; a hostile log must not fill the memory
OTHER_NAMES = "(other names)"


class NameCounter(Counter[str]):
    """Counts by name, with bounded memory."""

    def add(self, name: str) -> None:
        self[name if name in self or len(self) < MAX_NAMES else OTHER_NAMES] += 1


@dataclass(frozen=True)
class Finding:
    file: str
    line: int
    environment: int | None
    slot: str | None
    seed: str | None
    what: str
    why: str

    def __str__(self) -> str:
        place = " ".join(part for part in (self.seed, self.slot) if part is not None)
        return f"{self.file}:{self.line}: {place + ': ' if place else ''}{self.what}: {self.why}"


@dataclass
class Report:
    """Counts over all files read so far, and up to ``max_findings`` findings of each kind.

    ``row_unknown`` counts ops some of whose guards read values of the environment, which logs do not have. Those guards
    were passed over; the op was judged by the others.
    ``unknown_stages`` counts stage changes into a stage that the rules do not have. ``not_judged`` names the gates that
    a log has no data for.
    """

    rules: MaskRules
    max_findings: int
    files: int = 0
    lines: int = 0
    malformed: int = 0
    seeds: int = 0
    episodes: int = 0
    transitions: int = 0
    ops: NameCounter = field(default_factory=NameCounter)
    illegal: NameCounter = field(default_factory=NameCounter)
    illegal_transitions: NameCounter = field(default_factory=NameCounter)
    unknown_stages: NameCounter = field(default_factory=NameCounter)
    age_unknown: int = 0
    row_unknown: int = 0
    disagreements: int = 0
    outcomes_out_of_place: int = 0
    not_judged: tuple[str, ...] = ()
    other_events: NameCounter = field(default_factory=NameCounter)
    findings: list[Finding] = field(default_factory=list)
    findings_omitted: int = 0
    interrupted: bool = False
    _kept: Counter[str] = field(default_factory=Counter)

    def add_finding(self, kind: str, finding: Finding) -> None:
        """Keep a finding, unless there are many of its kind: a flood of one kind must not hide the others."""
        self._kept[kind] += 1
        if self._kept[kind] <= self.max_findings:
            self.findings.append(finding)
        else:
            self.findings_omitted += 1

    @property
    def illegal_events(self) -> int:
        """Illegal ops and illegal transitions."""
        return sum(self.illegal.values()) + sum(self.illegal_transitions.values())

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON-able object."""
        counts = {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
            if name not in ("rules", "max_findings", "findings", "_kept")
        }
        return {"rules": self.rules.name, **counts, "findings": [asdict(finding) for finding in self.findings]}

    def print(self, console: Console) -> None:
        """Every finding, then the summary. The console must not interpret markup: names come from the log."""
        for finding in self.findings:
            print(finding, file=console.file)
        if self.findings_omitted:
            print(f"... and {self.findings_omitted:,} more findings", file=console.file)
        if self.findings:
            print(file=console.file)
        console.print(f"replay under {self.rules.name}")
        table = Table(Column(overflow="fold"), Column(justify="right"), show_header=False, box=None)
        for name in ("files", "lines", "malformed", "seeds", "episodes", "transitions"):
            table.add_row(name + (" lines" if name == "malformed" else ""), f"{getattr(self, name):,}")
        for name, count in self.other_events.most_common(8):
            table.add_row(f"  not about slots: {name}", f"{count:,}")
        if len(self.other_events) > 8:
            table.add_row("  not about slots: further types", f"{len(self.other_events) - 8:,}")
        for renderable in (table, "", self._verdicts(), *self._remarks()):
            console.print(renderable)

    def _verdicts(self) -> Table:
        counts = [Column(name, justify="right") for name in ("events", "illegal")]
        table = Table(Column("judged", overflow="fold"), *counts)
        for op in self.rules.op_names:
            if op in self.ops:
                table.add_row(op, f"{self.ops[op]:,}", f"{self.illegal[op]:,}")
        plain = self.transitions - sum(self.ops[op] for op in self.ops if op != "GERMINATE")
        table.add_row("other transitions", f"{plain:,}", f"{sum(self.illegal_transitions.values()):,}")
        for name, count in self.illegal_transitions.most_common(12):
            table.add_row(f"  {name}", "", f"{count:,}")
        return table

    def _remarks(self) -> list[str]:
        """Sentences about what a reader should not miss."""
        illegal, unknown, astray = self.illegal_events, self.unknown_stages, self.outcomes_out_of_place
        names = ", ".join(f"{name} ({count:,})" for name, count in unknown.most_common(8))
        fitting = next((name for name in rulesets() if set(unknown) <= set(ruleset(name).stages.__members__)), None)
        remarks: list[tuple[object, str]] = [
            (not self.ops and not self.transitions, "No lifecycle event was found: is this an event log?"),
            (unknown, f"Stages that {self.rules.name} does not have: {names}."),
            (unknown and fitting, f"Another rule set has them: --rules {fitting}"),
            (self.age_unknown, f"Age unknown for {self.age_unknown:,} ops; they were let through the age gate."),
            (
                self.row_unknown,
                f"Values of the environment unknown for {self.row_unknown:,} ops; guards of these were passed over.",
            ),
            (self.not_judged, f"Not judged, because logs do not tell them: {', '.join(self.not_judged)}."),
            (self.malformed, f"{self.malformed:,} lines could not be read."),
            (astray, f"{astray:,} outcomes came without the stage change they belong to."),
            (self.disagreements, f"The log disagrees with the tracked state on {self.disagreements:,} stage changes."),
            (self.interrupted, "Interrupted: these are the figures up to that point."),
            (True, f"{illegal:,} illegal." if illegal else "Nothing illegal."),
        ]
        return [remark for applies, remark in remarks if applies]
