"""One epoch of many lifecycles: what the op does, how seeds grow, the reward, advances by themselves, the observation.

All of it is a function of tensors, which ``LifecycleEnv`` keeps. Every value of a slot lies in memory
``[slots, batch]``, so that a lane runs over environments; a choice between few numbers is a chain of ``where``, because
gathers are not vectorized.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from esper_masks.decision.given import Given
from esper_masks.distributions.noise import NoiseKey, keyed_uniforms
from esper_masks.errors import RulesError
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.rollout.env.calibration import Calibration, Improvement
from esper_masks.rollout.env.mechanics import Mechanics
from esper_masks.rollout.env.state import Outcome, State, improvement
from esper_masks.rules.names import INT32, OP, SLOT

BLUEPRINT = "blueprint"

CENTRE: tuple[float, ...] = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087)
CENTRE += (-0.00125372503, -0.00417768164, 0.246640727, 1.50140941)
TAIL: tuple[float, ...] = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773)
TAIL += (-0.0076224613, 0.00943887047, 1.00167406, 2.83297682)


def nothing(state: State) -> Given:
    """What is given where a caller gives nothing."""
    return {}


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


class Dynamics(nn.Module):
    """Constants of the rules and of a calibration, and what happens in an epoch.

    Args:
        engine: the engine of the masks, with the seed limit of an episode; 0 for none.
        calibration: distributions.
        mechanics: mechanics of the engine's rules.
        episode_length: epochs of an episode.
        assumptions: what the logs do not say.
        given: what decides legality beside the states, see ``LifecycleEnv``.

    Attributes:
        uniforms: numbers of noise that an environment takes in an epoch: two, and two for each slot.
        obs_size: numbers that an observation has.

    Raises:
        RulesError: rules without a head of blueprints or an op that fills an empty slot.
        ValueError: the calibration has no seed of a legal blueprint, no epochs of a stage that is left by itself, or no
            seeds that tell the noise of a reading.
    """

    def __init__(
        self,
        engine: MaskEngine,
        calibration: Calibration,
        mechanics: Mechanics,
        episode_length: int,
        assumptions: Assumptions,
        given: Callable[[State], Given] = nothing,
    ):
        super().__init__()
        self.engine, self.given, rules, layout = engine, given, engine.rules, engine.layout
        task = engine.slot_ids, episode_length, engine.max_seeds, calibration.to_json(), mechanics, assumptions
        self.task = hashlib.sha256(repr(task).encode()).hexdigest()  # stands in checkpoints
        self.episode_length, self.max_seeds, self.rent = episode_length, engine.max_seeds, assumptions.rent
        if BLUEPRINT not in layout.head_names:
            raise RulesError(f"{rules.name} has no head {BLUEPRINT!r}, by which seeds differ")
        stage = {member.name: int(member) for member in rules.stages}
        self.empty, self.kept, self.blending = int(rules.empty), stage[mechanics.kept], stage[mechanics.blending]
        self.full = tuple(stage[name] for name in mechanics.full)
        self.without_seed = (self.empty, *(stage[name] for name in mechanics.cleared))
        self.advances = tuple((stage[source], stage[target]) for source, target in mechanics.advances.items())
        self.moves = tuple(
            (int(op.id), int(source), int(target))
            for op in rules.op_rules
            for source, targets in rules.transitions.items()
            for target in targets
            if target in (op.enters, op.moves.get(source))
        )
        if all(source != self.empty for _, source, _ in self.moves):
            raise RulesError(f"no op of {rules.name} fills an empty slot")
        reached = {self.empty, *(s for pair in self.advances for s in pair), *(target for _, _, target in self.moves)}
        self.stages = tuple(sorted(reached))
        self.op_at, self.slot_at, self.blueprint_at = (layout.head_names.index(name) for name in (OP, SLOT, BLUEPRINT))
        known = {name.upper(): entry for name, entry in calibration.blueprints.items() if entry.improvement.seeds}
        head = layout.heads[self.blueprint_at]
        choices = head.choices
        legal = {c for number, row in enumerate(head.by_op) if head.users >> number & 1 for c in row}
        if lacking := [choices[c] for c in sorted(legal) if choices[c] not in known]:
            raise ValueError(
                f"the calibration lacks the blueprints {', '.join(lacking)}; it has {', '.join(sorted(known))}"
            )
        if assumptions.noise is None and not calibration.unblended.seeds:
            raise ValueError(
                "no seed of the calibration ended before it was blended in, so it does not tell the noise of readings: "
                "pass Assumptions(noise=...), or calibrate from logs with such seeds"
            )
        self.noise = float(calibration.unblended.spread if assumptions.noise is None else assumptions.noise)
        self.blueprints = tuple(sorted(legal))
        measured = [known[name].improvement if name in known else Improvement(0, 0.0, 0.0) for name in choices]
        self.mean = tuple(part.mean for part in measured)
        self.spread = tuple(max(part.spread**2 - self.noise**2, 0.0) ** 0.5 for part in measured)
        self.params = tuple(known[name].params if name in known else 0 for name in choices)
        waits = set(mechanics.advances) - set(mechanics.cleared)
        if unknown := sorted(name for name in waits if not sum(calibration.dwell.get(name, {}).values())):
            raise ValueError(f"the calibration has no epochs of {', '.join(unknown)}")
        self.dwells = {s: _thresholds(calibration.dwell.get(name, {})) for name, s in stage.items()}
        self.slots = len(engine.slot_ids)
        self.uniforms = 2 + 2 * self.slots
        self.obs_size = self.slots * (len(self.stages) + len(self.blueprints) + 4) + 2

    # -- what is compiled ---------------------------------------------------------------------------------------------

    def advance(self, given: Sequence[Any], *, reset: bool = True) -> tuple[State, Outcome]:
        """The next state and the outcome.

        Noise is uniform, ``[batch, uniforms]``: the quality of a new seed, the dwell time of a stage that an op enters;
        then for each slot the noise of its reading; then for each slot the dwell time of a stage entered by itself.

        Args:
            given: the fields of a ``State``, actions, and noise or its key.
            reset: whether environments whose episode ends are empty again.
        """
        *fields, actions, noise = given
        old = State(*fields)
        size, keyed = (old.epoch.shape[0], self.uniforms), isinstance(noise, NoiseKey)
        [uniform] = keyed_uniforms(noise, size, stacked=True) if keyed else [noise.movedim(-1, 0)]
        stage, age = (old.states[..., column].movedim(-1, 0) for column in (0, 1))  # [slots, batch]
        heads = [values.int() for values in actions.long().clamp(-1, INT32[-1]).unbind(-1)]
        legal, acted = self.masks(old).acts_on(heads)
        op = heads[self.op_at]

        entered = stage
        for number, source, target in self.moves:
            entered = torch.where(acted & (op == number) & (stage == source), target, entered)
        moved, born = entered != stage, acted & (stage == self.empty) & (entered != self.empty)
        chosen = heads[self.blueprint_at]
        blueprint = torch.where(born, chosen, old.blueprint)
        drawn = self._of(chosen, self.mean) + self._of(chosen, self.spread) * normal_quantile(uniform[0])
        quality = torch.where(born, drawn, old.quality)
        evidence, weight = old.evidence.masked_fill(born, 0), old.weight.masked_fill(born, 0)
        dwell = torch.where(moved, self._dwell(entered, uniform[1]), old.dwell)
        elapsed = torch.where(moved, 0, old.elapsed) + 1
        age = torch.where(born, 0, age) + 1

        full, kept = is_any(entered, self.full), entered == self.kept
        share = torch.where(entered == self.blending, (elapsed.float() / dwell.clamp_min(1)).clamp_max(1), full.float())
        ends = old.epoch + 1 >= self.episode_length
        gain, reward = self._reward(old, torch.where(kept | ~ends, share * quality, 0), entered, blueprint)
        read = torch.where(kept, 0, share)
        error = self.noise * normal_quantile(uniform[2 : 2 + self.slots])
        evidence = evidence + read * (read * quality + error)
        weight = weight + read * read

        following = entered
        for source, target in self.advances:
            following = torch.where((entered == source) & (elapsed >= dwell), target, following)
        advanced = following != entered
        dwell = torch.where(advanced, self._dwell(following, uniform[2 + self.slots :]), dwell)
        elapsed = torch.where(advanced, 0, elapsed)
        returns, seeds = old.returns + reward, old.total_seeds + born.sum(0, dtype=torch.int32)
        cleared = following == self.empty
        if reset:
            cleared = cleared | ends
            following, gain = torch.where(ends, self.empty, following), gain.masked_fill(ends, 0)
        of_slots = [age, elapsed, dwell, blueprint, quality, evidence, weight]
        age, elapsed, dwell, blueprint, quality, evidence, weight = [
            field.masked_fill(cleared, 0) for field in of_slots
        ]
        ended = ends if reset else torch.zeros_like(ends)
        epoch, seeds, total = [field.masked_fill(ended, 0) for field in (old.epoch + 1, seeds, returns)]
        further = [torch.zeros_like(age)] * (old.states.shape[-1] - 2)
        states = torch.stack([following, age, *further]).permute(2, 1, 0)  # [batch, slots, features]
        state = State(states, elapsed, dwell, blueprint, quality, evidence, weight, epoch, seeds, gain, total)
        return state, Outcome(reward, ends, ~legal, returns)

    def masks(self, state: State) -> ActionMasks:
        """What is legal in a state."""
        totals = state.total_seeds if self.max_seeds > 0 else None
        masks: ActionMasks = self.engine(state.states, totals, max_seeds=self.max_seeds, **self.given(state))
        return masks

    def step(self, given: Sequence[Any]) -> tuple[State, Outcome, Tensor]:
        """``advance``, and the observation of the state after it."""
        state, outcome = self.advance(given)
        return state, outcome, self.observe(state)

    def observe(self, state: State) -> Tensor:
        """The observation of a state.

        For each slot, feature by feature: its stage, among those that can be reached; its blueprint; age and epochs in
        the stage, over the length of an episode; the measured improvement over 10 points, and how certain that is,
        w / (1 + w). Then for the environment: the part of the episode that is over, and the part of the seeds.

        Returns: float32 ``[batch, obs_size]``, in memory ``[obs_size, batch]``.
        """
        stage, age = (state.states[..., column].movedim(-1, 0) for column in (0, 1))
        occupied = ~is_any(stage, self.without_seed)
        rows = [(stage == s).float() for s in self.stages]
        rows += [((state.blueprint == b) & occupied).float() for b in self.blueprints]
        rows += [age.float() / self.episode_length, state.elapsed.float() / self.episode_length]
        rows += [improvement(state) / 10, state.weight / (1 + state.weight)]
        seeds = state.total_seeds.float() / (self.max_seeds if self.max_seeds > 0 else self.episode_length)
        whole = torch.stack([state.epoch.float() / self.episode_length, seeds])
        return torch.cat([torch.stack(rows).flatten(0, 1), whole]).movedim(0, -1)

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
        params = self._of(blueprint, self.params).masked_fill(is_any(stage, self.without_seed), 0)
        return gain, gain - old.gain - self.rent * params.sum(0)

    def _of(self, blueprint: Tensor, values: Sequence[float]) -> Tensor:
        """The value that belongs to each blueprint, float32."""
        found = torch.zeros_like(blueprint, dtype=torch.float32)
        for number in self.blueprints:
            found = torch.where(blueprint == number, float(values[number]), found)
        return found

    def _dwell(self, stage: Tensor, uniform: Tensor) -> Tensor:
        """Epochs in a stage that is entered: at least one, int32."""
        epochs = torch.ones_like(stage)
        for source, _ in self.advances:
            least, steps = self.dwells[source]
            drawn = torch.full_like(uniform, least)
            for threshold, step in steps:
                drawn = drawn + (uniform >= threshold).float() * step
            epochs = torch.where(stage == source, drawn.int(), epochs)
        return epochs


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


def is_any(values: Tensor, of: Sequence[int]) -> Tensor:
    """Whether each value is one of some numbers, without a copy of the numbers to the device."""
    return reduce(torch.logical_or, [values == one for one in of]) if of else torch.zeros_like(values, dtype=torch.bool)


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
