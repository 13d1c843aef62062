"""What a training writes beside its checkpoints: figures of every iteration, and a picture of them."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from esper_masks.files import write_file
from esper_masks.viz import learning_curve
from esper_masks.viz.style import save

METRICS = "metrics.jsonl"
CURVE = "learning-curve.png"
BLOCKS = "▁▂▃▄▅▆▇█"


class TrainingLog:
    """One JSON object a line in ``metrics.jsonl``, and TensorBoard's files if ``tensorboard`` is installed.

    Args:
        folder: where to; it is made if it is not there.
        env_steps: from which the training goes on: later figures are of a run that was not saved, and are removed.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, env_steps: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(line) + "\n" for line in read_metrics(folder) if line["env_steps"] <= env_steps]
        write_file(folder / METRICS, "".join(kept).encode())
        self._stream = open(folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115  # closed by ``close``
        self._folder, self._failed, self._board = folder, False, None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._board = SummaryWriter(str(folder), purge_step=env_steps + 1)
            except UnicodeEncodeError:  # it encodes names by a way of its own
                hint = "its name is not of this locale; LC_ALL=C.UTF-8 or another name would help"
                print(f"{folder}: TensorBoard's files are left out: {hint}", file=sys.stderr)

    def __call__(self, figures: Mapping[str, float]) -> None:
        """Keep the figures of an iteration; ``env_steps`` is one of them."""
        if self._failed:
            return
        try:
            self._keep(figures)
        except OSError as error:  # no reason to lose a training
            self._failed = True
            print(f"{self._folder}: figures are not kept from here on: {error.strerror}", file=sys.stderr)

    def _keep(self, figures: Mapping[str, float]) -> None:
        known = {name: value for name, value in figures.items() if value == value}  # no mean of no episode
        self._stream.write(json.dumps(known) + "\n")
        self._stream.flush()
        if self._board is not None:
            for name, value in known.items():
                self._board.add_scalar(f"train/{name}", value, int(figures["env_steps"]))

    def close(self) -> None:
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):
            if self._board is not None:
                self._board.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Figures of every iteration; a line that was cut off by the end of its process is left out."""
    path, lines = folder / METRICS, []
    if not path.exists():
        return []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("env_steps"), (int, float)):
                lines.append(line)
        except ValueError:
            continue
    return lines


def sparklines(metrics: Sequence[Mapping[str, float]], width: int = 40) -> list[str]:
    """A line for the return and one for each entropy, over the steps of a training: means of parts of it as blocks."""
    names = ["return_mean", *sorted({name for line in metrics for name in line if name.startswith("entropy_")})]
    made = []
    for name in names:
        values = [line[name] for line in metrics if name in line]
        count = min(width, len(values))
        if count < 2:
            continue
        edges = [at * len(values) // count for at in range(count + 1)]
        parts = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
        low, high = min(parts), max(parts)
        blocks = "".join(BLOCKS[round((part - low) / ((high - low) or 1) * (len(BLOCKS) - 1))] for part in parts)
        made.append(f"{name.replace('_', ' '):18} {parts[0]:6.2f} {blocks} {parts[-1]:.2f}")
    return made


def draw_curve(folder: Path, baselines: Mapping[str, float]) -> Path | None:
    """Write the picture of a folder's training, if matplotlib is installed and an episode ended.

    Raises:
        OSError: it cannot be written.
    """
    metrics = read_metrics(folder)
    if find_spec("matplotlib") is None or not any("return_mean" in line for line in metrics):
        return None
    path = folder / CURVE
    save(learning_curve(metrics, baselines), path)
    return path
