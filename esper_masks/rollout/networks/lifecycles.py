"""Lifecycles as real networks go through them: which seeds are trained, and with what share."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.choices import is_any
from esper_masks.rollout.env.dwells import Dwells
from esper_masks.rollout.env.dynamics import BLUEPRINT
from esper_masks.rollout.env.mechanics import MECHANICS, mechanics_of
from esper_masks.rollout.env.schedule import TRAINING, Schedule
from esper_masks.rollout.networks.population import Networks
from esper_masks.rules import MaskRules
from esper_masks.rules.fields import FrozenMapping

DWELLS = FrozenMapping({"GERMINATED": 1, "TRAINING": 2, "BLENDING": 3})  # epochs; of stages that are not here 1
VANISHED, EXPLODED = 1e-7, 10.0  # norms of the gradient of a seed, beyond which the second gate of June refuses it


class NetworkState(NamedTuple):
    """The state of hosts and their seeds. What a slot has no seed for is 0."""

    states: Tensor  # int32 [batch, slots, features]: the engine's
    total_seeds: Tensor  # int32 [batch]: seeds that germinated in the episode
    epoch: Tensor  # int32 [batch]
    returns: Tensor  # float32 [batch]
    key: Tensor  # int64 [batch]: pool, round and number; see ``keys_of``
    elapsed: Tensor  # int32 [slots, batch]: epochs in the stage
    blueprint: Tensor  # int32 [slots, batch]
    alpha: Tensor  # float32 [slots, batch]: the share of the seed in its layer
    loss_at_birth: Tensor  # float32 [slots, batch]: loss on validation when it germinated
    seed_norm: Tensor  # float32 [slots, batch]: of its gradient, a mean over the epoch
    norm: Tensor  # float32 [batch]: of the gradient of the host
    training_loss: Tensor  # float32 [2, batch]: loss in training, in this epoch and in the one before
    loss: Tensor  # float32 [2, batch]: loss on validation, after this epoch and after the one before
    accuracy: Tensor  # float32 [batch]: on validation
    potential: Tensor  # float32 [batch]: what the network is ahead of its twin by, less rent; not observed
    diverged: Tensor  # int32 [batch]: epochs of the episode in which a step was not finite, and was not taken
    host: Tensor  # float32 [parameters, batch]: this and what follows are those of ``Networks``
    host_momentum: Tensor  # float32 [parameters, batch]
    seeds: Tensor  # float32 [slots, parameters, batch]
    seed_momentum: Tensor  # float32 [slots, parameters, batch]

    @property
    def networks(self) -> Networks:
        """What is trained."""
        return Networks(*[getattr(self, name) for name in Networks._fields])


class ScheduledNetworkState(NamedTuple):
    """The same under ``esper-2026-06``, where seeds have what ``Schedule`` says."""

    states: Tensor
    total_seeds: Tensor  # int32 [batch]: seeds that are in slots
    in_stage: Tensor
    blueprint: Tensor
    style: Tensor
    tempo: Tensor
    goal: Tensor
    alpha: Tensor
    velocity: Tensor
    start: Tensor
    target: Tensor
    steps: Tensor
    done: Tensor
    curve: Tensor
    epoch: Tensor  # from here on all is as in ``NetworkState``
    returns: Tensor
    key: Tensor
    loss_at_birth: Tensor
    seed_norm: Tensor
    norm: Tensor
    training_loss: Tensor
    loss: Tensor
    accuracy: Tensor
    potential: Tensor
    diverged: Tensor
    host: Tensor
    host_momentum: Tensor
    seeds: Tensor
    seed_momentum: Tensor

    @property
    def networks(self) -> Networks:
        """What is trained."""
        return Networks(*[getattr(self, name) for name in Networks._fields])


States = NetworkState | ScheduledNetworkState


class Lived(NamedTuple):
    """What an op, and a tick before the epoch, make of seeds, each bool ``[slots, batch]``."""

    born: Tensor  # those that germinate
    held: Tensor  # those that are there while networks are trained
    kept: Tensor  # those that stay
    taught: Tensor  # those that are trained without a share
    frozen: Tensor | None  # seeds that have a share and are not trained; None where there are none
    fields: dict[str, Tensor]  # of the next state, those of the lifecycle


class DwellingSeeds(Dwells):
    """Seeds under rules with mechanics. A seed has the share 0, and is taught, until BLENDING.

    Args:
        engine: has the rules.
        dwells: stage -> epochs after which it is left by itself; 1 where it is not named.

    Raises:
        RulesError: rules without mechanics, or those of ``Dwells``.
        ValueError: an unknown stage, or a number that is none of epochs.
    """

    kind = NetworkState
    epochs = 20  # of an episode, where nobody says

    def __init__(self, engine: MaskEngine, dwells: Mapping[str, int]):
        rules = engine.rules
        super().__init__(engine, mechanics_of(rules), "NetworkDynamics")
        stage = {member.name: int(member) for member in rules.stages}
        if unknown := sorted(
            name for name, epochs in dwells.items() if name not in stage or type(epochs) is not int or epochs < 1
        ):
            raise ValueError(f"dwells must have stages of {rules.name} and epochs of at least 1, got {unknown}")
        self.dwells = {stage[name]: epochs for name, epochs in dwells.items()}
        self.facts, self.arguments = tuple(dwells.items()), {"dwells": dwells}
        self.seen = [*self.seen, "alpha"]

    def lived(self, old: Any, heads: Mapping[str, Tensor], acted: Tensor) -> Lived:
        """What an op makes of slots, and the stages that are left after the epoch.

        Args:
            old: the state before.
            heads: actions, each int32 ``[batch]``.
            acted: bool ``[slots, batch]``, the slot in which an action acts; none where it is illegal.
        """
        was, age = (old.states[..., column].movedim(-1, 0) for column in (0, 1))  # [slots, batch]
        stage = self.entered(was, heads["op"], acted)
        born = (was == self.empty) & (stage != self.empty)
        blueprint = torch.where(born, heads[BLUEPRINT], old.blueprint)
        elapsed = torch.where(stage != was, 0, old.elapsed) + 1
        held = ~is_any(stage, self.without_seed)
        alpha = self.share(stage, elapsed, self.dwells.get(self.blending, 1))
        due = elapsed >= 1
        for number, epochs in self.dwells.items():
            due = torch.where(stage == number, elapsed >= epochs, due)
        following = self.left(stage, due)
        empty = following == self.empty
        fields = {
            "states": self.states(following, torch.where(empty, 0, torch.where(born, 0, age) + 1)),
            "total_seeds": old.total_seeds + born.sum(0, dtype=torch.int32),
            "elapsed": torch.where(empty | (following != stage), 0, elapsed),
            "blueprint": torch.where(held, blueprint, 0),
            "alpha": alpha,
        }
        return Lived(born, held, stage == self.kept, held & (alpha == 0), None, fields)

    def rows(self, state: Any, length: int) -> list[Tensor]:
        """What is observed of slots, in the order of ``seen``: each float32."""
        return [*super().rows(state, length), state.alpha]

    def turn(self, state: Any) -> Tensor:
        """A number by which the heuristic takes the blueprint of its next seed, int64 ``[batch]``."""
        turn: Tensor = state.total_seeds.long()
        return turn

    def most(self, slots: int, length: int) -> int:
        """What numbers of seeds are divided by where they have no limit."""
        return length


class ScheduledSeeds(Schedule):
    """Seeds under ``esper-2026-06``. They are taught in TRAINING, and rest in GERMINATED; one whose share is brought
    down by a ramp is frozen. G2 asks for a gradient that has neither vanished nor exploded.

    Args:
        engine: has the rules.
        automatic: see ``Schedule``.

    Raises:
        RulesError, ValueError: those of ``Schedule``.
    """

    kind = ScheduledNetworkState
    epochs = 30  # of an episode, where nobody says

    def __init__(self, engine: MaskEngine, automatic: Sequence[str]):
        super().__init__(engine, "NetworkDynamics", automatic=automatic)
        self.facts, self.arguments = ("automatic", *self.automatic), {"automatic": self.automatic}

    def lived(self, old: Any, heads: Mapping[str, Tensor], acted: Tensor) -> Lived:
        """See ``DwellingSeeds``. The tick comes before the epoch."""
        healthy = (old.seed_norm > VANISHED) & (old.seed_norm < EXPLODED)
        born, held, kept, faded, fields = self.move(old, heads, acted, lambda *_: healthy)
        taught = fields["states"][..., 0].movedim(-1, 0) == TRAINING
        return Lived(born, held, kept, taught, faded & held, fields)

    def turn(self, state: Any) -> Tensor:
        """See ``DwellingSeeds``."""
        turn: Tensor = state.epoch.long()
        return turn

    def most(self, slots: int, length: int) -> int:
        """See ``DwellingSeeds``."""
        return slots


def kind_of(rules: MaskRules) -> type[DwellingSeeds] | type[ScheduledSeeds]:
    """The lifecycle of some rules: June's where slots have a mode of their alpha, else that of their mechanics."""
    return DwellingSeeds if "alpha_mode" not in rules.features or rules.name in MECHANICS else ScheduledSeeds


def lifecycle_of(
    engine: MaskEngine, dwells: Mapping[str, int] | None, automatic: Sequence[str]
) -> DwellingSeeds | ScheduledSeeds:
    """See ``kind_of``.

    Raises:
        RulesError: rules without either.
        ValueError: an argument of the other lifecycle, or out of range.
    """
    rules = engine.rules.name
    if kind_of(engine.rules) is DwellingSeeds:
        if automatic:
            raise ValueError(f"automatic= is of the gates of esper-2026-06, and {rules} has none: leave it out")
        return DwellingSeeds(engine, DWELLS if dwells is None else dwells)
    if dwells is not None:
        raise ValueError(f"dwells= is of stages that are left after a time, and under {rules} none is: leave it out")
    return ScheduledSeeds(engine, automatic)
