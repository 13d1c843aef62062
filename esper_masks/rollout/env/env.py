"""Thousands of lifecycles on one device, stepped together; what a step does is in ``dynamics``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from esper_masks.checks import check_actions, check_bool, check_noise
from esper_masks.compiled.methods import CompiledMethod, GraphedMethod
from esper_masks.compiled.torch_private import intercepted
from esper_masks.decision.given import Given
from esper_masks.decision.step import MODES, Mode
from esper_masks.distributions.noise import Noise, NoiseKey, uniforms
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.rollout.env.calibration import Calibration
from esper_masks.rollout.env.dynamics import Assumptions, Dynamics, nothing
from esper_masks.rollout.env.mechanics import Mechanics, mechanics_of
from esper_masks.rollout.env.state import State, improvement
from esper_masks.rules import MaskRules


class StepInfo(Mapping[str, Tensor]):
    """What a step gives beside the rest. The final observation is computed when it is asked for.

    info["returns"]    float32 [batch]: rewards of the episode so far, or of the whole episode where it ended
    info["final_obs"]  float32 [batch, obs_size]: before environments whose episode ended were empty again
    """

    def __init__(self, dynamics: Dynamics, arguments: Sequence[Any], returns: Tensor):
        self._dynamics, self._arguments, self._made = dynamics, arguments, {"returns": returns}

    def __getitem__(self, name: str) -> Tensor:
        if name == "final_obs" and name not in self._made:
            with torch.no_grad():
                state, _ = self._dynamics.advance(self._arguments, reset=False)
                self._made[name] = self._dynamics.observe(state)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("returns", "final_obs"))

    def __len__(self) -> int:
        return 2


class LifecycleEnv:
    """Environments in which seeds germinate, are blended in, and are kept or culled, modelled on logs of real runs.

    An episode has ``episode_length`` epochs, and a step is one epoch. Episodes terminate rather than being truncated:
    the observation includes the time. The environment then begins the next episode by itself. What happens in an epoch,
    and which parts are measured and which assumed, is described in ``docs/environment.md``; in short:

        the op moves a seed along an edge of the rules; an illegal action is WAIT, and is counted
        every seed ages; after its dwell time in a stage it enters the next stage by itself
        accuracy gain  the sum of the hidden qualities of the seeds, each times its share in the network
        reward         change of the gain, less the rent of all parameters; at the end only kept seeds count

    Everything stays on the device. Nothing here reads it back.

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
        max_seeds: how many seeds may germinate in an episode; 0 for any number.
        episode_length: epochs of an episode.
        calibration: distributions; by default those of the package.
        seed: seed of the noise that ``step`` draws.
        device: where everything lives.
        mode: how to run; see ``DecisionStep``. Under ``"cuda-graph"`` a step overwrites what the step before gave.
        mechanics: what the lifecycle does by itself; by default the entry of the rules in ``MECHANICS``.
        assumptions: what the logs do not say.
        kinds: see ``MaskEngine``.
        given: a function of a ``rollout.State`` to ``row``, ``head_masks`` and ``restrict`` of ``MaskEngine``, under
            which actions are legal in that state. It is called for each step, and again for ``masks`` and ``given``, so
            it must give the same for the same state; it is compiled with the rest. Observations say nothing of it.
        switches: the rule set's switches, by name.

    Raises:
        RulesError: rules that are not for growing networks, or without mechanics.
        SlotStateError: slot ids that are missing or repeat.
        ValueError: a number out of range, or a calibration without a blueprint or a stage of the rules.
        RuntimeError: ``"cuda-graph"`` on no CUDA device.
    """

    def __init__(
        self,
        rules: MaskRules,
        num_envs: int,
        slot_ids: Sequence[str] | None = None,
        *,
        max_seeds: int = 0,
        episode_length: int = 25,
        calibration: Calibration | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        mode: Mode = "eager",
        mechanics: Mechanics | None = None,
        assumptions: Assumptions | None = None,
        kinds: Mapping[str, Sequence[str]] | None = None,
        given: Callable[[State], Given] = nothing,
        **switches: Any,
    ):
        numbers = {"num_envs": num_envs, "episode_length": episode_length, "seed": seed, "max_seeds": max_seeds}
        for name, value in numbers.items():
            least = int(name in ("num_envs", "episode_length"))
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
        for kind, part in ((Calibration, calibration), (Mechanics, mechanics), (Assumptions, assumptions)):
            if not (part is None or isinstance(part, kind)):
                raise ValueError(f"{kind.__name__.lower()} must be of rollout.{kind.__name__}, got {part!r:.80}")
        if not callable(given):
            raise ValueError(f"given must be a function of a rollout.State, got {type(given).__name__}")
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not one of {', '.join(map(repr, MODES))}")
        if mode == "cuda-graph" and torch.device("cpu" if device is None else device).type != "cuda":
            raise RuntimeError(f"mode='cuda-graph' needs a CUDA device, got device={device!r}")
        self._like: dict[str, Any] = {"max_seeds": max_seeds, "episode_length": episode_length, "device": device}
        self._like |= {"calibration": calibration, "mechanics": mechanics, "assumptions": assumptions, **switches}
        self._like |= {"kinds": kinds, "given": given}
        self.engine = MaskEngine(rules, slot_ids, max_seeds=max_seeds, kinds=kinds, device=device, **switches)
        self.num_envs, self.mode, self.device = num_envs, mode, self.engine.device
        self.dynamics = Dynamics(
            self.engine,
            Calibration.default() if calibration is None else calibration,
            mechanics_of(rules) if mechanics is None else mechanics.of(rules),
            episode_length,
            Assumptions() if assumptions is None else assumptions,
            given,
        )
        self.obs_size = self.dynamics.obs_size
        self._generator = torch.Generator(self.device).manual_seed(seed)
        with torch.inference_mode(False):
            self.illegal_actions = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self.state = self._fresh()
        self._step, self._observe = self._run(self.dynamics.step), self._run(self.dynamics.observe)

    def _run(self, method: Callable[[Any], Any]) -> Callable[[Any], Any]:
        if self.mode == "eager":
            return method
        compiled = CompiledMethod(method)
        run = GraphedMethod(compiled) if self.mode == "cuda-graph" else compiled
        return lambda given: (method if torch.compiler.is_compiling() or intercepted() else run)(given)

    def _fresh(self) -> State:
        batch, slots = self.num_envs, len(self.engine.slot_ids)

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=self.device)

        whole = [zeros(slots, batch) for _ in range(3)]
        real = [zeros(slots, batch, dtype=torch.float32) for _ in range(3)]
        sums = [zeros(batch, dtype=torch.float32) for _ in range(2)]
        fields = [self.engine.empty_slots(batch), *whole, *real, zeros(batch), zeros(batch), *sums]
        return State(*fields)

    def another(self, num_envs: int, seed: int, mode: Mode = "eager") -> "LifecycleEnv":
        """Other environments of the same task, at the beginning of an episode."""
        return LifecycleEnv(self.engine.rules, num_envs, self.engine.slot_ids, seed=seed, mode=mode, **self._like)

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
            self.state = self._fresh()
        else:
            where = check_bool("where", where, torch.Size([self.num_envs]), self.device)
            wide = State(*[where] * len(State._fields))._replace(states=where.view(-1, 1, 1))
            parts = zip(wide, self._fresh(), self.state)
            self.state = State(*[torch.where(begins, fresh, field) for begins, fresh, field in parts])
        if seed is not None:
            self.seed(seed)
        return self.obs

    def seed(self, seed: int) -> None:
        """Seed the noise again; states stay as they are."""
        self._generator.manual_seed(seed)

    def masks(self) -> ActionMasks:
        """What is legal in the current states, ``[batch]``."""
        return self.dynamics.masks(self.state)

    def step(self, actions: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, StepInfo]:
        """One epoch of every environment.

        Args:
            actions: integer ``[batch, heads]``. An illegal action, -1 too, is WAIT and counted in ``illegal_actions``.
            noise: uniform in [0, 1], ``[batch, dynamics.uniforms]``; by default from the environment's generator.

        Returns: observations ``[batch, obs_size]``, of a new episode where one ended; reward float32 ``[batch]``;
            terminated and truncated bool ``[batch]``, the second always False; ``StepInfo``.
        Raises:
            ValueError: actions or noise that do not fit.
        """
        check_actions("actions", actions, torch.Size([self.num_envs]), self.engine.layout.head_names)
        if actions.ndim != 2 or actions.device != self.device:
            wanted = (self.num_envs, len(self.engine.layout.heads))
            raise ValueError(
                f"actions have shape {tuple(actions.shape)} on {actions.device}; wanted {wanted} on {self.device}"
            )
        size = torch.Size([self.num_envs, self.dynamics.uniforms])
        drawn = self.draw() if noise is None else check_noise(noise, size, self.state.quality)
        before = [field.clone() for field in self.state] if self.mode == "cuda-graph" else self.state
        actions = actions.clone()  # the memory may be a buffer's, and ``info`` may need the actions later
        arguments = *before, actions, drawn
        with torch.no_grad():
            self.state, outcome, obs = self._step(arguments)
            self.illegal_actions = self.illegal_actions + outcome.illegal
        info = StepInfo(self.dynamics, arguments, outcome.returns)
        return obs, outcome.reward, outcome.terminated, torch.zeros_like(outcome.terminated), info

    def draw(self) -> Noise:
        """Noise of a step from the environment's generator, or the key of such noise."""
        if self.mode == "compiled" and self.device.type == "cpu":
            return NoiseKey.draw(self._generator)  # compiled for a CPU, torch draws one by one
        return uniforms((self.num_envs, self.dynamics.uniforms), torch.float32, self.device, self._generator)

    # -- what is there ------------------------------------------------------------------------------------------------

    @property
    def states(self) -> Tensor:
        """Slot states, int32 ``[batch, slots, features]``."""
        return self.state.states

    @property
    def total_seeds(self) -> Tensor:
        """Seeds germinated in the episode, int32 ``[batch]``."""
        return self.state.total_seeds

    @property
    def given(self) -> Given:
        """What decides legality beside the current states: what a policy is to hand on to its step."""
        return self.dynamics.given(self.state)

    @property
    def obs(self) -> Tensor:
        """Observations of the current states, float32 ``[batch, obs_size]``."""
        with torch.no_grad():
            observed: Tensor = self._observe(self.state)
        return observed

    @property
    def improvement(self) -> Tensor:
        """Measured improvement of each seed in accuracy points, float32 ``[batch, slots]``; 0 without a reading."""
        return improvement(self.state).movedim(0, -1)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to resume: tensors, the state of the generator, and what identifies rules and task."""
        fields = {name: field.clone() for name, field in self.state._asdict().items()}
        counts = {"illegal_actions": self.illegal_actions.clone(), "generator": self._generator.get_state()}
        return {"rules": self.engine.fingerprint, "task": self.dynamics.task, **fields, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a ``state_dict``.

        Raises:
            ValueError: a state of other rules, another task or another number of environments, or no such dict;
                nothing is changed then.
        """
        wanted = {**self.state._asdict(), "illegal_actions": self.illegal_actions}
        if not isinstance(state, Mapping) or set(state) != {"rules", "task", "generator", *wanted}:
            raise ValueError("this is no state_dict of a LifecycleEnv")
        if state["rules"] != self.engine.fingerprint:
            raise ValueError("the state is of an environment with other rules or other settings of their switches")
        if state["task"] != self.dynamics.task:
            raise ValueError("the state is of other slots, another episode length, seed limit or calibration")
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
        self.state = State(**fields)


def _form(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
