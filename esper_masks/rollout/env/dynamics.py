"""What happens in a step, as a part: the protocol by which ``LifecycleEnv`` runs any lifecycle."""

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from esper_masks.actions.layout import ActionLayout
from esper_masks.compiled.torch_private import compile_error, trace_function
from esper_masks.decision.given import Given
from esper_masks.decision.step import MODES, Mode
from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks
from esper_masks.rules.names import INT32, OP

# the fields that every state has, with their dtypes; all but ``states`` are [batch]
COMMON = {"states": torch.int32, "total_seeds": torch.int32, "epoch": torch.int32, "returns": torch.float32}
BLUEPRINT = "blueprint"  # the head by which seeds differ
PROBED, TRIED = 64, 16  # environments and steps, of those that are tried
HINT = (
    "In compiled code torch takes a comparison of a tensor with a member of an enum for False: compare with "
    "int(Stage.NAME)"
)
RESERVED = {"rules", "task", "generator", "illegal_actions"}  # what stands beside a state's fields in a ``state_dict``


class Outcome(NamedTuple):
    """What a step gives, before environments whose episode ended begin another."""

    reward: Tensor  # float32 [batch]
    terminated: Tensor  # bool [batch]: the episode ends with this step
    illegal: Tensor  # bool [batch]: the action was illegal, and was taken for an op that does nothing


class Dynamics(nn.Module, ABC):
    """What happens in a step of ``LifecycleEnv``: what ops do, what happens by itself, the reward, what is observed.

    A class of one's own has a named tuple for its state, the attributes below, and ``fresh``, ``advance`` and
    ``observe``; ``docs/environment.md`` has one in full. All of it is a function of tensors, so that one compiler can
    fuse a step with a policy: no loop over environments, nothing read from the device, and in whatever is compared with
    a tensor plain numbers, ``int(stage)`` and not a member of an enum.

    A state has at least these fields, and any others that are tensors:

        states       int32 [batch, slots, features]: the engine's
        total_seeds  int32 [batch]: seeds that a seed limit counts, such as those that germinated in the episode
        epoch        int32 [batch]: steps of the episode so far
        returns      float32 [batch]: rewards of the episode so far

    The environment itself counts ``epoch`` and ``returns``: ``advance`` reads them as they were before the step. The
    batch is the last axis of every field but ``states``, whether ``[batch]`` or ``[slots, batch]``, so that lanes run
    over environments, and that a checkpoint can be divided among processes.

    Args:
        engine: the engine of the environment's masks; it has rules, slots, seed limit and device.

    Attributes:
        uniforms: numbers of noise that an environment takes in a step.
        obs_names: what each number of an observation is, all different.
        episode_length: steps after which an episode has ended, at the latest.
        fingerprint: tells these dynamics from others, in checkpoints; ``digest`` makes one.
        modes: the modes of ``LifecycleEnv`` in which they may run, ``"eager"`` among them. ``"compiled"`` and
            ``"cuda-graph"`` are for dynamics that only compute new tensors from those they are given.
        in_place: whether ``advance`` and ``reset`` write into the state that they are given, and return it. Then
            ``modes`` is ``("eager",)``. A state that was looked at changes with the next step.
        heuristic: a method of a state to actions, int64 ``[batch, heads]``: a baseline for what is learned; or None.
    """

    uniforms: int
    obs_names: tuple[str, ...]
    episode_length: int
    fingerprint: str
    modes: tuple[Mode, ...] = get_args(Mode)
    in_place: bool = False
    heuristic: Callable[[Any], Tensor] | None = None

    def __init__(self, engine: MaskEngine):
        super().__init__()
        self.engine = engine

    # -- what a class of one's own has --------------------------------------------------------------------------------

    @abstractmethod
    def fresh(self, batch: int) -> Any:
        """The state at the beginning of an episode, in new memory, of any number of environments.

        ``engine.empty_slots(batch)`` gives empty slots. ``epoch`` and ``returns`` are 0.
        """

    @abstractmethod
    def advance(self, state: Any, actions: Tensor, noise: Tensor) -> tuple[Any, Outcome]:
        """One step, without the beginning of another episode where one ends. It is called exactly once a step.

        Args:
            state: of the same kind as ``fresh`` gives.
            actions: integer ``[batch, heads]``. Any may be illegal, -1 and numbers out of range among them: an illegal
                one is as if nothing was done. ``masks(state)`` says which are.
            noise: float32 ``[batch, uniforms]``, uniform in [0, 1].

        Returns: the state after the step, and its ``Outcome``.
        """

    @abstractmethod
    def observe(self, state: Any) -> Tensor:
        """What a policy sees of a state, float32 ``[batch, len(obs_names)]``, in memory of its own."""

    def given(self, state: Any) -> Given:
        """What decides legality beside the slot states: ``row``, ``head_masks`` and ``restrict`` of ``MaskEngine``.

        A function of the state alone: it is asked more than once. By default nothing. What ``LifecycleEnv(given=...)``
        adds is in it when the dynamics ask themselves, ``self.given(state)``.
        """
        return {}

    def reset(self, state: Any, where: Tensor) -> Any:
        """A state in which some environments begin an episode; the others stay as they are.

        Args:
            state: as ``advance`` left it.
            where: bool ``[batch]``: which begin. The environment itself sets their ``epoch`` and ``returns`` to 0.
        """
        return begun_in(state, where, self.fresh(where.shape[0]))

    def check(self, mode: Mode) -> None:
        """Raise ``ValueError`` for what would go wrong in a training, before it.

        By default ``advance`` and ``observe``, where they are compiled, are tried on some steps of random legal
        actions: whether they become one graph, and give what they give op by op. Called when an environment is made,
        without what its ``given`` adds. It may read the device.

        Args:
            mode: of the environment.
        """
        if mode != "eager":
            steps = list(played(self))
            check_compiled("observe", self.observe, [(state,) for state, _, _ in steps])
            check_compiled("advance", self.advance, steps)

    # -- what it may use ----------------------------------------------------------------------------------------------

    def masks(self, state: Any) -> ActionMasks:
        """What is legal in a state, under the seed limit and all that is given."""
        return self.masks_of(state.states, state.total_seeds, self.given(state))

    def masks_of(self, states: Tensor, total_seeds: Tensor, given: Given) -> ActionMasks:
        """The same, of the parts of a state that decide it."""
        limit = self.engine.max_seeds
        masks: ActionMasks = self.engine(states, total_seeds if limit > 0 else None, max_seeds=limit, **given)
        return masks

    def _read(self, state: Any, actions: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Actions by heads, int32 ``[batch]``; which are legal, bool ``[batch]``; in which slots they act."""
        values = [head.int() for head in actions.long().clamp(-1, INT32[-1]).unbind(-1)]
        return dict(zip(self.engine.layout.head_names, values)), *self.masks(state).acts_on(values)

    @property
    def wait(self) -> int:
        """The first op that is legal everywhere without a slot: WAIT."""
        layout = self.engine.layout
        return next(op for op in range(len(layout.ops)) if layout.unconditional >> op & 1)

    def digest(self, *facts: Any) -> str:
        """A fingerprint: of slots, kinds and seed limit of the engine, the class, and whatever else makes a difference.

        Args:
            facts: numbers, strings, bytes, None, members of enums, functions and classes, which count by their
                qualified names, and tuples, lists, ``functools.partial`` and dataclasses of such.

        Raises:
            ValueError: a fact of another kind: how it is written may differ from process to process, or be in short.
        """
        engine = self.engine
        kinds = sorted((name, tuple(slots)) for name, slots in engine.kinds.items())
        text = repr((type(self).__qualname__, engine.slot_ids, kinds, engine.max_seeds, _plain(facts)))
        return hashlib.sha256(text.encode()).hexdigest()


def _plain(fact: Any) -> Any:
    """A fact as what is written alike in every process; dicts are those made here."""
    kind = type(fact)
    if isinstance(fact, Enum):
        return {kind.__qualname__: [fact.name, _plain(fact.value)]}
    if fact is None or kind in (bool, int, float, complex, str, bytes):
        return fact
    if isinstance(fact, tuple | list):
        return [_plain(part) for part in fact]
    if isinstance(fact, partial):
        return {"partial": _plain([fact.func, fact.args, sorted(fact.keywords.items())])}
    if isinstance(fact, FunctionType | BuiltinFunctionType | type):
        return {"named": fact.__qualname__}
    if dataclasses.is_dataclass(fact):
        return {kind.__qualname__: [(part.name, _plain(getattr(fact, part.name))) for part in dataclasses.fields(fact)]}
    raise ValueError(
        f"a fingerprint is made of numbers, strings, functions, and tuples or dataclasses of such, got {fact!r:.80}: "
        "give those that it was made from"
    )


def begun_in(state: Any, where: Tensor, begun: Any) -> Any:
    """A state with another one where, bool ``[batch]``, an episode begins."""
    whole = [where.view(-1, 1, 1) if name == "states" else where for name in state._fields]
    return type(state)(*[torch.where(*parts) for parts in zip(whole, begun, state)])


def whole_actions(layout: ActionLayout, values: Mapping[str, Tensor]) -> Tensor:
    """Actions, int64 ``[batch, heads]``, of values ``[batch]`` of some heads, the op too; the others are canonical."""
    op = values[OP]
    return torch.stack([values.get(head.name, torch.full_like(op, head.canonical)) for head in layout.heads], -1).long()


def given_too(own: Callable[[Any], Given], callers: Callable[[Any], Given] | None, state: Any) -> Given:
    """What dynamics give beside a state, and what their caller does.

    Raises:
        ValueError: what is given is no mapping of mappings, or both give one name of one keyword.
    """
    first: Mapping[str, Any] = own(state)
    second: Mapping[str, Any] = {} if callers is None else callers(state)
    for made, who in ((first, "given of the dynamics"), (second, "the function given=")):
        if not isinstance(made, Mapping) or not all(
            held is None or isinstance(held, Mapping) for held in made.values()
        ):
            raise ValueError(f"{who} must give a mapping of keywords to mappings, such as {{}}, got {made!r:.80}")
    for keyword in first:
        for name in first[keyword] or ():
            if name in (second.get(keyword) or ()):
                raise ValueError(f"{keyword} {name!r} is given by the dynamics and by given=: leave it to one of them")
    both: Any = {key: {**(first.get(key) or {}), **(second.get(key) or {})} for key in (*first, *second)}
    return both  # type: ignore[no-any-return]  # a keyword that there is not is the engine's to name


# -- what an environment asks of them ---------------------------------------------------------------------------------


def check_dynamics(made: object, engine: MaskEngine, mode: Mode) -> Dynamics:
    """What a factory gave, if an environment can run by it.

    Raises:
        ValueError: it is something else, or lacks an attribute, or has one of another kind.
    """
    if not isinstance(made, Dynamics):
        raise ValueError(f"dynamics(engine) gave {made!r:.80}, wanted a rollout.Dynamics")
    kind = type(made).__name__
    if made.engine is not engine:
        raise ValueError(f"{kind} has another engine than it was given: super().__init__(engine) keeps that one")
    for name, least in (("uniforms", 0), ("episode_length", 1)):
        value = getattr(made, name, None)
        if type(value) is not int or value < least:
            raise ValueError(f"{kind}.{name} must be an int of at least {least}, got {value!r:.80}")
    names = getattr(made, "obs_names", None)
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{kind}.obs_names must be a tuple with a name for each number observed, got {names!r:.80}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{kind}.obs_names has {', '.join(map(repr, repeated))} more than once")
    if not isinstance(fingerprint := getattr(made, "fingerprint", None), str):
        raise ValueError(f"{kind}.fingerprint must be a str, got {fingerprint!r:.80}; self.digest(...) makes one")
    if not isinstance(made.modes, tuple) or "eager" not in made.modes or not all(each in MODES for each in made.modes):
        raise ValueError(f"{kind}.modes must be a tuple of {MODES}, 'eager' among them, got {made.modes!r:.80}")
    if made.in_place and made.modes != ("eager",):
        raise ValueError(f"{kind} writes in place, so its modes must be ('eager',), got {made.modes!r:.80}")
    if mode not in made.modes:
        raise ValueError(f"mode={mode!r} is not one of those in which {kind} may run: {', '.join(made.modes)}")
    return made


def some_step(dynamics: Dynamics, state: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random legal actions in a state, and noise of a step; on the device, the generator is of the CPU."""
    masks, batch, device = dynamics.masks(state), len(state.epoch), dynamics.engine.device
    uniform, noise = [
        torch.rand(batch, size, dtype=torch.float32, generator=generator).to(device)
        for size in (len(masks.layout.heads), dynamics.uniforms)
    ]
    logits = torch.zeros(batch, masks.layout.logit_size, dtype=torch.float32, device=device)
    return FactoredCategorical(logits, masks, validate="off").sample(noise=uniform), noise


def played(dynamics: Dynamics) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """State, actions and noise of some steps of random legal actions, from the beginning of an episode."""
    generator, state = torch.Generator().manual_seed(0), dynamics.fresh(PROBED)
    for _ in range(TRIED):
        actions, noise = some_step(dynamics, state, generator)
        yield state, actions, noise
        after, outcome = dynamics.advance(state, actions, noise)
        after = after._replace(epoch=state.epoch + 1, returns=state.returns + outcome.reward)
        begun = dynamics.reset(after, outcome.terminated)
        counts = [field.masked_fill(outcome.terminated, 0) for field in (after.epoch, after.returns)]
        state = begun._replace(epoch=counts[0], returns=counts[1])


def check_compiled(name: str, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> None:
    """Raise ``ValueError`` for a function that gives something else compiled than it does op by op.

    Args:
        name: what the function is called, for errors.
        function: of tensors to tensors, in mappings and tuples.
        calls: arguments with which it is tried.
    """
    traced, tried = trace_function(function), [(arguments, function(*arguments)) for arguments in calls]
    for arguments, plain in tried:
        try:
            others = dict(_tensors(name, traced(*arguments)))
        except compile_error() as failure:
            reason = str(failure).strip().split("\n", 1)[0]
            raise ValueError(
                f"{name} does not compile as one graph ({reason:.200}): mend it, or run in mode='eager'. {HINT}"
            ) from failure
        for part, one in _tensors(name, plain):
            other = others.get(part)
            same = isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape
            if not (same and bool(((one == other) | (one != one) & (other != other)).all())):
                raise ValueError(f"{part} is not the same compiled as op by op, in states that were tried. {HINT}")


def _tensors(name: str, made: Any) -> Iterator[tuple[str, Any]]:
    """The tensors in what a function gave, each with its place in it."""
    if isinstance(made, Mapping):
        for key, value in made.items():
            yield from _tensors(f"{name}: {key!r}", value)
    elif isinstance(made, tuple):
        for field, value in zip(getattr(made, "_fields", [""] * len(made)), made):
            yield from _tensors(f"{name}: {field}" if field else name, value)
    elif isinstance(made, Tensor):
        yield name, made


def check_fresh(dynamics: Dynamics, state: Any, batch: int) -> None:
    """Raise for a first state that is none, or an observation of it.

    Raises:
        ValueError: no named tuple of tensors, a field that lacks, or one of another shape, dtype or device.
    """
    kind, device = f"{type(dynamics).__name__}.fresh", dynamics.engine.device
    fields: dict[str, Any] = getattr(state, "_asdict", dict)()
    if not fields or not all(isinstance(field, Tensor) for field in fields.values()):
        raise ValueError(f"{kind} must give a NamedTuple of tensors, got {state!r:.80}")
    if lacking := [name for name in COMMON if name not in fields]:
        raise ValueError(f"{kind} gives a state without {', '.join(lacking)}; it has {', '.join(fields)}")
    if taken := sorted(RESERVED & set(fields)):
        raise ValueError(f"{kind} gives a state with {', '.join(taken)}, names that the environment has for its own")
    slots = batch, len(dynamics.engine.slot_ids), len(dynamics.engine.feature_names)
    for name, field in fields.items():
        own = name not in COMMON
        shape = tuple(field.shape) if own else slots if name == "states" else (batch,)
        check_tensor(f"{kind}: {name}", field, shape, field.dtype if own else COMMON[name], device)
        if own and field.shape[-1:] != (batch,):
            raise ValueError(f"{kind}: {name} is {tuple(field.shape)}; its last axis must be the batch, here {batch}")
    check_observed(dynamics, batch, dynamics.observe(state))


def check_advanced(dynamics: Dynamics, before: Any, after: Any, outcome: Any) -> None:
    """Raise for a step that gave something else than a state as the one before it, and an outcome.

    Metadata alone: compiled code has none of it.

    Raises:
        ValueError: a field of another shape, dtype or device.
    """
    kind, like = f"{type(dynamics).__name__}.advance", before.epoch
    if type(outcome) is not Outcome:
        raise ValueError(f"{kind} must give a state and a rollout.Outcome, got {type(outcome).__name__} for the second")
    check_state(kind, before, after)
    for name, value, dtype in zip(Outcome._fields, outcome, (torch.float32, torch.bool, torch.bool)):
        check_tensor(f"{kind}: {name}", value, like.shape, dtype, like.device)


def check_observed(dynamics: Dynamics, batch: Any, obs: Any) -> None:
    """Raise ``ValueError`` for observations of another shape, dtype or device."""
    seen = batch, len(dynamics.obs_names)
    check_tensor(f"{type(dynamics).__name__}.observe", obs, seen, torch.float32, dynamics.engine.device)


def check_state(what: str, like: Any, state: Any) -> None:
    """Raise ``ValueError`` for a state of another kind, or with a field of another shape, dtype or device."""
    if type(state) is not type(like):
        raise ValueError(f"{what} must be a {type(like).__name__}, got {type(state).__name__}")
    for name, old, new in zip(like._fields, like, state):
        check_tensor(f"{what}: {name}", new, old.shape, old.dtype, old.device)


def check_tensor(what: str, value: Any, shape: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Raise ``ValueError`` for what is no tensor, or has another shape, dtype or device."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} must be a tensor, got {type(value).__name__}")
    if value.shape != shape or value.dtype != dtype or value.device != device:
        got = f"{value.dtype} {tuple(value.shape)} on {value.device}"
        raise ValueError(f"{what} is {got}; wanted {dtype} {tuple(shape)} on {device}")
