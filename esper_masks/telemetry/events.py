"""Event logs of lifecycle runs: bytes in, lifecycle events out, every line accounted for.

One JSON object a line, with ``event_type``, ``seed_id`` (``env0_seed_2``), ``slot_id`` and ``data``:

    SEED_GERMINATED                 data: env_id; blueprint_id, params
    SEED_STAGE_CHANGED              data: env_id, from, to
    SEED_FOSSILIZED, SEED_CULLED,
    SEED_PRUNED                     data: env_id, epochs_total (the seed's age, in epochs); improvement

A field behind a semicolon, or a ``timestamp``, is None where it is missing or has another type. Events of other types
are counted and skipped.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

MAX_LINE_BYTES = 1 << 20
MAX_NAME = 256  # characters of a slot, seed or stage
MAX_NUMBER = 1_000_000_000  # of a measured value or a count of parameters
_SEED_NUMBER = re.compile(r"[0-9]+$")


@dataclass(frozen=True)
class SeedEvent:
    """An event in the life of a seed."""

    env: int
    slot: str
    seed: str

    @property
    def number(self) -> int | None:
        """The number of the seed within its episode, which its id ends in: 2 for ``env0_seed_2``."""
        digits = _SEED_NUMBER.search(self.seed)
        return None if digits is None else int(digits[0])


@dataclass(frozen=True)
class Germinated(SeedEvent):
    time: float | None = None  # seconds
    blueprint: str | None = None
    params: int | None = None


@dataclass(frozen=True)
class StageChanged(SeedEvent):
    source: str
    target: str
    time: float | None = None  # seconds


@dataclass(frozen=True)
class Outcome(SeedEvent):
    """What follows the last stage change of a seed; it tells the seed's age."""

    stage: str
    age: int | None
    improvement: float | None = None  # accuracy points


@dataclass(frozen=True)
class Other:
    """An event that says nothing of a slot."""

    event_type: str


@dataclass(frozen=True)
class Malformed:
    """A line that is not an event, and why."""

    reason: str


Event = SeedEvent | Other | Malformed

OUTCOMES = {"SEED_FOSSILIZED": "FOSSILIZED", "SEED_CULLED": "CULLED", "SEED_PRUNED": "PRUNED"}


def read_events(stream: BinaryIO, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Event]:
    """One event a line, in order, holding one line at a time.

    Args:
        stream: a log, as bytes.
        max_line_bytes: a longer line is skipped and given as ``Malformed``.
    """
    while line := stream.readline(max_line_bytes + 1):
        whole = line.endswith(b"\n")
        if not whole and len(line) > max_line_bytes:
            while line and not line.endswith(b"\n"):
                line = stream.readline(max_line_bytes)
            yield Malformed(f"longer than {max_line_bytes} bytes")
            continue
        event = parse_line(line)
        if isinstance(event, Malformed) and not whole:
            event = Malformed(f"cut off before its end ({event.reason})")
        yield event


def parse_line(line: bytes) -> Event:
    """The event of one line."""
    if not line.strip():
        return Malformed("blank line")
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Malformed("not UTF-8")
    except (ValueError, RecursionError) as error:
        return Malformed(f"not JSON: {str(error)[:60]}")
    if not isinstance(record, dict):
        return Malformed(f"a JSON {type(record).__name__}, wanted an object")
    event_type = record.get("event_type")
    if not isinstance(event_type, str):
        return Malformed("no event_type")
    if event_type not in ("SEED_GERMINATED", "SEED_STAGE_CHANGED", *OUTCOMES):
        return Other(clean(event_type))
    try:
        return _seed_event(event_type, record)
    except _FieldError as error:
        return Malformed(f"{event_type}: {error}")


class _FieldError(ValueError):
    """A lifecycle event lacks a field, or has one of another type."""


def _seed_event(event_type: str, record: dict[str, Any]) -> SeedEvent:
    data = record.get("data")
    if not isinstance(data, dict):
        raise _FieldError("no data")
    of = _field(data, "env_id", int), _name(record, "slot_id"), _name(record, "seed_id")
    time = _seconds(record.get("timestamp"))
    if event_type == "SEED_STAGE_CHANGED":
        return StageChanged(*of, _name(data, "from"), _name(data, "to"), time)
    if event_type == "SEED_GERMINATED":
        if SeedEvent(*of).number is None:
            raise _FieldError(f"seed_id {clean(of[-1])!r} does not end in a number")
        blueprint, params = data.get("blueprint_id"), data.get("params")
        blueprint = clean(blueprint, MAX_NAME) if isinstance(blueprint, str) and len(blueprint) <= MAX_NAME else None
        params = params if type(params) is int and 0 <= params <= MAX_NUMBER else None
        return Germinated(*of, time, blueprint, params)
    age = None if data.get("epochs_total") is None else _field(data, "epochs_total", int)
    if age is not None and age < 0:
        raise _FieldError(f"epochs_total is {clean(str(age))}")
    return Outcome(*of, OUTCOMES[event_type], age, _number(data.get("improvement")))


def _number(value: object) -> float | None:
    """A measured value; None for a number that no measurement gives."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not -MAX_NUMBER <= value <= MAX_NUMBER:
        return None
    return float(value)


def _seconds(timestamp: object) -> float | None:
    try:
        return datetime.fromisoformat(timestamp).timestamp() if isinstance(timestamp, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _name(record: dict[str, Any], name: str) -> str:
    text: str = _field(record, name, str)
    if len(text) > MAX_NAME:
        raise _FieldError(f"{name} has {len(text)} characters, more than {MAX_NAME}")
    return clean(text, MAX_NAME)


def _field(record: dict[str, Any], name: str, kind: type) -> Any:
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = "an integer" if kind is int else "a string"
        raise _FieldError(f"{name} is {clean(repr(value))}, wanted {wanted}" if name in record else f"no {name}")
    return value


def clean(text: str, limit: int = 80) -> str:
    """Text from a log, safe to keep and to print: bounded, and nothing a terminal would act on."""
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return text if text.isprintable() else text.encode("unicode_escape", "backslashreplace").decode("ascii")
