"""What networks are trained on: samples, their labels, and the splits; made here, or shipped with a package."""

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from esper_masks.extras import needs

Split = Literal["training", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHARES = 0.6, 0.2  # of the first two splits
DIGITS = 1797  # samples, of spirals too: hosts of a mixture are measured by equally many
VERSION = 1  # of the tasks that are named here, in the fingerprints of checkpoints
COMPONENTS, LONGEST = 16, 3.0
SPREAD = 0.9  # standard deviation of the logarithm of a contrast
ARMS, TURNS, BLUR = 3, 1.4, 0.04  # of a spiral; the last one is the standard deviation of a place, the radius being 1


@dataclass(frozen=True, eq=False)
class Task:
    """A classification, its samples in the order of the splits.

    Args:
        name: what it is called in reports.
        inputs: float32 ``[samples, *shape]``.
        labels: int64 ``[samples]``.
        sizes: samples of the training, the validation and the test split.

    Raises:
        ValueError: tensors of another shape or dtype, or sizes that are not theirs.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    sizes: tuple[int, int, int]

    def __post_init__(self) -> None:
        samples = sum(self.sizes)
        for name, value, dtype in (("inputs", self.inputs, torch.float32), ("labels", self.labels, torch.int64)):
            if not isinstance(value, Tensor) or value.dtype != dtype or value.shape[:1] != (samples,):
                got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{name} of the task {self.name!r}: {got}; wanted {dtype} of {samples} samples")
        if self.labels.ndim != 1 or self.inputs.ndim < 2 or min(self.sizes) < 1 or int(self.labels.min()) < 0:
            raise ValueError(
                f"the task {self.name!r} has inputs {tuple(self.inputs.shape)}, labels {tuple(self.labels.shape)} and "
                f"splits of {self.sizes}; wanted [samples, *shape], [samples] not below 0, and no empty split"
            )

    @property
    def fingerprint(self) -> str:
        """Tells it from others, by all of its numbers."""
        made = hashlib.sha256(repr((self.name, self.shape, self.sizes)).encode())
        for part in (self.inputs, self.labels):
            made.update(part.contiguous().numpy().tobytes())
        return made.hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    def of(self, split: Split) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a split."""
        at = SPLITS.index(split)
        first = sum(self.sizes[:at])
        part = slice(first, first + self.sizes[at])
        return self.inputs[part], self.labels[part]


def find_tasks(task: str | Task | Sequence[Task]) -> tuple[Task, ...]:
    """The tasks of a name in ``TASKS``, or those that are given.

    Raises:
        ValueError: no such name, or tasks that cannot be trained side by side.
        ImportError: the task needs a package that is not installed; names the extra.
    """
    if isinstance(task, str):
        if task not in TASKS:
            raise ValueError(f"task={task!r} is not one of {', '.join(TASKS)}")
        return TASKS[task]()
    tasks = tuple(task) if isinstance(task, list | tuple) else (task,)
    if not tasks or not all(isinstance(each, Task) for each in tasks):
        raise ValueError(f"task must be a name of {', '.join(TASKS)}, or some rollout.Task, got {task!r:.80}")
    first = tasks[0]
    for other in tasks[1:]:
        if (other.shape, other.sizes) != (first.shape, first.sizes):
            raise ValueError(
                f"the task {other.name!r} has inputs {other.shape} and splits of {other.sizes}, {first.name!r} "
                f"{first.shape} and {first.sizes}: hosts side by side want the same"
            )
    return tasks


@cache
def digits() -> Task:
    """The 1,797 images of handwritten digits of scikit-learn, as their first 16 principal components."""
    with needs("rollout.networks"):
        from sklearn.datasets import load_digits
    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    sizes = _sizes(len(labels))
    order = _stratified(labels, sizes)
    return Task("digits", _components(images[order], sizes[0]), labels[order].long(), sizes)


@cache
def contrast() -> Task:
    """The same components, those of each image times a factor of its own, which a norm undoes."""
    plain = digits()
    factors = torch.randn(len(plain.labels), 1, generator=_generator("contrast")).mul(SPREAD).exp()
    return Task("contrast", plain.inputs * factors, plain.labels, plain.sizes)


@cache
def spirals() -> Task:
    """Points on three arms of a spiral in a plane, of which a wider network sees more; other points in each split."""
    sizes, parts = _sizes(DIGITS), []
    for split, size in zip(SPLITS, sizes):
        generator = _generator(f"spirals {split}")
        labels = torch.arange(size) % ARMS
        radius = torch.rand(size, generator=generator).sqrt()
        angle = 2 * math.pi * (TURNS * radius + labels / ARMS)
        points = radius * torch.stack([angle.cos(), angle.sin()])
        points = points + BLUR * torch.randn(2, size, generator=generator)
        parts.append((points.T, labels))
    points, labels = (torch.cat(columns) for columns in zip(*parts))
    inputs = torch.zeros(len(points), COMPONENTS)
    inputs[:, :2] = points * 2 * math.sqrt(COMPONENTS / 2)  # as long as the inputs of the other tasks
    return Task("spirals", inputs, labels, sizes)


@cache
def mnist1d(shape: tuple[int, ...] = (1, 40)) -> Task:
    """MNIST-1D, 5,000 sequences of 40 numbers, made and not downloaded.

    Source: Greydanus, Kobak, "Scaling down deep learning with MNIST-1D", 2020. The last fifth is the test split as
    there; of the other 4,000 sequences a quarter is for validation.

    Args:
        shape: of an input: ``(1, 40)`` for convolutional hosts, ``(40,)`` for others.
    """
    with needs("rollout.networks"):
        from mnist1d.data import get_dataset_args, make_dataset
    with _unseeded():  # it seeds the generators of Python, of numpy and of torch
        made = make_dataset(get_dataset_args())
    inputs = torch.cat([torch.as_tensor(made[name]).float() for name in ("x", "x_test")]).contiguous()
    labels = torch.cat([torch.as_tensor(made[name]).long() for name in ("y", "y_test")])
    test, rest = len(made["y_test"]), len(made["y"])
    order = torch.cat([_stratified(labels[:rest], (rest - test, test)), torch.arange(rest, rest + test)])
    return Task("mnist1d", inputs[order].view(-1, *shape), labels[order], (rest - test, test, test))


TASKS: dict[str, Callable[[], tuple[Task, ...]]] = {
    "mixture": lambda: (digits(), contrast(), spirals()),
    "digits": lambda: (digits(),),
    "contrast": lambda: (contrast(),),
    "spirals": lambda: (spirals(),),
    "mnist1d": lambda: (mnist1d(),),
    "mnist1d-flat": lambda: (mnist1d((40,)),),
}


# -- parts ------------------------------------------------------------------------------------------------------------


def _sizes(samples: int) -> tuple[int, int, int]:
    first, second = (int(samples * share) for share in SHARES)
    return first, second, samples - first - second


def _stratified(labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """An order of samples in which every part of these sizes has its share of each label, as nearly as can be."""
    order = torch.randperm(len(labels), generator=_generator("splits"))
    order = order[labels[order].argsort(stable=True)]  # label by label, at random in each
    turn = torch.zeros(len(labels), dtype=torch.int64)
    quotas, taken = torch.tensor(sizes, dtype=torch.float64) / len(labels), torch.zeros(len(sizes), dtype=torch.float64)
    for at in range(len(labels)):  # to the part that is furthest behind its share
        part = int((quotas * (at + 1) - taken).argmax())
        taken[part] += 1
        turn[at] = part
    return order[turn.argsort(stable=True)]


def _components(images: Tensor, training: int) -> Tensor:
    """Principal components of the training samples, float32 ``[samples, 16]``; the first's spread is ``LONGEST``."""
    images = images.double()
    mean = images[:training].mean(0)
    _, spreads, axes = torch.linalg.svd(images[:training] - mean, full_matrices=False)
    axes = axes[:COMPONENTS]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # a library may turn one round
    made: Tensor = ((images - mean) @ axes.T / (spreads[0] / math.sqrt(training)) * LONGEST).float()
    return made


def _generator(purpose: str) -> torch.Generator:
    """A generator for a purpose, the same in every process."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "little"))


@contextmanager
def _unseeded() -> Iterator[None]:
    """A context after which the generators of Python, numpy and torch are as they were before it."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
