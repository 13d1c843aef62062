"""One decision step as one unit: slot states and logits in, whole actions and their log-probabilities out.

Engine and distribution compute; here they become one function, which is run op by op, compiled, or as a CUDA graph.
The library compiles itself in two rooms: here, and in `rollout` its environments, and policy and environment as one
graph. All of it goes through `compiled.methods`.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import Any, Literal, NamedTuple, Unpack, cast

import torch
from torch import Tensor, nn

from esper_masks.actions.layout import ActionLayout
from esper_masks.actions.tables import layout_tables
from esper_masks.checks import from_numpy
from esper_masks.compiled.kept import is_changed
from esper_masks.compiled.methods import CompiledMethod, Entry, GraphedMethod, torch_modes
from esper_masks.compiled.torch_private import copy_all, intercepted
from esper_masks.decision.chunks import CHUNK_VALUES, chunks, fresh_decision, values_per_row
from esper_masks.decision.given import Given, taken
from esper_masks.decision.packing import in_words, words_for
from esper_masks.decision.rows import (
    Decision,
    Evaluation,
    allocate_decision,
    check_out,
    compiled_dtype,
    is_double,
    write,
)
from esper_masks.distributions import forms
from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.distributions.faults import Validate, check_mode
from esper_masks.distributions.logits import check_by_slot, check_floors
from esper_masks.distributions.noise import Noise, NoiseKey
from esper_masks.errors import SlotStateError
from esper_masks.masks.checks import check_head_masks
from esper_masks.masks.choices import PackedMask, is_large, pack_choices
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks

Mode = Literal["eager", "compiled", "cuda-graph"]
MODES: tuple[Mode, ...] = ("eager", "compiled", "cuda-graph")
Logits = Tensor | Mapping[str, Tensor]
Scores = tuple[Tensor | None, ...]  # the fields of an ``Evaluation``


# what the methods that are compiled take, one each: its parts are the arguments of a graph


class MaskInputs(NamedTuple):
    """What ``DecisionStep.masks`` computes from."""

    states: Tensor
    total_seeds: Tensor | None
    max_seeds: int | Tensor
    enabled: Tensor | None
    given: Mapping[str, Any] | None  # further keywords of the engine


class DecisionInputs(NamedTuple):
    """What ``DecisionStep.decide`` computes from. A pytree."""

    states: Tensor
    logits: Logits
    total_seeds: Tensor | None
    max_seeds: int | Tensor
    enabled: Tensor | None = None
    active: Tensor | None = None
    noise: Noise | None = None  # None: torch's generator draws
    dtype: torch.dtype = torch.int64  # of the actions
    entropy: bool = True  # whether it is wanted
    given: Mapping[str, Any] | None = None  # further keywords of the engine
    words: int | None = None  # of packed masks; None: as many as are needed, if any are


class EvaluationInputs(NamedTuple):
    """What ``DecisionStep.evaluate`` computes from."""

    logits: Logits
    slot_words: Tensor
    op_words: Tensor
    choices: dict[str, Tensor]
    slot_mask: Tensor | None
    actions: Tensor
    active: Tensor | None
    head_entropies: bool


class Needs(NamedTuple):
    """What depends on which heads have choices, or logits, by slot; the same for all calls with the same names."""

    words: int | None  # of packed masks; None where slot words hold them
    values: tuple[int, int]  # of a row, see ``values_per_row``: of eager code, and of compiled


class CheckpointedCategorical(FactoredCategorical):
    """The same for code of which all is computed again for the gradient, as in ``DecisionStep.evaluate``."""

    _again = False


class CompiledCategorical(CheckpointedCategorical):
    """The same for code that this library compiles: under its options, row-major logits are loaded where they lie."""

    _transposes = False


class DecisionStep(nn.Module):
    """From the states of a batch to its actions, and from stored actions to what an update needs, by the same code.

    A step is the engine and ``FactoredCategorical``, in one of three modes:

        "eager"       op by op
        "compiled"    one graph each for ``step``, ``step.masks`` and ``step.evaluate``, made when first called
        "cuda-graph"  the compiled step captured in a CUDA graph for every batch size, so a call is a single
                      launch; ``evaluate`` is compiled. The next call of the same batch size overwrites the results

    No mode reads anything back from the device (``validate="raise"`` does in eager code). Compiled for a CPU, the
    log-probability in a rollout and in the update that follows are the same to the last bit. Under ``vmap`` and
    other transforms, and under modes that look at each op, every mode runs op by op.

    >>> import esper_masks as em, torch
    >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    >>> step = DecisionStep(engine, mode="eager")
    >>> noise = torch.tensor([[0.5, 0.5, 0.5, 0.9]])  # slot, blueprint, blend, op
    >>> decision = step(engine.pack_slots([{"mid": em.SlotState(stage=4, age=2)}]), torch.zeros(1, 15), noise=noise)
    >>> decision.actions  # CULL in mid
    tensor([[1, 0, 0, 2]])

    Args:
        engine: computes the masks from the states. Several steps may share it. Or a layout, for ``evaluate`` alone.
        mode: how to run.
        by_slot: see ``FactoredCategorical``.
        min_prob: see ``FactoredCategorical``.
        validate: see ``FactoredCategorical``. Under ``"raise"`` compiled code uses an assertion on the device, which
            cannot name rows. A row at fault has action -1. ``validate``, ``by_slot`` and ``min_prob`` cannot be changed
            later.

    Raises:
        ValueError: an unknown mode, a floor or a head by slot that does not fit, or ``"cuda-graph"`` with ``"raise"``.
        RuntimeError: ``"cuda-graph"`` for an engine that is on no CUDA device.
    """

    engine: MaskEngine
    chunk_values = CHUNK_VALUES  # see ``chunks``

    def __init__(
        self,
        engine: MaskEngine | ActionLayout,
        *,
        mode: Mode = "compiled",
        by_slot: Sequence[str] = (),
        min_prob: Any = None,
        validate: Validate = "flag",
    ):
        super().__init__()
        if not isinstance(engine, MaskEngine | ActionLayout):
            raise ValueError(f"engine must be a MaskEngine or an ActionLayout, got {type(engine).__name__}")
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not one of {', '.join(map(repr, MODES))}")
        check_mode(validate)
        own = engine if isinstance(engine, MaskEngine) else None
        self.layout = engine if isinstance(engine, ActionLayout) else engine.layout
        check_floors(min_prob, self.layout)
        if mode == "cuda-graph" and own is not None and own.device.type != "cuda":
            raise RuntimeError(f"mode='cuda-graph' needs an engine on a CUDA device; this one is on {own.device}")
        if mode == "cuda-graph" and validate == "raise":
            raise ValueError("validate='raise' would end the CUDA context from within a graph; 'flag' it")
        self.register_module("engine", own)
        self.mode = mode
        self._min_prob, self._validate = copy(min_prob), validate  # constant to compiled code
        self._wide, self._by_slot = check_by_slot(by_slot, self.layout), tuple(by_slot)
        self.runs: dict[tuple[str, torch.device], CompiledMethod | GraphedMethod] = {}  # what has been compiled
        # whether slot words hold the masks of every call that is given nothing, and a trace has all tables for it
        self._plain = not self._by_slot and words_for(self.layout) is None
        self._plain_needs = Needs(None, values_per_row(self.layout, self._wide))
        self._needs: dict[Any, Needs] = {}
        self._tabled: set[Any] = set()

    @property
    def min_prob(self) -> Any:
        return self._min_prob

    @property
    def by_slot(self) -> tuple[str, ...]:
        return self._by_slot

    @property
    def validate(self) -> Validate:
        return self._validate

    def forward(
        self,
        states: Tensor,
        logits: Logits,
        total_seeds: Tensor | None = None,
        *,
        max_seeds: int | Tensor | None = None,
        enabled: Tensor | None = None,
        active: Tensor | None = None,
        noise: Tensor | None = None,
        out: Decision | None = None,
        **given: Unpack[Given],
    ) -> Decision:
        """Decide. Without gradients.

        Args:
            states: see ``MaskEngine``.
            logits: see ``FactoredCategorical``.
            total_seeds: see ``MaskEngine``.
            max_seeds: see ``MaskEngine``.
            enabled: see ``MaskEngine``.
            active: see ``FactoredCategorical``.
            noise: uniforms ``[..., heads]``; by default from torch's generator.
            out: where to write, of any dtypes that hold the values: ``allocate``, or the rows of a buffer, which for
                float64 logits need ``dtype=torch.float64``. Entropy is computed only if it has a place for it.
            given: ``row``, ``head_masks`` and ``restrict``, see ``MaskEngine``. Compiled, another set of names in one
                of them is another graph; other values are not.

        Returns: ``out``; by default a new decision with int64 actions, int32 words and entropy.
        Raises:
            SlotStateError, ValueError, InvalidStateMachineError: see ``MaskEngine`` and ``FactoredCategorical``.
        """
        if not isinstance(states, Tensor):
            raise SlotStateError(f"states must be a tensor of integers, got {type(states).__name__}; see pack_slots")
        if not isinstance(logits, Tensor | Mapping):
            raise ValueError(f"logits must be a tensor or a mapping of head to tensor, got {type(logits).__name__}")
        engine, compiled, told = self._engine(), self._is_compiled(), None
        device = engine.device
        logits = logits if isinstance(logits, Tensor) else dict(logits)
        named = (taken(given, device) or None) if given else None
        limit = engine.max_seeds if max_seeds is None else max_seeds
        if compiled and states.is_cpu:
            told = self._told_of((states, logits, total_seeds, enabled, active, noise), named, limit, out)
            run = self.runs.get((self.decide.__name__, device))
            if told is not None and isinstance(run, CompiledMethod) and (known := run.recall(*told)) is not None:
                # nothing is left to check or to choose
                dtype, entropy, words = known.rest
                drawn = NoiseKey.draw_for_now() if noise is None else noise
                own = limit, enabled, active, drawn, dtype, entropy, named, words
                return run_again(known.entry, DecisionInputs(states, logits, total_seeds, *own), out)
        batch, on_cpu = states.shape[:-2], device.type == "cpu"
        enabled, active = from_numpy(enabled, device), from_numpy(active, device)
        words, values = self._plain_needs
        if named is not None or not self._plain:
            words, values = self._needs_of(MaskInputs(states, total_seeds, limit, enabled, named), logits)
        if out is not None:
            check_out(out, engine.layout, batch, device, is_double(logits), words)
        if on_cpu and (number := self._chunks(batch, compiled, values)) > 1:
            rows: dict[str, Any] = {"states": states, "logits": logits, "total_seeds": total_seeds, "noise": noise}
            rows |= {"max_seeds": max_seeds, "enabled": enabled, "active": active, **(named or {})}
            if parts := chunks(number, batch, engine.layout, rows):
                whole = fresh_decision(engine.layout, batch, logits, device, words) if out is None else out
                for at, part in parts:
                    self(**part, out=Decision._make(place if place is None else place[at] for place in whole))
                return whole
        uniforms = NoiseKey.draw() if on_cpu and compiled and noise is None else noise  # torch would draw one by one
        wanted = (torch.int64, True) if out is None else (compiled_dtype(out.actions), out.raw_entropy is not None)
        packed = None if named is None else self._packed(named, states, device)
        room = None if out is None or out.packed is None else out.packed.shape[-1]
        inputs = DecisionInputs(states, logits, total_seeds, limit, enabled, active, uniforms, *wanted, packed, room)
        # for a CPU, words of a byte would be written from a copy that lies row by row, and with it all be read
        place = () if on_cpu or out is None else (out,)
        with torch.no_grad():
            made: Decision = self._run(self.decide, device, inputs, *place, categorical=CompiledCategorical)
            if out is not None and on_cpu:
                write(out, made)
        if told is not None and packed is named:
            run = self.runs[self.decide.__name__, device]
            if isinstance(run, CompiledMethod):
                run.remember(*told, inputs, (inputs.dtype, inputs.entropy, inputs.words))
        return made if out is None else out

    def masks(
        self,
        states: Tensor,
        total_seeds: Tensor | None = None,
        *,
        max_seeds: int | Tensor | None = None,
        enabled: Tensor | None = None,
        **given: Unpack[Given],
    ) -> ActionMasks:
        """The masks alone: ``engine(states, ...)`` in this step's mode.

        Args:
            states: see ``MaskEngine``.
            total_seeds: see ``MaskEngine``.
            max_seeds: see ``MaskEngine``.
            enabled: see ``MaskEngine``.
            given: see ``forward``.
        """
        engine = self._engine()
        limit, device = engine.max_seeds if max_seeds is None else max_seeds, engine.device
        named = (taken(given, device) or None) if given else None
        if named is not None:
            named = self._packed(named, states, device)
        inputs = MaskInputs(states, total_seeds, limit, from_numpy(enabled, device), named)
        with torch.no_grad():
            words = self._run(self._words, device, inputs)
        return ActionMasks(engine.layout, *words)

    def evaluate(
        self,
        logits: Logits,
        masks: ActionMasks,
        actions: Tensor,
        *,
        active: Tensor | None = None,
        head_entropies: bool = False,
    ) -> Evaluation:
        """Score actions that were decided before, with gradients to the logits.

        An action that is illegal under these masks is a fault of its own, see ``Evaluation``: masks, or actions, that
        were written to since the decision would else go unnoticed.

        Compiled, nothing is kept for the gradient but the arguments, which must not be written to until it is taken: to
        compute the rest again takes less time than to write and read it.

        Args:
            logits: see ``FactoredCategorical``.
            masks: under which the actions were decided: from a buffer, or of a decision, ``ActionMasks.from_packed``
                where it has ``packed``, else ``ActionMasks.from_words``.
            actions: integer ``[..., heads]``.
            active: bool ``[...]``; False for padding rows.
            head_entropies: whether these are wanted too.

        Raises:
            ValueError, InvalidStateMachineError: see ``FactoredCategorical``.
        """
        if not isinstance(masks, ActionMasks):
            raise ValueError(f"masks must be ActionMasks, got {type(masks).__name__}")
        if masks.layout is not self.layout and masks.layout != self.layout:
            raise ValueError("these masks have another layout (rules, switches or slots) than the engine of this step")
        device, logits = masks.device, dict(logits) if isinstance(logits, Mapping) else logits
        # in one order, so that another one in which heads were limited needs no graph of its own
        choices = {name: masks.choices[name] for name in sorted(masks.choices)}
        held = masks.slot_words, masks.op_words, choices, masks.slot_mask
        if choices or self._by_slot:
            self._make_tables(logits, ActionMasks(self.layout, *held))
        inputs = EvaluationInputs(logits, *held, actions, from_numpy(active, device), head_entropies)
        return Evaluation(*self._run(self._evaluate, device, inputs, categorical=CompiledCategorical))

    def allocate(
        self,
        *shape: int,
        entropy: bool = True,
        dtype: torch.dtype | None = None,
        head_masks: Collection[str] = (),
        restrict: Collection[str] = (),
    ) -> Decision:
        """Memory for ``out``, one byte an action and a word where heads and ops allow: ``[*shape, ...]``.

        Args:
            shape: leading shape.
            entropy: whether there is a place for it.
            dtype: of log-probabilities and entropies, see ``RolloutBuffer``.
            head_masks: see ``RolloutBuffer``.
            restrict: see ``RolloutBuffer``.

        Raises:
            ValueError: a name that is none.
        """
        engine = self._engine()
        words = words_for(engine.layout, head_masks, restrict)
        return allocate_decision(engine.layout, shape, engine.device, entropy=entropy, real=dtype, words=words)

    # -- what is compiled ---------------------------------------------------------------------------------------------

    def decide(
        self,
        inputs: DecisionInputs,
        out: Decision | None = None,
        *,
        categorical: type[FactoredCategorical] = FactoredCategorical,
    ) -> Decision | None:
        """What a call computes, with nothing checked or chosen before: for code of which a step is a part.

        Args:
            inputs: as ``forward`` makes them.
            out: where to write.
            categorical: the distribution; ``CompiledCategorical`` in what a ``CompiledMethod`` compiles.

        Returns: the decision; None where there is ``out``.
        """
        masks = self._masks(inputs)
        joint = self._joint(categorical, inputs.logits, masks, inputs.active)
        actions, log_prob = joint.sample_and_log_prob(noise=inputs.noise, dtype=inputs.dtype)
        entropy = joint.raw_entropy() if inputs.entropy else None
        kept = None if in_words(masks) and inputs.words is None else masks.pack(inputs.words)
        made = Decision(actions, log_prob, masks.slot_words, entropy, kept)
        if out is None:
            return made
        write(out, made)
        return None

    def _joint(
        self, categorical: type[FactoredCategorical], logits: Logits, masks: ActionMasks, active: Tensor | None
    ) -> FactoredCategorical:
        settings: dict[str, Any] = {"min_prob": self.min_prob, "validate": self.validate}
        return categorical(logits, masks, by_slot=self.by_slot, active=active, **settings)

    def _masks(self, inputs: MaskInputs | DecisionInputs) -> ActionMasks:
        states, total_seeds, limit, enabled = inputs.states, inputs.total_seeds, inputs.max_seeds, inputs.enabled
        masks: ActionMasks = self.engine(states, total_seeds, max_seeds=limit, enabled=enabled, **(inputs.given or {}))
        return masks

    def _words(self, inputs: MaskInputs) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor | None]:
        masks = self._masks(inputs)
        return masks.slot_words, masks.op_words, masks.choices, masks.slot_mask

    def score(
        self, inputs: EvaluationInputs, *, categorical: type[FactoredCategorical] = FactoredCategorical
    ) -> Scores:
        """What ``evaluate`` computes, with nothing checked or chosen before: for code of which a step is a part.

        Args:
            inputs: as ``evaluate`` makes them.
            categorical: see ``decide``.
        """
        held = inputs.slot_words, inputs.op_words, inputs.choices, inputs.slot_mask
        joint = self._joint(categorical, inputs.logits, ActionMasks(self.layout, *held), inputs.active)
        each = joint.head_entropies() if inputs.head_entropies else None
        log_prob, faults = joint.log_prob_and_faults(inputs.actions, "actions")
        return log_prob, joint.raw_entropy(), each, faults

    def _evaluate(
        self, inputs: EvaluationInputs, *, categorical: type[FactoredCategorical] = FactoredCategorical
    ) -> Scores:
        again = torch.compiler.is_compiling()
        if again and categorical is FactoredCategorical:
            categorical = CheckpointedCategorical

        def score(logits: Logits) -> Scores:
            return self.score(inputs._replace(logits=logits), categorical=categorical)

        return forms.apply(score, inputs.logits, again=again)

    # -- what no trace can do -----------------------------------------------------------------------------------------

    def _needs_of(self, inputs: MaskInputs, logits: Logits) -> Needs:
        """What such a decision needs. Makes its lookup tables, too.

        Found once for all calls with the same names, by masks that are made for it in eager code.
        """
        if torch.compiler.is_compiling() or intercepted():
            return self._plain_needs
        named = inputs.given or {}
        given = [(keyword, _axes(masks)) for keyword, masks in named.items()]
        key = self._engine().device, inputs.states.ndim, _axes(logits), *given
        if key not in self._needs:
            with torch.no_grad():
                masks = self._masks(inputs)
                self._make_tables(logits, masks)
                words = None if in_words(masks) else masks.pack().shape[-1]
                self._needs[key] = Needs(words, values_per_row(self.layout, self._wide, masks.dynamic))
        return self._needs[key]

    def _make_tables(self, logits: Logits, masks: ActionMasks) -> None:
        """Lookup tables of heads whose choices, or logits, depend on more than the op."""
        key = masks.dynamic, masks.device, len(masks.shape), _axes(logits)
        if key not in self._tabled and self._is_compiled():
            with torch.no_grad():
                FactoredCategorical(logits, masks, by_slot=self.by_slot, validate="off")
            self._tabled.add(key)

    # -- calls that are like an earlier one ---------------------------------------------------------------------------

    def _told_of(
        self, tensors: Sequence[Any], named: Mapping[str, Mapping[str, Tensor]] | None, limit: Any, out: Any
    ) -> "tuple[Any, list[Tensor]] | None":
        """All of a compiled call that decides how it is checked and run, and its tensors, of which the values do not.

        None for a call of which nothing is remembered. What belongs to the step is constant to compiled code.
        """
        if type(limit) is not int:
            return None
        if out is not None:
            if type(out) is not Decision:
                return None
            tensors = (*tensors, *out)
        key = limit, self.chunk_values, torch_modes(), tensors[0].shape, *map(type, tensors)
        there = [tensor for tensor in tensors if tensor is not None]
        mappings = [] if named is None else list(named.values())
        if type(tensors[1]) is dict:
            mappings.append(there.pop(1))
        if mappings:
            key = *key, *(named or ()), *map(tuple, mappings)
            there += [tensor for mapping in mappings for tensor in mapping.values()]
        return key, there

    # -- how it is run ------------------------------------------------------------------------------------------------

    def _engine(self) -> MaskEngine:
        engine: Any = self._modules["engine"]  # as an attribute it takes four times as long
        if engine is None:
            raise ValueError("this step was made of a layout, without an engine: it scores by evaluate, and no more")
        return cast(MaskEngine, engine)

    def _is_compiled(self) -> bool:
        """Whether a call now runs code that this step compiles."""
        return self.mode != "eager" and not torch.compiler.is_compiling() and not intercepted()

    def _chunks(self, batch: torch.Size, compiled: bool, values: tuple[int, int]) -> int:
        """How many chunks a batch is worth; one for an eager error, which names rows of the batch, and in a trace."""
        if not compiled and (self.validate == "raise" or torch.compiler.is_compiling() or intercepted()):
            return 1
        return batch.numel() * values[compiled] // self.chunk_values

    def _run(self, method: Any, device: torch.device, inputs: Any, *out: Any, **compiled: Any) -> Any:
        """Call a method of this step; ``compiled`` are arguments that it has where it is compiled, and not else."""
        if not self._is_compiled():
            return method(inputs, *out)
        key = method.__name__, device
        if key not in self.runs:
            layout_tables(self.layout, device)  # masks of an equal layout bring none
            made = CompiledMethod(method, told=self._told, **compiled)
            graphed = self.mode == "cuda-graph" and method != self._evaluate  # whose gradient no such graph would have
            self.runs[key] = GraphedMethod(made) if graphed else made
        return self.runs[key](inputs, *out)

    def _told(self) -> Any:
        """All that compiled code is constant to; None where a class of another package, or a hook, has a part in it."""
        engine = self.engine
        if (
            any(map(is_changed, self.modules()))
            or type(self) is not DecisionStep
            or type(engine) not in (MaskEngine, type(None))
        ):
            return None
        of_engine = None if engine is None else engine.told()
        settings = self.by_slot, self.min_prob, self.validate, self._wide, forms.chosen()
        return of_engine, self.layout, settings

    def _packed(self, given: Any, states: Any, device: torch.device) -> Any:
        """What is given, with large masks of heads as words where compiled code runs on a CPU.

        There the compiler reads bools that lie row by row one after another, at 3 ns each.
        """
        held = given.get("head_masks", {})
        large = [name for name, mask in held.items() if isinstance(mask, Tensor) and is_large(mask)]
        if not large or not self._is_compiled() or not isinstance(states, Tensor) or states.ndim < 2:
            return given  # what does not fit is named by the engine
        bits = layout_tables(self.layout, device).choice_bits
        masks = check_head_masks(held, self.layout, states.shape[:-2], device)
        words = {name: PackedMask(pack_choices(mask, bits)) for name, _, mask in masks if name in large}
        return {**given, "head_masks": {**held, **words}}

    def __getstate__(self) -> dict[str, Any]:
        # compiled code and tables are made again, and what tells when they are
        return {**self.__dict__, "runs": {}, "_needs": {}, "_tabled": set()}

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, min_prob={self.min_prob}, validate={self.validate!r}"


def run_again(entry: Entry, inputs: DecisionInputs, out: Decision | None) -> Decision:
    """Run what served an earlier call, without gradients."""
    if torch.is_grad_enabled():
        with torch.set_grad_enabled(False):  # in half the time that ``no_grad`` takes
            return run_again(entry, inputs, out)
    made: Decision
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            made = entry(inputs)
    else:
        made = entry(inputs)
    if out is None:
        return made
    pairs = [pair for pair in zip(out, made) if pair[0] is not None and pair[1] is not None]
    copy_all(*map(list, zip(*pairs)))
    return out


def _axes(tensors: Any) -> Any:
    """How many axes each tensor of a mapping has."""
    return tuple(
        [(name, getattr(of, "ndim", None)) for name, of in tensors.items()] if isinstance(tensors, Mapping) else ()
    )
