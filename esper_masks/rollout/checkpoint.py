"""Checkpoints of a training: whole or not there, without code, and of a kind that can be told."""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from esper_masks.rollout.files import write_atomically
from esper_masks.rollout.ppo import PPO

FORMAT = "esper_masks training 1"
PARTS = {"settings", "config", "rules", "env_steps", "training"}
NAME = re.compile(r"checkpoint-(\d{12})\.pt")


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from; the message says why."""


def save(ppo: PPO, settings: Mapping[str, Any], folder: str | os.PathLike[str], keep: int = 3) -> Path:
    """Write all of a training, and remove all but the last checkpoints of the folder.

    Args:
        ppo: between two iterations.
        settings: numbers and strings that say how to build it again.
        folder: where to; it is made if it is not there.
        keep: how many are left.

    Returns: the file.
    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    content = {
        "format": FORMAT,
        "settings": dict(settings),
        "config": asdict(ppo.config),
        "rules": ppo.env.engine.fingerprint,
        "env_steps": ppo.env_steps,
        "training": ppo.state_dict(),
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"checkpoint-{ppo.env_steps:012}.pt"
    write_atomically(path, stream.getvalue())
    for old in found(place)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def found(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*.pt") if NAME.fullmatch(path.name))


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint, or the newest of a folder. No code in it is run.

    Raises:
        OSError: it cannot be read.
        CheckpointError: there is none, it is damaged, or of something else.
    """
    place = Path(path)
    if place.is_dir():
        if not (there := found(place)):
            raise CheckpointError(f"{place}: no checkpoint in this folder")
        place = there[-1]
    content = place.read_bytes()
    try:
        made = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises what it likes for bytes that are no checkpoint
        reason = str(error).split("\n", 1)[0][:80]
        raise CheckpointError(f"{place}: damaged, or no checkpoint ({type(error).__name__}: {reason})") from None
    if not isinstance(made, dict) or made.get("format") != FORMAT or not set(made) >= PARTS:
        raise CheckpointError(f"{place}: no checkpoint of esper-masks train")
    return made


def restore(ppo: PPO, content: Mapping[str, Any]) -> None:
    """Go on from what ``load`` gave.

    Raises:
        CheckpointError: it is of other rules, or of another size.
    """
    if content["rules"] != ppo.env.engine.fingerprint:
        raise CheckpointError("the checkpoint is of other rules, or of other settings of their switches")
    try:
        ppo.load_state_dict(content["training"])
    except (ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"the checkpoint does not fit: {str(error).splitlines()[0][:120]}") from None
