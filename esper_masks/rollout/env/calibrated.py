"""The dynamics of growing networks: what the op does, how seeds grow, the reward, advances by themselves.

Every value of a slot lies in memory ``[slots, batch]``, so that a lane runs over environments; a choice between few
numbers is a chain of ``where``, because gathers are not vectorized.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.decision.step import Mode
from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.calibration import Calibration, Improvement
from esper_masks.rollout.env.choices import is_any, value_of
from esper_masks.rollout.env.dwells import Dwells
from esper_masks.rollout.env.dynamics import BLUEPRINT, Dynamics, Outcome, whole_actions
from esper_masks.rollout.env.mechanics import Mechanics, mechanics_of
from esper_masks.rules.names import OP, SLOT

CENTRE: tuple[float, ...] = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087)
CENTRE += (-0.00125372503, -0.00417768164, 0.246640727, 1.50140941)
TAIL: tuple[float, ...] = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773)
TAIL += (-0.0076224613, 0.00943887047, 1.00167406, 2.83297682)


class State(NamedTuple):
    """The state of a batch of environments, without what follows from other fields."""

    states: Tensor  # int32 [batch, slots, features]: the engine's
    elapsed: Tensor  # int32 [slots, batch]: epochs in the stage
    dwell: Tensor  # int32 [slots, batch]: epochs after which the stage is left by itself
    blueprint: Tensor  # int32 [slots, batch]
    quality: Tensor  # float32 [slots, batch]: accuracy points that the seed adds with its whole share; not observed
    evidence: Tensor  # float32 [slots, batch]: readings times the seed's share in each
    weight: Tensor  # float32 [slots, batch]: squares of the shares
    epoch: Tensor  # int32 [batch]
    total_seeds: Tensor  # int32 [batch]
    gain: Tensor  # float32 [batch]: accuracy points of all seeds
    returns: Tensor  # float32 [batch]: rewards of the episode


@dataclass(frozen=True)
class Assumptions:
    """What the logs do not say; see ``docs/environment.md``.

    Args:
        rent: accuracy points that one parameter costs in one epoch.
        noise: standard deviation of a reading of a seed's improvement, accuracy points; by default that of the
            calibration's seeds that ended before they had a share in the network.

    Raises:
        ValueError: a number out of range.
    """

    rent: float = 1e-6
    noise: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("rent", self.rent), ("noise", 0 if self.noise is None else self.noise)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of points, not negative, got {value!r}")


class CalibratedDynamics(Dynamics):
    """What happens to a network that grows: calibrated by logs of real runs. ``docs/environment.md`` describes it.

    ``LifecycleEnv`` runs by these dynamics where it is given no others, and hands on their arguments.

    Args:
        engine: the engine of the masks.
        calibration: distributions; by default those of the package.
        mechanics: what the lifecycle does by itself; by default the entry of the rules in ``MECHANICS``.
        episode_length: epochs of an episode.
        assumptions: what the logs do not say.

    Raises:
        RulesError: rules that are not for growing networks, or without mechanics; or in which an op does more than to
            move its slot.
        ValueError: an argument of another kind or out of range; or the calibration has no seed of a legal blueprint, no
            epochs of a stage that is left by itself, or no seeds that tell the noise of a reading.
    """

    def __init__(
        self,
        engine: MaskEngine,
        *,
        calibration: Calibration | None = None,
        mechanics: Mechanics | None = None,
        episode_length: int = 25,
        assumptions: Assumptions | None = None,
    ):
        super().__init__(engine)
        for kind, part in ((Calibration, calibration), (Mechanics, mechanics), (Assumptions, assumptions)):
            if not (part is None or isinstance(part, kind)):
                raise ValueError(f"{kind.__name__.lower()} must be of rollout.{kind.__name__}, got {part!r:.80}")
        if type(episode_length) is not int or episode_length < 1:
            raise ValueError(f"episode_length must be an int of at least 1, got {episode_length!r}")
        rules, layout = engine.rules, engine.layout
        calibration = Calibration.default() if calibration is None else calibration
        mechanics = mechanics_of(rules) if mechanics is None else mechanics.of(rules)
        assumptions = Assumptions() if assumptions is None else assumptions
        self.lifecycle = Dwells(engine, mechanics, "CalibratedDynamics")
        # not by ``digest``: it stands in the checkpoints of 0.1.0
        facts = engine.slot_ids, episode_length, engine.max_seeds, calibration.to_json(), mechanics, assumptions
        self.fingerprint = hashlib.sha256(repr(facts).encode()).hexdigest()
        self.episode_length, self.rent = episode_length, assumptions.rent
        self.stages, self.blueprints = self.lifecycle.stages, self.lifecycle.blueprints
        choices = layout.head(BLUEPRINT).choices
        known = {name.upper(): entry for name, entry in calibration.blueprints.items() if entry.improvement.seeds}
        self.noise, self.mean, self.spread = qualities(calibration, choices, self.blueprints, assumptions.noise)
        self.params = tuple(known[name].params if name in known else 0 for name in choices)
        waits = set(mechanics.advances) - set(mechanics.cleared)
        if unknown := sorted(name for name in waits if not sum(calibration.dwell.get(name, {}).values())):
            raise ValueError(f"the calibration has no epochs of {', '.join(unknown)}")
        self.dwells = {int(s): _thresholds(calibration.dwell.get(s.name, {})) for s in rules.stages}
        self.slots = len(engine.slot_ids)
        self.uniforms = 2 + 2 * self.slots
        of_slot = [*self.lifecycle.seen, "improvement", "certainty"]
        self.obs_names = (*[f"{slot}: {name}" for name in of_slot for slot in engine.slot_ids], "epoch", "seeds")

    def check(self, mode: Mode) -> None:
        """Nothing: no function of a caller is in it."""

    def fresh(self, batch: int) -> State:
        """All slots empty."""

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=self.engine.device)

        whole = [zeros(self.slots, batch) for _ in range(3)]
        real = [zeros(self.slots, batch, dtype=torch.float32) for _ in range(3)]
        sums = [zeros(batch, dtype=torch.float32) for _ in range(2)]
        fields = [self.engine.empty_slots(batch), *whole, *real, zeros(batch), zeros(batch), *sums]
        return State(*fields)

    def advance(self, state: State, actions: Tensor, noise: Tensor) -> tuple[State, Outcome]:
        """An epoch. Noise is for the quality of a new seed, and for the dwell time of a stage that an op enters; then
        for each slot for its reading; then for each slot for the dwell time of a stage that is entered by itself.
        """
        old, uniform, lifecycle = state, noise.movedim(-1, 0), self.lifecycle
        stage, age = (old.states[..., column].movedim(-1, 0) for column in (0, 1))  # [slots, batch]
        heads, legal, acted = self._read(old, actions)

        entered = lifecycle.entered(stage, heads[OP], acted)
        moved, born = entered != stage, acted & (stage == lifecycle.empty) & (entered != lifecycle.empty)
        chosen = heads[BLUEPRINT]
        blueprint = torch.where(born, chosen, old.blueprint)
        drawn = self._of(chosen, self.mean) + self._of(chosen, self.spread) * normal_quantile(uniform[0])
        quality = torch.where(born, drawn, old.quality)
        evidence, weight = torch.where(born, 0, old.evidence), torch.where(born, 0, old.weight)
        dwell = torch.where(moved, self._dwell(entered, uniform[1]), old.dwell)
        elapsed = torch.where(moved, 0, old.elapsed) + 1
        age = torch.where(born, 0, age) + 1

        kept, share = entered == lifecycle.kept, lifecycle.share(entered, elapsed, dwell.clamp_min(1))
        ends = old.epoch + 1 >= self.episode_length
        gain, reward = self._reward(old, torch.where(kept | ~ends, share * quality, 0), entered, blueprint)
        read = torch.where(kept, 0, share)
        error = self.noise * normal_quantile(uniform[2 : 2 + self.slots])
        evidence = evidence + read * (read * quality + error)
        weight = weight + read * read

        following = lifecycle.left(entered, elapsed >= dwell)
        advanced = following != entered
        dwell = torch.where(advanced, self._dwell(following, uniform[2 + self.slots :]), dwell)
        elapsed = torch.where(advanced, 0, elapsed)
        seeds, cleared = old.total_seeds + born.sum(0, dtype=torch.int32), following == lifecycle.empty
        of_slots = [age, elapsed, dwell, blueprint, quality, evidence, weight]
        age, *rest = [torch.where(cleared, 0, field) for field in of_slots]
        fields = [lifecycle.states(following, age), *rest, old.epoch, seeds, gain, old.returns]
        return State(*fields), Outcome(reward, ends, ~legal)

    def reset(self, state: State, where: Tensor) -> State:
        """See ``Dynamics``. By numbers: compiled, a step with fresh tensors takes a quarter longer."""
        stage, age = (state.states[..., column].movedim(-1, 0) for column in (0, 1))
        states = self.lifecycle.states(torch.where(where, self.lifecycle.empty, stage), torch.where(where, 0, age))
        fields = [states, *[torch.where(where, 0, field) for field in state[1:]]]
        return State(*fields)

    def observe(self, state: State) -> Tensor:
        """The observation of a state.

        For each slot, feature by feature: its stage, among those that can be reached; its blueprint; age and epochs in
        the stage, over the length of an episode; the measured improvement over 10 points, and how certain that is,
        w / (1 + w). Then for the environment: the part of the episode that is over, and the part of the seeds.

        Returns: float32 ``[batch, obs_size]``, in memory ``[obs_size, batch]``.
        """
        rows = self.lifecycle.rows(state, self.episode_length)
        rows += [self.improvement(state) / 10, state.weight / (1 + state.weight)]
        seeds = state.total_seeds.float() / (self.engine.max_seeds or self.episode_length)
        whole = torch.stack([state.epoch.float() / self.episode_length, seeds])
        return torch.cat([torch.stack(rows).flatten(0, 1), whole]).movedim(0, -1)

    def improvement(self, state: State) -> Tensor:
        """The measured improvement of each seed, by least squares over its readings, float32 ``[slots, batch]``; or 0.

        In accuracy points.
        """
        return state.evidence / state.weight.masked_fill(state.weight == 0, 1)

    def heuristic(self, state: State) -> Tensor:
        """Judge the first seed on probation, or else fill a slot.

        A seed whose measured improvement is negative is culled, any other is kept. New seeds have the blueprint with
        the largest mean improvement.

        Raises:
            RulesError: rules without ops that fill, keep and cull.
        """
        layout, lifecycle = self.engine.layout, self.lifecycle
        fill, keep, cull = (lifecycle.op(what) for what in ("fill", "keep", "cull"))
        stage = state.states[..., 0]
        waits = is_any(stage, lifecycle.waiting)
        empty = (stage == lifecycle.empty) & self.masks(state).slot_by_op[..., fill, :]
        judged, at = waits.any(-1), waits.int().argmax(-1)
        negative = self.improvement(state).movedim(0, -1).gather(-1, at.unsqueeze(-1)).squeeze(-1) < 0
        filled = empty.any(-1) & ~judged
        op = torch.where(judged, torch.where(negative, cull, keep), torch.where(filled, fill, self.wait))
        slot = torch.where(judged, at, torch.where(filled, empty.int().argmax(-1), layout.head(SLOT).canonical))
        best = max(self.blueprints, key=lambda choice: self.mean[choice])
        blueprint = torch.where(filled, best, layout.head(BLUEPRINT).canonical)
        return whole_actions(layout, {OP: op, SLOT: slot, BLUEPRINT: blueprint})

    # -- parts --------------------------------------------------------------------------------------------------------

    def _reward(self, old: State, added: Tensor, stage: Tensor, blueprint: Tensor) -> tuple[Tensor, Tensor]:
        """The gain after an epoch, and the reward of the epoch: accuracy points, float32 ``[batch]`` both.

            gain    what all seeds together add to the network
            reward  gain - gain before - rent * parameters of all seeds

        Args:
            old: the state before.
            added: what each seed adds, ``[slots, batch]``: its share of its quality; at the end 0, unless it is kept.
            stage: stages after the op, ``[slots, batch]``.
            blueprint: blueprints after the op, ``[slots, batch]``.
        """
        gain = added.sum(0)
        params = torch.where(is_any(stage, self.lifecycle.without_seed), 0, self._of(blueprint, self.params))
        return gain, gain - old.gain - self.rent * params.sum(0)

    def _of(self, blueprint: Tensor, values: Sequence[float]) -> Tensor:
        """The value that belongs to each blueprint, float32."""
        return value_of(blueprint, self.blueprints, values)

    def _dwell(self, stage: Tensor, uniform: Tensor) -> Tensor:
        """Epochs in a stage that is entered: at least one, int32."""
        epochs = torch.ones_like(stage)
        for source, _ in self.lifecycle.advances:
            least, steps = self.dwells[source]
            drawn = torch.full_like(uniform, least)
            for threshold, step in steps:
                drawn = drawn + (uniform >= threshold).float() * step
            epochs = torch.where(stage == source, drawn.int(), epochs)
        return epochs


def qualities(
    calibration: Calibration, names: Sequence[str], legal: Sequence[int], noise: float | None
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """How the qualities of seeds are distributed: the noise of a reading; mean and spread for each choice.

    Args:
        calibration: what logs say.
        names: the name that the calibration has for each choice of a blueprint.
        legal: the choices that seeds may have.
        noise: of a reading; None for that of the calibration.

    Raises:
        ValueError: the calibration has no seed of a legal choice, or none that tells the noise.
    """
    known = {name.upper(): entry.improvement for name, entry in calibration.blueprints.items()}
    known = {name: improvement for name, improvement in known.items() if improvement.seeds}
    if lacking := [names[c] for c in legal if names[c] not in known]:
        raise ValueError(
            f"the calibration lacks the blueprints {', '.join(lacking)}; it has {', '.join(sorted(known))}"
        )
    if noise is None and not calibration.unblended.seeds:
        raise ValueError(
            "no seed of the calibration ended before it was blended in, so it does not tell the noise of readings: "
            "pass assumptions with noise=, or calibrate from logs with such seeds"
        )
    noise = float(calibration.unblended.spread if noise is None else noise)
    measured = [known.get(name, Improvement(0, 0.0, 0.0)) for name in names]
    spread = tuple(max(part.spread**2 - noise**2, 0.0) ** 0.5 for part in measured)
    return noise, tuple(part.mean for part in measured), spread


def _thresholds(counts: Mapping[int, int]) -> tuple[int, tuple[tuple[float, int], ...]]:
    """The least number of epochs, at least one, and pairs: from which uniform on, how many epochs more."""
    seeds: Counter[int] = Counter()
    for epochs, number in counts.items():
        seeds[max(epochs, 1)] += number
    dwells = sorted(+seeds)  # without those that no seed had
    if not dwells:
        return 1, ()
    below = accumulate(seeds[epochs] for epochs in dwells)
    return dwells[0], tuple((n / seeds.total(), after - epochs) for n, (epochs, after) in zip(below, pairwise(dwells)))


def normal_quantile(uniform: Tensor) -> Tensor:
    """Standard normal numbers of float32 uniforms in [0, 1], finite, within some 1e-5 of their size.

    Source: Giles, "Approximating the erfinv function", GPU Computing Gems, 2010, the single-precision formula.
    """
    inner = uniform * (1 - 2**-23) + 2**-24  # within (0, 1)
    x = 2 * inner - 1
    w = -((1 - x) * (1 + x)).log()
    centre, tail = w - 2.5, w.clamp_min(5).sqrt() - 3
    return torch.where(w < 5, _polynomial(centre, CENTRE), _polynomial(tail, TAIL)) * (x * 2**0.5)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
