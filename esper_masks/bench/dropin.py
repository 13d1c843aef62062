"""The drop-in functions against the loop that they replace, from the objects that callers hold.

"One by one" calls ``compute_action_masks`` for each environment and stacks, as the loop does; "batch" is one call of
``compute_batch_masks``.
"""

from collections.abc import Callable
from itertools import cycle
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import esper_masks as em
from esper_masks.bench.cases import DROPINS, Case, Run, Verify
from esper_masks.bench.inputs import LIMIT, random_states, state_dicts

POOL = 256  # environments that a batch of one takes turns with, so that no row is that of one lucky state
GENERATIONS: dict[str, Any] = {"esper-2025-12": em.compat.esper_2025_12, "esper-2026-06": em.compat.esper_2026_06}


def prepare(case: Case, loop: ModuleType) -> tuple[Run, Verify]:
    """What is timed, and the check that its masks are the loop's; of the loop, that they are ``compute_batch_masks``'s.

    Args:
        case: the row.
        loop: the module of what is replaced.
    """
    dropin, other = GENERATIONS[case.rules], tuple(f"slot{i}" for i in range(case.slots)) if case.slots != 3 else None
    settings = {} if other is None else {"slot_config": dropin.SlotConfig(other)}
    engine = em.MaskEngine(em.ruleset(case.rules), other)
    ids = list(engine.slot_ids)
    states, totals = random_states(engine, POOL if case.batch == 1 else case.batch)
    rows, counts, turn = state_dicts(engine, states), totals.tolist(), cycle(range(POOL))
    infos = [{slot: v if v is None else dropin.MaskSeedInfo(*v) for slot, v in env.items()} for env in rows]

    def one(env: int) -> dict[str, Tensor]:
        masks: dict[str, Tensor] = dropin.compute_action_masks(infos[env], ids, counts[env], LIMIT, **settings)
        return masks

    def together(envs: slice = slice(None)) -> dict[str, Tensor]:
        masks: dict[str, Tensor] = dropin.compute_batch_masks(infos[envs], ids, counts[envs], LIMIT, **settings)
        return masks

    def one_by_one() -> dict[str, Tensor]:
        envs = [one(env) for env in range(case.batch)]
        return {head: torch.stack([env[head] for env in envs]) for head in envs[0]}

    def taken(env: int) -> dict[str, Tensor]:
        return together(slice(env, env + 1))

    of_one: dict[str, Callable[[int], dict[str, Tensor]]] = dict(zip(DROPINS, (one, taken)))
    of_many: dict[str, Run] = dict(zip(DROPINS, (one_by_one, together)))
    alone = of_one.get(case.way, lambda env: loop.env_masks(rows[env], ids, ids, counts[env], LIMIT))
    many = of_many.get(case.way, lambda: loop.small_tensors(rows, ids, ids, counts, LIMIT))
    run: Run = (lambda: alone(next(turn))) if case.batch == 1 else many

    def verify(first: dict[str, Tensor]) -> None:
        expected = loop.small_tensors(rows, ids, ids, counts, LIMIT) if case.way in DROPINS else together()
        for env in range(POOL if case.batch == 1 else 1):
            for head, mask in (run() if env else first).items():
                wanted = expected[head][env] if case.batch == 1 else expected[head]
                assert torch.equal(mask.reshape(wanted.shape), wanted), head

    return run, verify
