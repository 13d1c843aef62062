"""Thousands of lifecycles on one device, stepped together; what a step does is the affair of ``dynamics``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from esper_masks.checks import check_actions, check_bool, check_noise
from esper_masks.compiled.methods import CompiledMethod, GraphedMethod
from esper_masks.compiled.torch_private import intercepted
from esper_masks.decision.given import Given
from esper_masks.decision.step import MODES, Mode
from esper_masks.distributions.noise import Noise, NoiseKey, keyed_uniforms, uniforms
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.rollout.env.calibrated import Assumptions, CalibratedDynamics
from esper_masks.rollout.env.calibration import Calibration
from esper_masks.rollout.env.dynamics import (
    RESERVED,
    Dynamics,
    Outcome,
    check_advanced,
    check_compiled,
    check_dynamics,
    check_fresh,
    check_observed,
    check_state,
    given_too,
    played,
)
from esper_masks.rollout.env.mechanics import Mechanics
from esper_masks.rollout.env.scheduled import ScheduledAssumptions, ScheduledDynamics
from esper_masks.rules import MaskRules

# by what environments run that are given no dynamics, by the name of their rules; all others by ``CalibratedDynamics``
DYNAMICS: dict[str, type[Dynamics]] = {"esper-2026-06": ScheduledDynamics}


class StepInfo(Mapping[str, Any]):
    """What a step gives beside the rest. What is of the final states is computed when it is asked for.

    info["returns"]      float32 [batch]: rewards of the episode so far, or of the whole episode where it ended
    info["final_obs"]    float32 [batch, obs_size]: before environments whose episode ended began another
    info["final_masks"]  ActionMasks [batch]: what was legal then, beside ``final_obs``
    """

    def __init__(self, made: Mapping[str, Any], later: Mapping[str, Callable[[], Any]]):
        self._made, self._later = dict(made), later

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            with torch.no_grad():
                self._made[name] = self._later[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("returns", *self._later))

    def __len__(self) -> int:
        return 1 + len(self._later)


class Looked(NamedTuple):
    """What decides legality in a state."""

    states: Tensor  # int32 [batch, slots, features]
    total_seeds: Tensor  # int32 [batch]
    given: Given


class Epoch(NamedTuple):
    """A step as a function of tensors."""

    after: Any  # the state as the dynamics left it
    outcome: Outcome
    returns: Tensor  # float32 [batch]: rewards of the episode, also where it ended
    following: Any  # the state in which the next step begins
    obs: Tensor  # float32 [batch, obs_size]: of that
    final: Mapping[str, Any]  # what ``StepInfo`` has of the first state, if the second was written into its memory


class LifecycleEnv:
    """Environments that follow the lifecycle of a rule set, by default those of growing networks.

    What a step does is a part of its own, the dynamics. Without ``dynamics`` it is ``CalibratedDynamics``: seeds
    germinate, are blended in, and are kept or culled, modelled on logs of real runs. ``docs/environment.md`` describes
    these, what is measured and what assumed, and how to write others. Under ``esper-2026-06`` it is
    ``ScheduledDynamics``, of which ``docs/environment-june.md`` tells. In short:

        the op moves a seed along an edge of the rules; an illegal action is WAIT, and is counted
        every seed ages; after its dwell time in a stage it enters the next stage by itself
        accuracy gain  the sum of the hidden qualities of the seeds, each times its share in the network
        reward         change of the gain, less the rent of all parameters; at the end only kept seeds count

    Episodes terminate rather than being truncated: the observation includes the time. The environment then begins the
    next episode by itself. Everything stays on the device. Nothing here reads it back.

    >>> import esper_masks as em, torch
    >>> env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 1000, seed=1)
    >>> obs = env.reset()
    >>> policy = em.FactoredCategorical(torch.zeros(1000, 15), env.masks())
    >>> obs, reward, terminated, truncated, info = env.step(policy.sample())
    >>> obs.shape, reward.shape, int(env.illegal_actions.sum())
    (torch.Size([1000, 53]), torch.Size([1000]), 0)

    Args:
        rules: a rule set.
        num_envs: number of environments, the batch.
        slot_ids: names of the slots; by default those of the rules.
        max_seeds: how many seeds may germinate in an episode, under ``esper-2026-06`` be in slots; 0 for any number.
        episode_length: epochs of an episode; by default those of the dynamics: 25, under ``esper-2026-06`` 150.
        calibration: distributions; by default those of the package. See ``CalibratedDynamics``.
        seed: seed of the noise that ``step`` draws.
        device: where everything lives.
        mode: how to run; see ``DecisionStep``. Under ``"cuda-graph"`` a step overwrites what the step before gave.
        mechanics: what the lifecycle does by itself; by default the entry of the rules in ``MECHANICS``. See
            ``CalibratedDynamics``; others have none.
        assumptions: what the logs do not say. See ``CalibratedDynamics``, ``ScheduledDynamics``.
        dynamics: a function of the engine to ``Dynamics``, such as ``RuleDynamics``, their class, or
            ``functools.partial`` of it with its own arguments. Not together with ``episode_length``, ``calibration``,
            ``mechanics`` or ``assumptions``.
        kinds: see ``MaskEngine``.
        given: a function of the state to ``row``, ``head_masks`` and ``restrict`` of ``MaskEngine``, under which
            actions are legal in that state, beside what the dynamics give. It is called for each step, and again for
            ``masks``, ``given`` and ``final_masks``, the last in states with which episodes ended, so it must give the
            same for the same state; it is compiled with the rest. Observations say nothing of it.
        switches: the rule set's switches, by name.

    Attributes:
        engine: makes the masks.
        dynamics: what a step does.
        kind: the class of the state.
        obs_names: what each number of an observation is.
        illegal_actions: how many actions of each environment were illegal so far, int64 ``[batch]``.

    Raises:
        RulesError: rules that are not for growing networks, or without mechanics, where no dynamics are given.
        SlotStateError: slot ids that are missing or repeat.
        ValueError: a number out of range, a mode in which the dynamics may not run, dynamics that lack something, or
            arguments that these dynamics do not have; or what these raise.
        RuntimeError: ``"cuda-graph"`` on no CUDA device.
    """

    def __init__(
        self,
        rules: MaskRules,
        num_envs: int,
        slot_ids: Sequence[str] | None = None,
        *,
        max_seeds: int = 0,
        episode_length: int | None = None,
        calibration: Calibration | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        mode: Mode = "eager",
        mechanics: Mechanics | None = None,
        assumptions: Assumptions | ScheduledAssumptions | None = None,
        dynamics: Callable[[MaskEngine], Dynamics] | None = None,
        kinds: Mapping[str, Sequence[str]] | None = None,
        given: Callable[[Any], Given] | None = None,
        **switches: Any,
    ):
        for name, value, least in (("num_envs", num_envs, 1), ("seed", seed, 0), ("max_seeds", max_seeds, 0)):
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
        if not (given is None or callable(given)):
            raise ValueError(f"given must be a function of the environment's state, got {type(given).__name__}")
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not one of {', '.join(map(repr, MODES))}")
        if mode == "cuda-graph" and torch.device("cpu" if device is None else device).type != "cuda":
            raise RuntimeError(f"mode='cuda-graph' needs a CUDA device, got device={device!r}")
        of_networks: dict[str, Any] = {"episode_length": episode_length, "calibration": calibration}
        of_networks |= {"mechanics": mechanics, "assumptions": assumptions}
        own = {name: value for name, value in of_networks.items() if value is not None}
        self._like: dict[str, Any] = {"rules": rules, "max_seeds": max_seeds, "device": device, "dynamics": dynamics}
        self._like |= {"kinds": kinds, "given": given, **own, **switches}
        make = _factory(rules, dynamics, own)
        self.engine = MaskEngine(rules, slot_ids, max_seeds=max_seeds, kinds=kinds, device=device, **switches)
        self.num_envs, self.mode, self.device = num_envs, mode, self.engine.device
        self.dynamics = check_dynamics(make(self.engine), self.engine, mode)
        with _computing():
            self.dynamics.check(mode)
        # where the dynamics find it, too
        self.dynamics.given = partial(given_too, self.dynamics.given, given)  # type: ignore[method-assign]
        if given is not None and mode != "eager":
            with _computing():
                check_compiled("given", given, [(state,) for state, _, _ in played(self.dynamics)])
        self.obs_names = self.dynamics.obs_names
        self._generator = torch.Generator(self.device).manual_seed(seed)
        with _computing():
            self.illegal_actions = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
            self._none = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
            first = self.dynamics.fresh(num_envs)
            check_fresh(self.dynamics, first, num_envs)
            self._state = _counted(first, torch.zeros_like(first.epoch), torch.zeros_like(first.returns))
            self.kind = type(first)
        # in which environments an episode has ended, and ``_state`` does not yet have the beginning of the next; None
        # where that is none. Compiled code makes it in the graph of the next step, so that no memory holds both states
        self._ended: Tensor | None = None
        self._advance, self._observe = self._run(self.advance), self._run(self.observe)
        self._begin, self._look = self._run(self.following), self._run(self.looked)
        self._looked: Looked | None = None  # while ``_state`` does not have it

    def _run(self, method: Callable[[Any], Any]) -> Callable[[Any], Any]:
        if self.mode == "eager":
            return method
        compiled = CompiledMethod(method)
        run = GraphedMethod(compiled) if self.mode == "cuda-graph" else compiled
        return lambda given: (method if torch.compiler.is_compiling() or intercepted() else run)(given)

    def another(
        self,
        num_envs: int,
        seed: int,
        mode: Mode = "eager",
        dynamics: Callable[[MaskEngine], Dynamics] | None = None,
    ) -> "LifecycleEnv":
        """Other environments of the same task, or by other dynamics, at the beginning of an episode."""
        like = self._like if dynamics is None else {**self._like, "dynamics": dynamics}
        return LifecycleEnv(num_envs=num_envs, slot_ids=self.engine.slot_ids, seed=seed, mode=mode, **like)

    # -- stepping -----------------------------------------------------------------------------------------------------

    def reset(self, where: Tensor | None = None, *, seed: int | None = None) -> Tensor:
        """Start an episode in every environment, or in some of them.

        Args:
            where: bool ``[batch]``: environments that begin an episode; the others stay as they are.
            seed: seed of the noise from here on; by default the noise is not seeded again.

        Returns: observations, float32 ``[batch, obs_size]``.
        Raises:
            ValueError: ``where`` of another shape, dtype or device.
        """
        if where is None:
            where = ~self._none
        where = check_bool("where", where, torch.Size([self.num_envs]), self.device)
        with _computing():
            self._state = self.begin(self.state, where)
        if seed is not None:
            self.seed(seed)
        return self.obs

    def seed(self, seed: int) -> None:
        """Seed the noise again; states stay as they are."""
        self._generator.manual_seed(seed)

    def masks(self) -> ActionMasks:
        """What is legal in the current states, ``[batch]``."""
        seen = self._seen()
        return self.dynamics.masks_of(seen.states, seen.total_seeds, self.given)

    def step(self, actions: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, StepInfo]:
        """One step of every environment.

        Args:
            actions: integer ``[batch, heads]``. An illegal action, -1 too, is WAIT and counted in ``illegal_actions``.
            noise: uniform in [0, 1], ``[batch, dynamics.uniforms]``; by default from the environment's generator.

        Returns: observations ``[batch, obs_size]``, of a new episode where one ended; reward float32 ``[batch]``;
            terminated and truncated bool ``[batch]``, the second always False; ``StepInfo``.
        Raises:
            ValueError: actions or noise that do not fit, or dynamics that gave what does not.
        """
        check_actions("actions", actions, torch.Size([self.num_envs]), self.engine.layout.head_names)
        if actions.ndim != 2 or actions.device != self.device:
            wanted = (self.num_envs, len(self.engine.layout.heads))
            raise ValueError(
                f"actions have shape {tuple(actions.shape)} on {actions.device}; wanted {wanted} on {self.device}"
            )
        size = torch.Size([self.num_envs, self.dynamics.uniforms])
        drawn = self.draw() if noise is None else check_noise(noise, size, self._state.returns)
        actions = actions.clone()  # the memory may be a buffer's, and a state may keep some of it
        with _computing():
            if self.mode == "eager":
                after, outcome, returns, self._state, obs, final = self.epoch(self.state, actions, drawn)
            else:
                (after, outcome, obs), final = self._advance((*self.carried, actions, drawn)), {}
                after = self._kept(after)  # ``info`` may be asked after the next step
                self.carry(after, outcome.terminated)
                returns = after.returns
            self.illegal_actions = self.illegal_actions + outcome.illegal
            # the caller's to write to: what the environment keeps may be the same memory
            reward, terminated, returns = (told.clone() for told in (outcome.reward, outcome.terminated, returns))
        later: dict[str, Callable[[], Any]] = {"final_obs": partial(self.observe, after)}
        later["final_masks"] = partial(self.dynamics.masks, after)
        info = StepInfo({"returns": returns, **final}, later)
        return obs, reward, terminated, torch.zeros_like(terminated), info

    def draw(self) -> Noise:
        """Noise of a step from the environment's generator, or the key of such noise."""
        if self.mode == "compiled" and self.device.type == "cpu":
            return NoiseKey.draw(self._generator)  # compiled for a CPU, torch draws one by one
        return uniforms((self.num_envs, self.dynamics.uniforms), torch.float32, self.device, self._generator)

    # -- a step as a function of tensors, which is compiled: here, and in one graph with a policy ---------------------

    @property
    def carried(self) -> tuple[Tensor, ...]:
        """What a step begins with: the fields of a state, and where an episode ended that the state still holds."""
        return *self._state, self._none if self._ended is None else self._ended

    def carry(self, after: Any, ended: Tensor | None) -> None:
        """Keep the fields with which a step ended, and where their episode has ended; None where all have begun."""
        self._state, self._ended, self._looked = self.kind(*after), ended, None

    def begin(self, state: Any, where: Tensor) -> Any:
        """The state, or the fields of one, with the beginning of an episode in some environments."""
        before = self.kind(*state)
        made = self.dynamics.reset(before, where)
        check_state(f"{type(self.dynamics).__name__}.reset", before, made)
        return _counted(made, made.epoch.masked_fill(where, 0), made.returns.masked_fill(where, 0))

    def observe(self, state: Any) -> Tensor:
        """The observation of a state."""
        obs = self.dynamics.observe(state)
        check_observed(self.dynamics, state.epoch.shape[0], obs)
        return obs

    def following(self, carried: Sequence[Tensor]) -> Any:
        """The state in which the next step begins, of what is ``carried``."""
        *fields, ended = carried
        return self.begin(fields, ended)

    def epoch(self, state: Any, actions: Tensor, noise: Noise) -> Epoch:
        """One step from a state that every environment is in."""
        dynamics = self.dynamics
        if isinstance(noise, NoiseKey):
            size = state.epoch.shape[0], dynamics.uniforms
            noise = keyed_uniforms(noise, size, stacked=True)[0].movedim(0, -1)
        after, outcome = dynamics.advance(state, actions, noise)
        check_advanced(dynamics, state, after, outcome)
        returns = state.returns + outcome.reward
        after, final = _counted(after, state.epoch + 1, returns), {}
        if dynamics.in_place:  # what is told of this step is out of the way of what is written for the next
            outcome = Outcome(*[part.clone() for part in outcome])
            after = after._replace(returns=returns.clone())
            final = {"final_obs": self.observe(after), "final_masks": dynamics.masks(after)}
        following = self.begin(after, outcome.terminated)
        return Epoch(after, outcome, returns, following, self.observe(following), final)

    def looked(self, carried: Sequence[Tensor]) -> Looked:
        """What decides legality in the state in which the next step begins. Compiled, nothing else of it is made."""
        state = self.following(carried)
        return Looked(state.states, state.total_seeds, self.dynamics.given(state))

    def advance(self, given: Sequence[Any]) -> tuple[Any, Outcome, Tensor]:
        """One step from what is ``carried``, actions and noise or its key.

        Returns: the state as the dynamics left it, to be carried with ``terminated``; the outcome; observations of the
            state in which the next step begins.
        """
        *carried, actions, noise = given
        made = self.epoch(self.following(carried), actions, noise)
        return made.after, made.outcome, made.obs

    # -- what is there ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """The current state, a named tuple of the dynamics; a new one can be set."""
        if self._ended is not None:
            with _computing():
                self._state, self._ended = self._kept(self._begin(self.carried)), None
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        check_state("the state that was set", self._state, state)
        if self.dynamics.in_place:  # which would write to what is the caller's
            with _computing():
                state = self.kind(*[field.clone() for field in state])
        self._state, self._ended = state, None

    def _kept(self, state: Any) -> Any:
        """A state that no later call of a graph overwrites."""
        return self.kind(*[field.clone() for field in state]) if self.mode == "cuda-graph" else state

    def _seen(self) -> Any:
        """The current state, or a ``Looked`` of it where the rest is not there yet."""
        if self._ended is None:
            return self._state
        if self._looked is None:
            with _computing():
                looked = self._look(self.carried)
                self._looked = tree_map_only(Tensor, Tensor.clone, looked) if self.mode == "cuda-graph" else looked
        return self._looked

    @property
    def obs_size(self) -> int:
        """How many numbers an observation has."""
        return len(self.obs_names)

    @property
    def states(self) -> Tensor:
        """Slot states, int32 ``[batch, slots, features]``."""
        states: Tensor = self._seen().states
        return states

    @property
    def total_seeds(self) -> Tensor:
        """Seeds that a seed limit counts, int32 ``[batch]``; which these are is the affair of the dynamics."""
        seeds: Tensor = self._seen().total_seeds
        return seeds

    @property
    def given(self) -> Given:
        """What decides legality beside the current states: what a policy is to hand on to its step."""
        seen = self._seen()
        return seen.given if isinstance(seen, Looked) else self.dynamics.given(seen)

    @property
    def obs(self) -> Tensor:
        """Observations of the current states, float32 ``[batch, obs_size]``."""
        with torch.no_grad():
            observed: Tensor = self._observe(self.state)
        return observed

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to resume: tensors, the state of the generator, and what identifies rules and task."""
        fields = {name: field.clone() for name, field in self.state._asdict().items()}
        counts = {"illegal_actions": self.illegal_actions.clone(), "generator": self._generator.get_state()}
        return {"rules": self.engine.fingerprint, "task": self.dynamics.fingerprint, **fields, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a ``state_dict``.

        Raises:
            ValueError: a state of other rules, another task or another number of environments, or no such dict;
                nothing is changed then.
        """
        wanted = {**self.state._asdict(), "illegal_actions": self.illegal_actions}
        if not isinstance(state, Mapping) or not set(state) >= RESERVED:
            raise ValueError("this is no state_dict of a LifecycleEnv")
        if state["rules"] != self.engine.fingerprint:
            raise ValueError("the state is of an environment with other rules or other settings of their switches")
        if state["task"] != self.dynamics.fingerprint:
            raise ValueError(
                "the state is of other dynamics, or of other slots, another episode length, seed limit or calibration"
            )
        if set(state) != RESERVED | set(wanted):
            raise ValueError(f"the state lacks fields or has others; wanted {', '.join(wanted)}")
        given = state["states"]
        if isinstance(given, Tensor) and given.ndim == 3 and len(given) != self.num_envs:
            raise ValueError(
                f"the state is of {len(given)} environments, and there are {self.num_envs} here: make them with "
                f"num_envs={len(given)}"
            )
        for name, field in wanted.items():
            if (got := _form(state[name])) != _form(field):
                raise ValueError(f"{name} of the state is {got}; this environment has {_form(field)}")
        fields = {name: torch.empty_like(field).copy_(state[name]) for name, field in wanted.items()}
        try:
            self._generator.set_state(state["generator"].cpu())
        except (AttributeError, RuntimeError, TypeError):
            raise ValueError("the state has a generator of another kind of device") from None
        self.illegal_actions = fields.pop("illegal_actions")
        self._state, self._ended = self.kind(**fields), None


def _form(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _factory(
    rules: MaskRules, dynamics: Callable[[MaskEngine], Dynamics] | None, of_networks: Mapping[str, Any]
) -> Callable[[MaskEngine], Dynamics]:
    """What makes the dynamics.

    Raises:
        ValueError: dynamics that are no such function, or arguments that these dynamics do not have.
    """
    if dynamics is None:
        default = DYNAMICS.get(getattr(rules, "name", ""), CalibratedDynamics)
        if default is not CalibratedDynamics and "mechanics" in of_networks:
            raise ValueError(
                f"mechanics= is of CalibratedDynamics, and {rules.name} runs by {default.__name__}, which knows what "
                "its lifecycle does by itself: leave it out"
            )
        return partial(default, **of_networks)
    if of_networks:
        names = " and ".join(f"{name}=" for name in of_networks)
        raise ValueError(
            f"dynamics= together with {names}: these are of CalibratedDynamics. Give them to your own, as in "
            "functools.partial(YourDynamics, ...), or leave dynamics out"
        )
    if isinstance(dynamics, Dynamics) or not callable(dynamics):
        kind = type(dynamics).__name__
        raise ValueError(
            f"dynamics must be a function of an engine to rollout.Dynamics, got {kind}"
            + f", which is of one engine already: give the class, or functools.partial({kind}, ...)"
            * isinstance(dynamics, Dynamics)
        )
    return dynamics


@contextmanager
def _computing() -> Iterator[None]:
    """Without gradients, and with tensors that code within inference mode and outside may write to."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _counted(state: Any, epoch: Tensor, returns: Tensor) -> Any:
    """A state with the two fields that the environment counts."""
    counts = {"epoch": epoch, "returns": returns}
    return type(state)(*[counts.get(name, field) for name, field in zip(state._fields, state)])
