"""What the events read so far say of each environment and slot."""

from array import array
from dataclasses import dataclass, field

from esper_masks.rules import Op
from esper_masks.telemetry.report import Finding


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
    stages: "array[int]" = field(default_factory=lambda: array("i"))  # of the slots, in their order


@dataclass
class Judgement:
    """An op and the environment it was taken in."""

    op: Op
    stages: "array[int]"  # of every slot
    slot: int
    slot_ids: list[str]
    finding: Finding  # what to report if it is illegal, but for the reason
    stage: str
    age: int | None = None  # None: unknown
