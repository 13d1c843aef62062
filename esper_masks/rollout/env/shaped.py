"""The shaped reward of the original of ``esper-2026-06``, term by term."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.rulesets.esper_2026_06 import LifecycleOp, SeedStage

GERMINATED, TRAINING, BLENDING, HOLDING, FOSSILIZED, PRUNED = (
    int(SeedStage[name]) for name in ("GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED", "PRUNED")
)
EMPTY = int(SeedStage.DORMANT)
POTENTIALS = {GERMINATED: 1.0, TRAINING: 2.0, BLENDING: 3.5, HOLDING: 5.5, FOSSILIZED: 6.0}
GAMMA = 0.995  # of the original, in the potential and the bill at the end
HOST_SHARE, SMALLEST_HOST = 0.0039, 200
BONUS = 0.5 + 3 * math.tanh(1 / 3)  # of a fossil


class Decision(NamedTuple):
    """What the reward sees: the state before an op, and the op."""

    stage: Tensor  # int32 [slots, batch]
    age: Tensor  # int32 [slots, batch]
    in_stage: Tensor  # int32 [slots, batch]
    alpha: Tensor  # float32 [slots, batch]
    velocity: Tensor  # float32 [slots, batch]: alpha less alpha an epoch ago
    contribution: Tensor  # float32 [slots, batch]: accuracy points, measured; 0 where alpha is 0
    base: Tensor  # float32 [slots, batch]: the gain when the seed germinated
    params: Tensor  # float32 [slots, batch]: of the blueprint
    chosen: Tensor  # bool [slots, batch]: the slot of the op; of WAIT the first
    op: Tensor  # int32 [batch]: WAIT for an illegal action
    epoch: Tensor  # int32 [batch]: 0 for the first
    gain: Tensor  # float32 [batch]: accuracy points of all seeds
    rise: Tensor  # float32 [batch]: gain less the gain an epoch ago
    last: Tensor  # bool [batch]: the last epoch of an episode


def shaped_terms(at: Decision, host: int) -> dict[str, Tensor]:
    """What ``ScheduledDynamics.shaped_terms`` says, of a decision.

    Args:
        at: the decision.
        host: parameters of the host.

    Returns: the terms by these names, each float32 ``[batch]``.
    """

    def of_chosen(values: Tensor) -> Tensor:
        return torch.where(at.chosen, values, 0).sum(0, dtype=values.dtype)

    def does(*ops: LifecycleOp) -> Tensor:
        found = torch.zeros_like(at.last)
        for op in ops:
            found = found | (at.op == int(op))
        return found

    zero = torch.zeros_like(at.gain)
    stage, n, f = of_chosen(at.stage), of_chosen(at.in_stage).float(), at.gain
    c, measured = of_chosen(at.contribution), of_chosen(at.alpha) > 0
    potential, before = zero, zero
    for held, value in POTENTIALS.items():
        potential = torch.where(stage == held, value + (0.3 * n).clamp_max(2), potential)
        before = torch.where(stage == held, value + (0.3 * (n - 1)).clamp_max(2), before)
    measured = measured & (stage != FOSSILIZED)
    fossilizes, prunes = does(LifecycleOp.FOSSILIZE), does(LifecycleOp.PRUNE)

    p = f - of_chosen(at.base)
    both = torch.where(c + p == 0, 1, c + p)
    worth = torch.where(c < 0, c, torch.where(p <= 0, 0, torch.where(c < p, c, 2 * p * c / both)))
    worth = worth * torch.where(f < 0, (3 * f).sigmoid(), 1)
    birth = (at.epoch + 1 - of_chosen(at.age)).float()
    worth = torch.where(measured, worth * torch.where(birth < 10, 0.4 + 0.06 * birth, 1), 0)
    worth = torch.where(fossilizes & (f < 0), 0, worth)
    proxy = torch.where((stage == BLENDING) & ~measured, 0.3 * at.rise.clamp_min(0), 0)
    terms = {"contribution": torch.where(prunes, -worth, worth) + proxy}

    share = c / torch.where(f > 0.1, f, 1)
    above = torch.where(share > 5, -(0.1 * (share - 5) / 5).clamp_max(0.3), 0)
    ratio = torch.where(f > 0.1, above, -0.3 * (c / 10).clamp_max(1))
    terms["ratio"] = torch.where(measured & (c > 1) & (f >= 0), ratio, 0)
    terms["blending"] = torch.where((stage == BLENDING) & (f < 0), -0.1 - (0.05 * n).clamp_max(0.3), 0)
    waits = (stage == HOLDING) & (n >= 2) & (worth > 0) & ~fossilizes & ~prunes
    terms["holding"] = torch.where(waits, -(0.1 + 0.05 * (n - 2)).clamp_max(0.3), 0)
    terms["potential"] = 0.3 * (GAMMA * potential - before)

    size = max(host, SMALLEST_HOST)
    paying = (at.stage == BLENDING) | (at.stage == HOLDING) | (at.stage == FOSSILIZED)
    sums = torch.where(paying, HOST_SHARE * host + at.alpha * at.params, 0).sum(0)
    terms["rent"] = -(0.5 * (sums / size).log1p()).clamp_max(1.5)
    terms["shock"] = -(0.1958 / size * (at.velocity * at.velocity * at.params).sum(0)).clamp_max(1)
    occupied = ((at.stage != EMPTY) & (at.stage != PRUNED)).sum(0)
    fossils = (at.stage == FOSSILIZED).sum(0)
    terms["occupancy"] = -0.01 * (occupied - 1).clamp_min(0).float() - 0.002 * fossils.float()

    early = (0.4 + 0.06 * (at.epoch + 1).float()).clamp_max(1)
    good = torch.where(c >= 1, (BONUS + 0.1 * c) * (n / 5).clamp_max(1), -0.2)
    bad = -0.5 - (0.2 * f.abs()).clamp_max(1) - 0.3 * ((c > 0.1) & (f < -0.2)).float()
    late = torch.where(c < -0.5, 0.15, torch.where(c < 0, 0.1, -(0.3 + 0.05 * c).clamp_max(0.9)))
    op = torch.where(does(LifecycleOp.GERMINATE), -0.15 + 0.2985 * early, zero)
    op = torch.where(does(LifecycleOp.ADVANCE) & (stage == TRAINING), -0.1, op)
    op = torch.where(does(LifecycleOp.SET_ALPHA_TARGET), -0.005, op)
    op = torch.where(fossilizes, -0.01 + torch.where(f < 0, bad, good), op)
    terms["op"] = torch.where(prunes, -0.005 - 0.3 * potential + torch.where(measured, late, 0), op)
    young = (at.stage == GERMINATED) | (at.stage == TRAINING)
    bill = torch.where(young, 0.2985 * (-math.log(GAMMA) * at.age.float()).exp(), 0).sum(0)
    terms["end"] = torch.where(at.last, 0.05 * f - bill, 0)
    return terms
