"""What logs of real runs say about seeds: improvement, outcomes and parameters by blueprint, epochs in each stage."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from importlib.resources import files
from typing import Any, TypeVar

from esper_masks.files import write_file
from esper_masks.rules.fields import FrozenMapping
from esper_masks.telemetry.events import MAX_NUMBER

FORMAT = 2

Part = TypeVar("Part")


@dataclass(frozen=True)
class Improvement:
    """Accuracy points that seeds had won when they ended.

    Args:
        seeds: number of seeds.
        mean: mean of their points.
        spread: standard deviation of their points.
    """

    seeds: int
    mean: float
    spread: float

    @classmethod
    def measure(cls, points: Iterable[float]) -> "Improvement":
        values = sorted(points)  # the same to the last bit in whichever order the files come
        mean = math.fsum(values) / len(values) if values else 0.0
        square = math.fsum((value - mean) ** 2 for value in values) / len(values) if values else 0.0
        return cls(len(values), mean, math.sqrt(square))


@dataclass(frozen=True)
class Blueprint:
    """What the seeds of one blueprint did.

    Args:
        seeds: how many germinated.
        params: parameters that such a seed adds.
        improvement: improvement of all seeds that ended.
        by_outcome: stage in which seeds ended -> their improvement.
    """

    seeds: int
    params: int
    improvement: Improvement
    by_outcome: Mapping[str, Improvement]

    def to_dict(self) -> dict[str, Any]:
        made: dict[str, Any] = _plain(self)
        return made

    def share(self, outcome: str) -> float:
        """The part of the ended seeds that ended in a stage."""
        return self.by_outcome[outcome].seeds / self.improvement.seeds if outcome in self.by_outcome else 0.0


@dataclass(frozen=True)
class Calibration:
    """Statistics of logs, which set the distributions of ``LifecycleEnv``.

    Args:
        blueprints: name, as in the rules -> what its seeds did.
        dwell: stage -> epochs spent in it -> number of seeds that left it for another stage.
        ends: stage -> stage in which a seed ended from there -> number of seeds.
        unblended: improvement of seeds that ended before they had a share in the network: noise of the measurement.
    """

    blueprints: Mapping[str, Blueprint]
    dwell: Mapping[str, Mapping[int, int]]
    ends: Mapping[str, Mapping[str, int]]
    unblended: Improvement = Improvement(0, 0.0, 0.0)

    @classmethod
    def default(cls) -> "Calibration":
        """The package's own: 482 seeds of four environments with one slot, from logs under ``esper-2025-11``."""
        resource = files("esper_masks") / "data" / "calibration.json"
        return cls.from_json(resource.read_text(encoding="utf-8"), "the package's calibration.json")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Calibration":
        """Read a file that ``save`` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no such file.
        """
        with open(path, encoding="utf-8", errors="replace") as stream:
            return cls.from_json(stream.read(), os.fspath(path))

    @classmethod
    def from_json(cls, text: str, name: str = "calibration") -> "Calibration":
        """Read what ``to_json`` gave; errors call it ``name``.

        Raises:
            ValueError: the text is something else.
        """
        try:
            record = json.loads(text)
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']!r:.20}, wanted {FORMAT}")
            return cls(
                _each(_blueprint, record["blueprints"]),
                _each(_epochs, record["dwell"]),
                _each(lambda entry: _each(_count, entry), record["ends"]),
                _improvement(record["unblended"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"{name}: no calibration ({error!r:.80}); `esper-masks calibrate` makes one") from None

    def to_json(self) -> str:
        """The statistics as text, the same for the same logs."""
        return json.dumps({"format": FORMAT, **_plain(self)}, indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_file(path, self.to_json().encode())


def _plain(part: Any) -> Any:
    """What JSON has of a part: fields in the order of the class, mappings in that of their keys."""
    if is_dataclass(part):
        return {name: _plain(value) for name, value in vars(part).items()}
    return {key: _plain(part[key]) for key in sorted(part)} if isinstance(part, Mapping) else part


def _each(read: Callable[[Any], Part], record: Mapping[str, Any]) -> Mapping[str, Part]:
    return FrozenMapping({name: read(entry) for name, entry in record.items()})


def _blueprint(entry: Mapping[str, Any]) -> Blueprint:
    improvement, by_outcome = _improvement(entry["improvement"]), _each(_improvement, entry["by_outcome"])
    return Blueprint(_count(entry["seeds"]), _count(entry["params"]), improvement, by_outcome)


def _epochs(entry: Mapping[str, Any]) -> Mapping[int, int]:
    return FrozenMapping({_count(int(epochs)): _count(seeds) for epochs, seeds in entry.items()})


def _improvement(entry: Mapping[str, Any]) -> Improvement:
    mean, spread = float(entry["mean"]), float(entry["spread"])
    if not (abs(mean) <= MAX_NUMBER and 0 <= spread <= MAX_NUMBER):
        raise ValueError(f"mean {mean}, spread {spread}")
    return Improvement(_count(entry["seeds"]), mean, spread)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.20} is no count")
    return value
