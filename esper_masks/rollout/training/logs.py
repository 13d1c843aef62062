"""The log folder: one training at a time holds it, and keeps there figures of every iteration and a picture of them."""

import errno
import fcntl
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from esper_masks.files import write_file
from esper_masks.viz import learning_curve
from esper_masks.viz.style import save

LOCK = ".lock"
METRICS = "metrics.jsonl"
CURVE = "learning-curve.png"
BLOCKS = "▁▂▃▄▅▆▇█"


class FolderLock(AbstractContextManager["FolderLock"]):
    """Keeps a log folder for one process at a time, by ``flock``, which ends with the process however that ends.

    As a context manager it gives the folder back at the end.

    Args:
        folder: the log folder; it is made if it is not there.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def take(self) -> None:
        """Hold the folder from here on; a second call changes nothing.

        On a file system without ``flock`` nothing is locked, and a line on standard error says so.

        Raises:
            BlockingIOError: another process holds the folder.
            OSError: the folder cannot be made or written to.
        """
        if self in HELD:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = HELD[self] = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)  # no program inherits it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "by which process is not known"
            self.give_back()
            reason = f"another training is at work there ({holder}); end it first, or name another folder (--logdir)"
            raise BlockingIOError(errno.EWOULDBLOCK, reason, str(self._folder)) from None
        except OSError as error:
            reason = f"cannot be locked ({error.strerror}), so nothing keeps a second training out of this folder"
            print(f"{self._folder}: {reason}", file=sys.stderr)
        with suppress(OSError):  # nobody misses it but a person who looks for the holder
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())

    def give_back(self) -> None:
        """Let others have the folder; the file of the lock stays, since another process may have opened it already."""
        if self in HELD:
            os.close(HELD.pop(self))

    def __exit__(self, *error: object) -> None:
        self.give_back()


HELD: dict[FolderLock, int] = {}  # the locks of this process, each with the descriptor of its file


def _give_all_back() -> None:
    for lock in tuple(HELD):
        lock.give_back()


os.register_at_fork(after_in_child=_give_all_back)  # a child shares the locks, and may outlive its parent


class TrainingLog:
    """One JSON object a line in ``metrics.jsonl``, and TensorBoard's files if ``tensorboard`` is installed.

    Args:
        folder: the log folder; it is made if it is not there.
        env_steps: environment steps so far. Later figures are of a run that was not saved, and are removed.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, env_steps: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(line) + "\n" for line in read_metrics(folder) if line["env_steps"] <= env_steps]
        write_file(folder / METRICS, "".join(kept).encode())
        self._stream = open(folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115  # closed by ``close``
        self._folder, self._board = folder, None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._board = SummaryWriter(str(folder), purge_step=env_steps + 1)
            except UnicodeEncodeError:  # it has its own way to encode names
                hint = "its name is not of this locale; LC_ALL=C.UTF-8 or another name would help"
                print(f"{folder}: TensorBoard's files are left out: {hint}", file=sys.stderr)

    def __call__(self, figures: Mapping[str, float]) -> None:
        """Keep the figures of an iteration, ``env_steps`` among them."""
        if self._stream.closed:
            return
        known = {name: value for name, value in figures.items() if value == value}  # no mean where no episode ended
        try:
            self._stream.write(json.dumps(known) + "\n")
            self._stream.flush()
            if self._board is not None:
                for name, value in known.items():
                    self._board.add_scalar(f"train/{name}", value, int(figures["env_steps"]))
        except OSError as error:  # no reason to lose a training
            print(f"{self._folder}: figures are not kept from here on: {error.strerror}", file=sys.stderr)
            self.close()

    def close(self) -> None:
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):
            if self._board is not None:
                self._board.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Figures of every iteration, without a line that was cut off when its process ended."""
    path, lines = folder / METRICS, []
    if not path.exists():
        return []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("env_steps"), (int, float)):
                lines.append(line)
    return lines


def sparklines(metrics: Sequence[Mapping[str, float]], width: int = 40) -> list[str]:
    """A line of blocks for the return and for each entropy; a block is a mean over a part of the training."""
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
    """Write a picture of the training, if matplotlib is installed and an episode ended.

    Returns: the file, or None.
    Raises:
        OSError: the file cannot be written.
    """
    metrics = read_metrics(folder)
    if find_spec("matplotlib") is None or not any("return_mean" in line for line in metrics):
        return None
    path = folder / CURVE
    save(learning_curve(metrics, baselines), path)
    return path
