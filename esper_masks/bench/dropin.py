"""The drop-in functions against the loop that they replace, from the objects that callers hold.

"One by one" calls ``compute_action_masks`` for each environment and stacks, as the loop does; "batch" is one call of
``compute_batch_masks``.
"""

from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

from torch import Tensor

import esper_masks as em
from esper_masks.bench.cases import CENTRE, DROPINS, LOOPS, Case, Run, Verify
from esper_masks.bench.checking import check_engine, same_masks
from esper_masks.bench.inputs import LIMIT, Decision
from esper_masks.bench.loops import MODULES, stacked

POOL = 256  # environments that a batch of one takes turns with, so that no row is that of one lucky state
GENERATIONS: dict[str, Any] = {"esper-2025-12": em.compat.esper_2025_12, "esper-2026-06": em.compat.esper_2026_06}
Masks = Mapping[str, Tensor]


def prepare(case: Case) -> tuple[Run, Verify]:
    """What is timed, and the check that its masks are the engine's, which are those of a loop."""
    dropin, loop = GENERATIONS[case.rules], MODULES[case.rules]
    other = case.slot_ids if case.slots != CENTRE.slots else None
    settings = {} if other is None else {"slot_config": dropin.SlotConfig(other)}
    engine = em.MaskEngine(em.ruleset(case.rules), other, max_seeds=LIMIT)
    inputs = Decision(engine, POOL if case.batch == 1 else case.batch)
    ids, dicts, counts = list(engine.slot_ids), inputs.dicts, inputs.totals.tolist()
    infos = [{slot: None if v is None else dropin.MaskSeedInfo(*v) for slot, v in env.items()} for env in dicts]
    batches = [slice(at, at + case.batch) for at in range(0, len(dicts), case.batch)]
    turn = cycle(batches)
    one: dict[str, Callable[[int], Masks]] = {
        LOOPS[0]: lambda env: loop.env_masks(dicts[env], ids, ids, counts[env], LIMIT),
        DROPINS[0]: lambda env: dropin.compute_action_masks(infos[env], ids, counts[env], LIMIT, **settings),
    }

    def one_by_one(envs: slice) -> Masks:
        masks_of = one[case.way]
        made = [masks_of(env) for env in range(envs.start, envs.stop)]
        return made[0] if case.batch == 1 else stacked(made)

    def together(envs: slice) -> Masks:
        masks: Masks = dropin.compute_batch_masks(infos[envs], ids, counts[envs], LIMIT, **settings)
        return masks

    make = together if case.way == DROPINS[1] else one_by_one

    def run() -> Masks:
        return make(next(turn))

    def verify(first: Masks) -> None:
        for envs in batches:
            made = first if envs is batches[0] else run()
            if case.batch == 1 and make is one_by_one:
                made = stacked([made])
            same_masks(made, inputs.masks.select(envs))
        check_engine(inputs)

    return run, verify
