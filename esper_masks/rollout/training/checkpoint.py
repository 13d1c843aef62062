"""Checkpoints of a training: a file is whole or not there, holds no code, and can be told from any other file."""

import hashlib
import io
import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esper_masks.files import write_file
from esper_masks.rollout.training.ppo import PPO
from esper_masks.rollout.training.processes import Processes

FORMAT = "esper_masks training 3"
PARTS = {"settings", "config", "rules", "env_steps", "processes", "id", "training"}
MIXED = "the parts of the processes are of different checkpoints"
APPEARS_S = 10.0  # how long a shared folder may take to show what was written elsewhere
ZIP, ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
SEAL = b"sha256:"
DIGEST = 64  # hexadecimal digits behind the seal
NAME = re.compile(r"checkpoint-(\d{12})(?:-(\d+)-of-(\d+))?\.pt")


class CheckpointError(ValueError):
    """A checkpoint from which no training can be resumed; the message says why."""


def save(ppo: PPO, settings: Mapping[str, Any], folder: str | os.PathLike[str], keep: int = 3) -> Path:
    """Write all of a training, every process its part, and remove all but the last checkpoints of the folder.

    Nothing is removed before all processes have written.

    Args:
        ppo: a training between two iterations.
        settings: numbers and strings by which it can be built again.
        folder: where the files go; it is made if it is not there.
        keep: how many checkpoints are left.

    Returns: the file of this process.
    Raises:
        OSError: the file cannot be written; what was there before still is.
        CheckpointError: parameters are not finite, so the checkpoint would be of no use; or processes do not see the
            same folder.
    """
    processes = ppo.processes
    if not all(bool(parameter.isfinite().all()) for parameter in ppo.policy.parameters()):
        raise CheckpointError("parameters of the policy are not finite; the last checkpoint was saved before")
    content = {
        "format": FORMAT,
        "settings": dict(settings),
        "config": asdict(ppo.config),
        "rules": ppo.env.engine.fingerprint,
        "env_steps": ppo.env_steps,
        "processes": processes.size,
        "id": processes.agreed(secrets.randbits(53), ppo.env.device),  # the same in all parts of one checkpoint
        "training": ppo.state_dict(),
        "sealed": True,
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    parts = [place / _name(ppo.env_steps, rank, processes.size) for rank in range(processes.size)]
    path = parts[processes.rank]
    before = [old for old in found(place) if path not in old]  # of other numbers of processes, too
    write_file(path, seal(stream.getvalue()))
    processes.wait()
    if not all(appears(part) for part in parts):
        raise CheckpointError(f"{place} lacks what other processes saved: all must save in one folder that they share")
    for old in before[: max(len(before) + 1 - keep, 0)]:
        for part in old if len(old) != processes.size else (old[processes.rank],):
            part.unlink(missing_ok=True)
    return path


def _name(env_steps: int, rank: int, size: int) -> str:
    part = "" if size == 1 else f"-{rank}-of-{size}"
    return f"checkpoint-{env_steps:012}{part}.pt"


def appears(path: Path, seconds: float = APPEARS_S) -> bool:
    """Whether a file that another process has written is seen here in time: behind a network it may take a while."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def found(folder: Path) -> list[tuple[Path, ...]]:
    """The whole checkpoints in a folder, the oldest first, each with the files of its processes by rank."""
    there: dict[tuple[int, int], dict[int, Path]] = defaultdict(dict)
    for path in files(folder):
        if name := NAME.fullmatch(path.name):
            steps, rank, size = name.groups()
            there[int(steps), int(size or 1)][int(rank or 0)] = path
    return [
        tuple(parts[rank] for rank in range(size)) for (_, size), parts in sorted(there.items()) if len(parts) == size
    ]


def files(folder: Path) -> list[Path]:
    """The files in a folder that are named like checkpoints, the oldest first; parts without the others, too."""
    return sorted(path for path in folder.glob("checkpoint-*.pt") if NAME.fullmatch(path.name))


def clean(folder: Path) -> None:
    """Remove what killed processes left: unfinished files and, if any checkpoint is whole, parts without the others."""
    whole = {path for parts in found(folder) for path in parts}
    alone = [path for path in files(folder) if path not in whole] if whole else []  # a part may be all that there is
    for path in (*folder.glob(".checkpoint-*.part"), *alone):
        path.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], processes: Processes | None = None) -> dict[str, Any]:
    """Read this process's part of a checkpoint. No code in it is run.

    Where the checkpoint has another number of processes, its environments are divided again, in the order of the ranks.

    Args:
        path: a file, of whichever process, or a folder for its newest checkpoint.
        processes: the processes of the training to resume; by default one.

    Raises:
        OSError: a file cannot be read.
        CheckpointError: there is no checkpoint, it is damaged, the file is something else, or the environments cannot
            be divided evenly.
    """
    processes, parts = Processes() if processes is None else processes, _parts(Path(path))
    if len(parts) == processes.size:
        return _read(parts[processes.rank], len(parts))
    return _divided([_read(part, len(parts)) for part in parts], processes)


def read_any(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read any one part of a checkpoint: every part has the policy.

    Args:
        path: a file, or a folder for its newest checkpoint, or for its newest part where none is whole.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: there is no checkpoint, it is damaged, or the file is something else.
    """
    place = Path(path)
    if place.is_dir():
        place = files(place)[-1] if not found(place) and files(place) else _parts(place)[0]
    return _read(place)


def _parts(place: Path) -> tuple[Path, ...]:
    """All files of a checkpoint: of the newest in a folder, or of the one that a file is a part of."""
    if not place.is_dir():
        os.stat(place)
        return next((parts for parts in found(place.parent) if place in parts), (place,))
    if not (there := found(place)):
        raise CheckpointError(f"{place}: no checkpoint in this folder")
    return there[-1]


def _read(place: Path, size: int | None = None) -> dict[str, Any]:
    """The content of one file. With ``size``, which is how many files the checkpoint has here, it must be complete."""
    content = place.read_bytes()
    foreign = f"{place}: no checkpoint of esper-masks train; give one of its checkpoint-*.pt, or its log folder"
    if content and SEAL not in content and not content.startswith(ZIP):
        raise CheckpointError(foreign)
    try:
        sealed = _is_sealed(content)
        made = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        if isinstance(made, dict) and made.pop("sealed", False) and not sealed:
            raise ValueError("its checksum is missing")
    except Exception as error:  # torch raises what it likes for bytes that are no checkpoint
        reason = str(error).split("\n", 1)[0][:80]
        older = [parts[0] for parts in found(place.parent) if parts[0] < place and place not in parts]
        hint = f"; {older[-1]} is the one before it, which --resume takes when this one is removed" if older else ""
        raise CheckpointError(f"{place}: damaged, or no checkpoint ({type(error).__name__}: {reason}){hint}") from None
    if not isinstance(made, dict) or made.get("format") != FORMAT or not set(made) >= PARTS:
        raise CheckpointError(foreign)
    if size is not None and made["processes"] != size:
        raise CheckpointError(
            f"{place}: one of {made['processes']} parts, of as many processes; the others are not beside it"
        )
    return made


def seal(content: bytes) -> bytes:
    """The zip file that ``torch.save`` made, with a digest of it as the comment at its end.

    ... PK 05 06 ... 47 00 | sha256: | 64 hexadecimal digits, of all bytes before them
    """
    assert content[-22:-18] + content[-2:] == ZIP_END + bytes(2), "torch.save gave no zip file without a comment"
    content = content[:-2] + (len(SEAL) + DIGEST).to_bytes(2, "little") + SEAL
    return content + hashlib.sha256(content).hexdigest().encode()


def _is_sealed(content: bytes) -> bool:
    """Whether a file has a digest; files of earlier versions have none.

    Raises:
        ValueError: the digest is not that of the bytes before it.
    """
    body, digest = content[:-DIGEST], content[-DIGEST:]
    if not body.endswith(SEAL):
        return False
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its bytes are not those that were written, by their SHA-256")
    return True


def _divided(parts: Sequence[dict[str, Any]], processes: Processes) -> dict[str, Any]:
    """This process's part of a checkpoint of another number of processes.

    Raises:
        CheckpointError: parts of several checkpoints, or environments that cannot be divided evenly.
    """
    if len({part["id"] for part in parts}) > 1:
        raise CheckpointError(MIXED)
    states = [part["training"] for part in parts]
    try:
        envs = processes.share(sum(len(state["starts"]) for state in states), "environments of the checkpoint")
    except ValueError as error:
        raise CheckpointError(str(error)) from None

    def divide(fields: Iterable[Tensor], axis: int = 0) -> Tensor:
        return torch.cat(list(fields), axis).narrow(axis, processes.rank * envs, envs).clone()

    first = states[0]["env"]
    env = {
        name: divide([state["env"][name] for state in states], 0 if name == "states" else -1)  # see ``Dynamics``
        for name, field in first.items()
        if isinstance(field, Tensor) and name != "generator"
    }
    own = {name: divide([state[name] for state in states]) for name in ("obs", "starts")}
    hidden = tuple(divide(fields) for fields in zip(*[state["hidden"] for state in states]))
    return {**parts[0], "training": {**states[0], **own, "hidden": hidden, "env": {**first, **env}}}


def restore(ppo: PPO, content: Mapping[str, Any], *, environments: bool = True) -> None:
    """Resume from what ``load`` gave; with other noise if the number of processes is another.

    Args:
        ppo: a training of the same rules and policy.
        content: what ``load`` gave.
        environments: see ``PPO.load_state_dict``; if False, the number of environments may be another.

    Raises:
        CheckpointError: other rules or sizes than those of ``ppo``; or the parts of the processes are of different
            checkpoints.
    """
    processes, device = ppo.processes, ppo.env.device
    if processes.most(int(processes.agreed(content["id"], device) != content["id"]), device):
        raise CheckpointError(MIXED)
    if content["rules"] != ppo.env.engine.fingerprint:
        raise CheckpointError("the checkpoint is of other rules, or of other settings of their switches")
    try:
        ppo.load_state_dict(content["training"], environments=environments)
    except (ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())  # torch's have several lines, and what matters is not in the first
        raise CheckpointError(f"the checkpoint does not fit: {reason[:300]}") from None
    if environments and content["processes"] != processes.size:  # each of which had generators of its own
        ppo.env.seed(processes.seed(content["id"], "environment"))
        torch.manual_seed(processes.seed(content["id"], "actions"))
