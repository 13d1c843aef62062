"""The dynamics of June 2026: a share that rises by schedules, stages that are left by ops through gates, cooldowns.

An epoch of the original, and what is a step here, from decision to decision:

    original                                  a step here
    train, validate, counters + 1             3. readings, counters + 1
    observe, sample, reward                   observation and masks; the shaped reward
    op                                        1. the op
    tick of every slot                        2. the tick
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from esper_masks.decision.step import Mode
from esper_masks.errors import RulesError
from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.calibrated import normal_quantile, qualities
from esper_masks.rollout.env.calibration import Calibration
from esper_masks.rollout.env.choices import is_any, value_of
from esper_masks.rollout.env.dynamics import BLUEPRINT, Dynamics, Outcome
from esper_masks.rollout.env.schedule import BLENDING, DORMANT, GERMINATED, HOLD, HOLDING, LEAST, TRAINING, Schedule
from esper_masks.rollout.env.shaped import Decision, shaped_terms
from esper_masks.rules.fields import FrozenMapping
from esper_masks.rules.names import OP, SLOT
from esper_masks.rulesets.esper_2026_06 import LifecycleOp

Reward = Literal["gain", "shaped"]

WORTH = 1.0  # accuracy points of a contribution that a strict G5 wants

# Parameters of a seed: facts of the original, for 64 channels of a convolutional host and a width of 384 of the other
PARAMS: Mapping[str, Mapping[str, int]] = {
    "cnn": {"CONV_LIGHT": 36992, "ATTENTION": 2112, "NORM": 129, "DEPTHWISE": 4800}
    | {"BOTTLENECK": 4480, "CONV_SMALL": 4224, "CONV_HEAVY": 73984},
    "transformer": {"ATTENTION": 591360, "NORM": 769, "LORA": 6144, "LORA_LARGE": 24576, "MLP_SMALL": 590976}
    | {"MLP": 1181568, "FLEX_ATTENTION": 591360},
}
HOSTS = {"cnn": 6418, "transformer": 10_000_000}  # parameters of the host; the second is an assumption
RENTS = {"cnn": 1e-6, "transformer": 6e-8}  # the largest blueprint costs about the same in both
# a zero convolution before a ReLU: no tensor of such a seed gets a gradient, and G2 never opens
DEAD, DEAD_IF_MULTIPLIED, MULTIPLY = ("CONV_SMALL",), ("CONV_LIGHT", "CONV_HEAVY", "DEPTHWISE"), 1
LIKE = {"BOTTLENECK": "DEPTHWISE", "CONV_SMALL": "CONV_LIGHT", "LORA": "NORM", "LORA_LARGE": "NORM"}
LIKE |= {"MLP_SMALL": "CONV_LIGHT", "MLP": "CONV_HEAVY", "FLEX_ATTENTION": "ATTENTION"}


class ScheduledState(NamedTuple):
    """The state of environments under ``ScheduledDynamics``. What a slot has no seed for is 0."""

    states: Tensor  # int32 [batch, slots, features]: stage, age and alpha_mode
    in_stage: Tensor  # int32 [slots, batch]: epochs since the last move, cooldowns included
    blueprint: Tensor  # int32 [slots, batch]
    style: Tensor  # int32 [slots, batch]
    tempo: Tensor  # int32 [slots, batch]: epochs of the first ramp
    goal: Tensor  # float32 [slots, batch]: target of the first ramp
    alpha: Tensor  # float32 [slots, batch]: the share of the seed in the network
    velocity: Tensor  # float32 [slots, batch]: alpha less alpha an epoch ago
    start: Tensor  # float32 [slots, batch]: alpha at which the ramp began
    target: Tensor  # float32 [slots, batch]: alpha at which it ends; 0 for a seed that is being pruned
    steps: Tensor  # int32 [slots, batch]: epochs of the ramp
    done: Tensor  # int32 [slots, batch]: those that are over
    curve: Tensor  # int32 [slots, batch]
    quality: Tensor  # float32 [slots, batch]: accuracy points that the seed adds at alpha 1; not observed
    base: Tensor  # float32 [slots, batch]: the gain when it germinated; not observed
    contribution: Tensor  # float32 [slots, batch]: the last reading; 0 if there was none in this epoch
    evidence: Tensor  # float32 [slots, batch]: readings times the alpha of each
    weight: Tensor  # float32 [slots, batch]: squares of these alphas
    epoch: Tensor  # int32 [batch]
    total_seeds: Tensor  # int32 [batch]: seeds that are in slots, which a seed limit counts under these rules
    gain: Tensor  # float32 [batch]: accuracy points of all seeds
    rise: Tensor  # float32 [batch]: gain less the gain an epoch ago; not observed
    returns: Tensor  # float32 [batch]


@dataclass(frozen=True)
class ScheduledAssumptions:
    """What neither the facts of the original nor the logs say; see ``docs/environment-june.md``.

    Args:
        refusal: probability that a permissive G2 refuses a seed in an epoch: gradients are measured on one batch.
        strict_refusal: the same for a strict one, which wants accuracy and gradients that the model does not have.
        like: blueprint -> one whose improvement it has where the calibration lacks it.
        rent: accuracy points that one parameter costs in one epoch; by default 1e-6, for transformers 6e-8.
        noise: standard deviation of a reading, accuracy points; by default that of the calibration.
        host: parameters of the host, by which the shaped reward scales those of seeds; by default 6,418 as in the
            original, for transformers 10,000,000.

    Raises:
        ValueError: a number out of range.
    """

    refusal: float = 0.1
    strict_refusal: float = 0.3
    like: Mapping[str, str] = FrozenMapping(LIKE)
    rent: float | None = None
    noise: float | None = None
    host: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "like", FrozenMapping(self.like))
        for name in ("refusal", "strict_refusal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a probability, got {getattr(self, name)!r}")
        for name in ("rent", "noise", "host"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number, not negative, got {value!r}")


class ScheduledDynamics(Dynamics):
    """What happens to a network that grows under ``esper-2026-06``: by facts of the original, and assumptions.

    ``LifecycleEnv`` runs by these dynamics under these rules, and hands on ``calibration``, ``episode_length`` and
    ``assumptions``. ``docs/environment-june.md`` has facts and assumptions one by one. In short, in a step:

        1. the op: gates may refuse ADVANCE and FOSSILIZE, which are legal all the same and then do nothing; an illegal
           action is WAIT
        2. the tick: ramps go on by an epoch, cooldowns too, gates that are ``automatic`` open
        3. every seed with a share that is not a fossil is read; counters + 1

        gain            sum of the hidden qualities of the seeds, each times its alpha
        reward, gain    change of the gain, less the rent of all parameters; at the end only fossils count
        reward, shaped  that of the original, as far as the model has its quantities; ``shaped_terms`` has its terms

    >>> import esper_masks as em, torch
    >>> from functools import partial
    >>> shaped = partial(em.rollout.ScheduledDynamics, reward="shaped", strict=True)
    >>> env = em.rollout.LifecycleEnv(em.ruleset("esper-2026-06"), 1000, dynamics=shaped, topology="transformer")
    >>> policy = em.FactoredCategorical(torch.zeros(1000, 41), env.masks())
    >>> obs, reward, terminated, truncated, info = env.step(policy.sample())

    Args:
        engine: of the rules ``esper-2026-06``, or of rules with the same stages, ops, features and heads.
        calibration: improvements of blueprints and the noise of readings; by default those of the package.
        episode_length: epochs of an episode.
        assumptions: what neither facts nor logs say.
        automatic: the gates that open by themselves, of ``"G1"`` (GERMINATED to TRAINING), ``"G2"`` (to BLENDING) and
            ``"G3"`` (to HOLDING). All three go with the switch ``disable_advance`` of the rules, as in the original,
            and that goes with all three.
        strict: whether gates are the strict ones of the original, or the permissive ones.
        reward: ``"gain"`` or ``"shaped"``.

    Raises:
        RulesError: other rules.
        ValueError: an argument of another kind or out of range; or the calibration tells neither a legal blueprint nor
            that which it is ``like``, or not the noise.
    """

    def __init__(
        self,
        engine: MaskEngine,
        *,
        calibration: Calibration | None = None,
        episode_length: int = 150,
        assumptions: ScheduledAssumptions | None = None,
        automatic: Sequence[str] = (),
        strict: bool = False,
        reward: Reward = "gain",
    ):
        super().__init__(engine)
        for name, kind, part in (
            ("calibration", Calibration, calibration),
            ("assumptions", ScheduledAssumptions, assumptions),
        ):
            if not (part is None or isinstance(part, kind)):
                raise ValueError(f"{name} must be of rollout.{kind.__name__}, got {part!r:.80}")
        if type(episode_length) is not int or episode_length < 1:
            raise ValueError(f"episode_length must be an int of at least 1, got {episode_length!r}")
        if reward not in get_args(Reward):
            raise ValueError(f"reward={reward!r} is not one of {get_args(Reward)}")
        self.lifecycle = Schedule(engine, "ScheduledDynamics", automatic=automatic, strict=strict)
        self.automatic, self.strict, self.blueprints = self.lifecycle.automatic, strict, self.lifecycle.blueprints
        calibration = Calibration.default() if calibration is None else calibration
        assumptions = ScheduledAssumptions() if assumptions is None else assumptions
        names = engine.layout.head(BLUEPRINT).choices
        legal = {names[choice] for choice in self.blueprints}
        topology = _topology(engine, legal)
        known = {name.upper() for name, entry in calibration.blueprints.items() if entry.improvement.seeds}
        likes = [name if name in known else assumptions.like.get(name, name) for name in names]
        self.noise, self.mean, self.spread = qualities(calibration, likes, self.blueprints, assumptions.noise)
        self.params = tuple(PARAMS[topology].get(name, 0) for name in names)
        self.dead = tuple(at for at, name in enumerate(names) if name in DEAD)
        self.dead_if_multiplied = tuple(at for at, name in enumerate(names) if name in DEAD_IF_MULTIPLIED)
        self.rent = RENTS[topology] if assumptions.rent is None else assumptions.rent
        self.host = HOSTS[topology] if assumptions.host is None else assumptions.host
        self.refusal = assumptions.strict_refusal if strict else assumptions.refusal
        self.reward, self.episode_length, self.slots = reward, episode_length, len(engine.slot_ids)
        self.uniforms = 2 + self.slots
        of_slot = [*self.lifecycle.seen, "contribution", "improvement", "certainty"]
        self.obs_names = (*[f"{slot}: {name}" for name in of_slot for slot in engine.slot_ids], "epoch", "seeds")
        told = self.noise, self.mean, self.spread, self.params, self.rent, self.host, self.refusal
        self.fingerprint = self.digest(*told, self.blueprints, episode_length, self.automatic, strict, reward)

    def fresh(self, batch: int) -> ScheduledState:
        """All slots empty."""
        device = self.engine.device
        fields = {"states": self.engine.empty_slots(batch)}
        for name in ScheduledState._fields[1:]:
            shape = (batch,) if name in OF_BATCH else (self.slots, batch)
            fields[name] = torch.zeros(shape, dtype=torch.float32 if name in FLOATS else torch.int32, device=device)
        return ScheduledState(**fields)

    def advance(self, state: ScheduledState, actions: Tensor, noise: Tensor) -> tuple[ScheduledState, Outcome]:
        """An epoch. Noise is for the quality of a new seed, for G2, and then for the reading of each slot."""
        old, uniform = state, noise.movedim(-1, 0)
        heads, legal, acted = self._read(old, actions)
        ends = old.epoch + 1 >= self.episode_length
        worthy = (old.contribution >= WORTH) | (not self.strict)
        moved = self.lifecycle.move(
            old, heads, acted, lambda *seeds: (uniform[1] >= self.refusal) & ~self._is_dead(*seeds), worthy
        )
        born, held, kept, _, fields = moved
        blueprint, alpha = fields["blueprint"], fields["alpha"]

        mean, spread = (value_of(heads[BLUEPRINT], self.blueprints, of) for of in (self.mean, self.spread))
        quality = torch.where(born, mean + spread * normal_quantile(uniform[0]), old.quality)
        base = torch.where(born, old.gain, old.base)
        read = torch.where(kept, 0, alpha)
        reading = read * quality + self.noise * normal_quantile(uniform[2:])
        contribution = torch.where(read > 0, reading, 0)
        gain = torch.where(kept | ~ends, alpha * quality, 0).sum(0)
        if self.reward == "shaped":
            reward = torch.stack(list(self._terms(old, heads, legal).values())).sum(0)
        else:
            params = torch.where(held, value_of(blueprint, self.blueprints, self.params), 0)
            reward = gain - old.gain - self.rent * params.sum(0)
        evidence, weight = old.evidence + read * contribution, old.weight + read * read
        floats = {"quality": quality, "base": base, "evidence": evidence, "weight": weight}
        made = ScheduledState(
            **fields,
            **{name: torch.where(held, field, 0) for name, field in floats.items()},
            contribution=contribution,
            epoch=old.epoch,
            gain=gain,
            rise=gain - old.gain,
            returns=old.returns,
        )
        return made, Outcome(reward, ends, ~legal)

    def reset(self, state: ScheduledState, where: Tensor) -> ScheduledState:
        """See ``Dynamics``. By numbers: compiled, a step with fresh tensors takes longer."""
        states = self.lifecycle.cleared(state.states, where)
        return ScheduledState(states, *[torch.where(where, 0, field) for field in state[1:]])

    def observe(self, state: ScheduledState) -> Tensor:
        """The observation of a state; ``obs_names`` has the order.

        For each slot, feature by feature: stage, blueprint and style one-hot; age and epochs in the stage, over the
        length of an episode; tempo over 8 epochs and the target of the first ramp; alpha and what it gained in an
        epoch; target, way (UP 1, DOWN -1), epochs, those done and left of the ramp, over 8; the last reading over 10
        points; the measured improvement over 10 points, and how certain that is, w / (1 + w). Then for the environment:
        the part of the episode that is over, and seeds in slots over the seed limit or the slots.

        Returns: float32 ``[batch, obs_size]``, in memory ``[obs_size, batch]``.
        """
        length = self.episode_length
        rows = self.lifecycle.rows(state, length)
        rows += [state.contribution / 10, self.improvement(state) / 10, state.weight / (1 + state.weight)]
        seeds = state.total_seeds.float() / (self.engine.max_seeds or self.slots)
        rows += [(state.epoch.float() / length).unsqueeze(0), seeds.unsqueeze(0)]
        return torch.cat(rows).movedim(0, -1)

    def improvement(self, state: ScheduledState) -> Tensor:
        """The measured improvement of each seed at alpha 1, by least squares over its readings; 0 without any.

        Returns: accuracy points, float32 ``[slots, batch]``.
        """
        return state.evidence / state.weight.masked_fill(state.weight == 0, 1)

    def shaped_terms(self, state: ScheduledState, actions: Tensor) -> dict[str, Tensor]:
        """The terms of the shaped reward of a decision; the reward is their sum. ``reward`` does not matter here.

        With n the epochs in the stage, c the contribution of the chosen seed, f the gain of all seeds, p the gain since
        it germinated, t the epoch (1 for the first), and potential = that of its stage + min(0.3 n, 2):

            contribution  c if c < p or c < 0, else 0 if p <= 0, else 2pc / (p + c); times sigmoid(3f) if f < 0, and
                          times 0.4 + 0.06 b if it germinated at b < 10. PRUNE flips the sign; 0 for FOSSILIZE with
                          f < 0. In BLENDING, and not measured: 0.3 max(0, what f gained in the stage), one epoch
            ratio         if c > 1 and f >= 0: f > 0.1 and c / f > 5: -min(0.3, 0.1 (c / f - 5) / 5);
                          f <= 0.1: -0.3 min(1, c / 10)
            blending      in BLENDING with f < 0: -0.1 - min(0.05 n, 0.3)
            holding       in HOLDING with n >= 2 and a positive first term, but for FOSSILIZE and PRUNE:
                          -min(0.1 + 0.05 (n - 2), 0.3)
            potential     0.3 (0.995 potential - potential an epoch ago)
            rent          -min(0.5 ln(1 + sum over seeds from BLENDING on of 0.0039 host + alpha params, over host),
                          1.5)
            shock         -min(0.1958 sum of velocity^2 params / host, 1)
            occupancy     -0.01 max(0, slots held - 1) - 0.002 fossils; PRUNED slots are not held
            op            GERMINATE -0.15 + 0.2985 min(0.4 + 0.06 t, 1); ADVANCE in TRAINING -0.1;
                          SET_ALPHA_TARGET -0.005
                          FOSSILIZE -0.01, and f < 0: -0.5 - min(0.2 |f|, 1), and -0.3 if c > 0.1 and f < -0.2; else
                          c >= 1: (0.5 + 0.1 c + 3 tanh 1/3) min(1, n / 5); else -0.2
                          PRUNE -0.005 - 0.3 potential, and where it was measured c < -0.5: 0.15; c < 0: 0.1; else
                          -min(0.3 + 0.05 c, 0.9)
            end           in the last epoch: 0.05 f, and for each seed in GERMINATED or TRAINING -0.2985 / 0.995^age

        A host counts as one of 200 parameters at least. Terms of the chosen seed are 0 where the slot has none. What
        the model has no quantity for is left out: synergy, credit in hindsight, the governor. So are the division by a
        running standard deviation, and the clip to 10 after it.

        Args:
            state: before the op.
            actions: integer ``[batch, heads]``; an illegal one is WAIT.

        Returns: the terms by these names, each float32 ``[batch]``.
        """
        heads, legal, _ = self._read(state, actions)
        return self._terms(state, heads, legal)

    def heuristic(self, state: ScheduledState) -> Tensor:
        """What the original's own heuristic does: germinate, wait, advance what measures well, prune the rest.

        The first of these for which there is a slot, and in it the op if it is legal: a seed in HOLDING, or in BLENDING
        after its ramp, is fossilized or advanced if its measured improvement is positive (if gates are strict, above
        ``WORTH``), and else pruned at once; one in TRAINING is advanced after ten epochs, one in GERMINATED at once; an
        empty slot is given a seed of the blueprint with the largest mean improvement, dead ones left out, to be blended
        in fully.
        """
        layout, ops, masks = self.engine.layout, LifecycleOp, self.masks(state)
        stage, mode = state.states[..., 0], state.states[..., 2]  # [batch, slots]
        good = (self.improvement(state) > (WORTH if self.strict else 0)).movedim(0, -1)
        ripe = (state.in_stage >= LEAST).movedim(0, -1)
        judged = (stage == BLENDING) & (mode == HOLD)
        cases = (
            ((stage == HOLDING) & good, ops.FOSSILIZE),
            (((stage == HOLDING) | judged) & ~good, ops.PRUNE),
            (judged & good, ops.ADVANCE),
            ((stage == TRAINING) & ripe | (stage == GERMINATED), ops.ADVANCE),
            (stage == DORMANT, ops.GERMINATE),
        )
        canonical = [torch.full_like(stage[:, 0], head.canonical, dtype=torch.int64) for head in layout.heads]
        chosen = dict(zip(layout.head_names, canonical))
        chosen[OP] = torch.full_like(chosen[OP], int(ops.WAIT))
        for fits, op in reversed(cases):
            here = fits & masks.slot_by_op[..., int(op), :]
            chosen[SLOT] = torch.where(here.any(-1), here.int().argmax(-1), chosen[SLOT])
            chosen[OP] = torch.where(here.any(-1), int(op), chosen[OP])
        # the canonical style does not multiply
        best = max(self.blueprints, key=lambda choice: (choice not in self.dead, self.mean[choice]))
        chosen[BLUEPRINT] = torch.where(chosen[OP] == int(ops.GERMINATE), best, chosen[BLUEPRINT])
        return torch.stack([chosen[name] for name in layout.head_names], -1)

    def check(self, mode: Mode) -> None:
        """Nothing: no function of a caller is in it."""

    # -- parts --------------------------------------------------------------------------------------------------------

    def _is_dead(self, blueprint: Tensor, style: Tensor) -> Tensor:
        """Seeds that get no gradient from birth on, for which G2 never opens; bool ``[slots, batch]``."""
        return is_any(blueprint, self.dead) | (style == MULTIPLY) & is_any(blueprint, self.dead_if_multiplied)

    def _terms(self, old: ScheduledState, heads: Mapping[str, Tensor], legal: Tensor) -> dict[str, Tensor]:
        """The terms of the shaped reward of a decision, float32 ``[batch]``."""
        stage, age = (old.states[..., column].movedim(-1, 0) for column in range(2))
        op = torch.where(legal, heads[OP], int(LifecycleOp.WAIT))
        slots = torch.arange(self.slots, dtype=op.dtype, device=op.device).unsqueeze(-1)
        chosen = slots == torch.where(op == int(LifecycleOp.WAIT), 0, heads[SLOT])
        params = value_of(old.blueprint, self.blueprints, self.params)
        per_slot = stage, age, old.in_stage, old.alpha, old.velocity, old.contribution, old.base, params
        last = old.epoch + 1 >= self.episode_length
        return shaped_terms(Decision(*per_slot, chosen, op, old.epoch, old.gain, old.rise, last), self.host)


OF_BATCH = {"epoch", "total_seeds", "gain", "rise", "returns"}
FLOATS = {"goal", "alpha", "velocity", "start", "target", "quality", "base", "contribution", "evidence", "weight"}
FLOATS |= {"gain", "rise", "returns"}


def _topology(engine: MaskEngine, legal: set[str]) -> str:
    """The topology whose parameters the legal blueprints have: that of the switch, or without one the only that fits.

    Raises:
        RulesError: a topology without parameters, or blueprints that do not tell which it is.
    """
    fitting = [name for name, params in PARAMS.items() if legal <= set(params)]
    topology = engine.switches.get("topology", fitting[0] if len(fitting) == 1 else None)
    if topology in fitting:
        return str(topology)
    names = ", ".join(sorted(legal))
    if "topology" not in engine.switches and fitting:
        raise RulesError(
            f"{names} may be blueprints of {' or '.join(fitting)}, and parameters differ: give {engine.rules.name} a "
            "switch 'topology'"
        )
    known = "; ".join(f"for {name} of {', '.join(params)}" for name, params in PARAMS.items())
    raise RulesError(f"the parameters of {names} are not known together, under topology={topology!r}; known: {known}")
