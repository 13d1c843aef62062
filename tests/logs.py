"""Lines of event logs: one event each, and the whole life of a seed."""

import json
from typing import Any


def event(kind: str, env: int = 0, seed: int = 0, slot: str = "early", **data: Any) -> bytes:
    record = {
        "event_type": kind,
        "seed_id": f"env{env}_seed_{seed}",
        "slot_id": slot,
        "data": {"env_id": env, **data},
    }
    return json.dumps(record).encode() + b"\n"


def germinate(env: int = 0, seed: int = 0, slot: str = "early") -> bytes:
    return event("SEED_GERMINATED", env, seed, slot)


def move(source: str, target: str, env: int = 0, seed: int = 0, slot: str = "early") -> bytes:
    return event("SEED_STAGE_CHANGED", env, seed, slot, **{"from": source, "to": target})


def outcome(stage: str, age: int | None = 9, env: int = 0, seed: int = 0, slot: str = "early") -> bytes:
    return event(f"SEED_{stage}", env, seed, slot, **({} if age is None else {"epochs_total": age}))


def timed(kind: str, second: float | None, seed: str = "env0_seed_0", **data: Any) -> str:
    stamp = {} if second is None else {"timestamp": f"2025-12-05T10:00:{second:09.6f}+00:00"}
    record = {"event_type": kind, "seed_id": seed, "slot_id": "mid", "data": {"env_id": 0, **data}}
    return json.dumps(record | stamp)


def life(seed: str, start: float, outcome: str, improvement: float | None, blueprint: str = "norm") -> list[str]:
    """Training for 3 epochs of 2 s, blending for 5, ended from probation at once."""
    path = [("GERMINATED", "TRAINING", 0), ("TRAINING", "BLENDING", 6), ("BLENDING", "PROBATIONARY", 16)]
    lines = [timed("SEED_GERMINATED", start, seed, blueprint_id=blueprint, params=129)]
    lines += [timed("SEED_STAGE_CHANGED", start + at, seed, **{"from": a, "to": b}) for a, b, at in path]
    lines += [timed("SEED_STAGE_CHANGED", start + 16, seed, **{"from": "PROBATIONARY", "to": outcome})]
    return [*lines, timed(f"SEED_{outcome}", start + 16, seed, epochs_total=8, improvement=improvement)]
