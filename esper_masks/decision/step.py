"""One decision step as one unit: slot states and logits in, whole actions and their log-probabilities out.

Engine and distribution compute; here they become one function, which is run op by op, compiled, or as a CUDA graph.
The library compiles itself in two rooms: here, and in `rollout` its environments, and policy and environment as one
graph. All of it goes through `compiled.methods`.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper_masks.checks import from_numpy
from esper_masks.compiled.methods import CompiledMethod, GraphedMethod, copy_into
from esper_masks.compiled.torch_private import intercepted
from esper_masks.decision.chunks import CHUNK_VALUES, chunks, fresh_decision, values_per_row
from esper_masks.decision.rows import Decision, Evaluation, allocate_decision, check_out, compiled_dtype, is_double
from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.distributions.faults import Validate, check_mode
from esper_masks.distributions.logits import check_floors
from esper_masks.distributions.noise import Noise, NoiseKey
from esper_masks.errors import SlotStateError
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks

Mode = Literal["eager", "compiled", "cuda-graph"]
MODES = ("eager", "compiled", "cuda-graph")
Logits = Tensor | Mapping[str, Tensor]
Scores = tuple[Tensor | None, ...]  # the fields of an ``Evaluation``


# what the methods that are compiled take, one each: its parts are the arguments of a graph


class MaskInputs(NamedTuple):
    """What ``DecisionStep.masks`` computes from."""

    states: Tensor
    total_seeds: Tensor | None
    max_seeds: int | Tensor
    enabled: Tensor | None


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


class EvaluationInputs(NamedTuple):
    """What ``DecisionStep.evaluate`` computes from."""

    logits: Logits
    slot_words: Tensor
    op_words: Tensor
    constraints: dict[str, Tensor]  # of restricted masks
    actions: Tensor
    active: Tensor | None
    head_entropies: bool


class CompiledCategorical(FactoredCategorical):
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
        engine: computes the masks from the states. Several steps may share it.
        mode: how to run.
        min_prob: see ``FactoredCategorical``.
        validate: see ``FactoredCategorical``. Under ``"raise"`` compiled code uses an assertion on the device, which
            cannot name rows. A row at fault has action -1. ``validate`` and ``min_prob`` cannot be changed later.

    Raises:
        ValueError: an unknown mode, a floor that does not fit, or ``"cuda-graph"`` with ``"raise"``.
        RuntimeError: ``"cuda-graph"`` for an engine that is on no CUDA device.
    """

    chunk_values = CHUNK_VALUES  # see ``chunks``

    def __init__(
        self,
        engine: MaskEngine,
        *,
        mode: Mode = "compiled",
        min_prob: Any = None,
        validate: Validate = "flag",
    ):
        super().__init__()
        if not isinstance(engine, MaskEngine):
            raise ValueError(f"engine must be a MaskEngine, got {type(engine).__name__}")
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} is not one of {', '.join(map(repr, MODES))}")
        check_mode(validate)
        check_floors(min_prob, engine.layout)
        if mode == "cuda-graph" and engine.device.type != "cuda":
            raise RuntimeError(f"mode='cuda-graph' needs an engine on a CUDA device; this one is on {engine.device}")
        if mode == "cuda-graph" and validate == "raise":
            raise ValueError("validate='raise' would end the CUDA context from within a graph; 'flag' it")
        self.engine, self.mode = engine, mode
        self._min_prob, self._validate = copy(min_prob), validate  # constant to compiled code
        self._values_per_row = {compiled: values_per_row(engine.layout, compiled) for compiled in (False, True)}
        self.runs: dict[tuple[str, torch.device], CompiledMethod | GraphedMethod] = {}  # what has been compiled

    @property
    def min_prob(self) -> Any:
        return self._min_prob

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

        Returns: ``out``; by default a new decision with int64 actions, int32 words and entropy.
        Raises:
            SlotStateError, ValueError, InvalidStateMachineError: see ``MaskEngine`` and ``FactoredCategorical``.
        """
        if not isinstance(states, Tensor):
            raise SlotStateError(f"states must be a tensor of integers, got {type(states).__name__}; see pack_slots")
        if not isinstance(logits, Tensor | Mapping):
            raise ValueError(f"logits must be a tensor or a mapping of head to tensor, got {type(logits).__name__}")
        engine, batch = self.engine, states.shape[:-2]
        device, logits = engine.device, dict(logits) if isinstance(logits, Mapping) else logits
        enabled, active = from_numpy(enabled, device), from_numpy(active, device)
        if out is not None:
            check_out(out, engine.layout, batch, device, is_double(logits))
        limit = engine.max_seeds if max_seeds is None else max_seeds
        compiled, on_cpu = self._is_compiled(), device.type == "cpu"
        if on_cpu and (number := self._chunks(batch, compiled)) > 1:
            given: dict[str, Any] = {"states": states, "logits": logits, "total_seeds": total_seeds, "noise": noise}
            given |= {"max_seeds": max_seeds, "enabled": enabled, "active": active}
            if parts := chunks(number, batch, given):
                whole = fresh_decision(engine.layout, batch, logits, device) if out is None else out
                for rows, part in parts:
                    self(**part, out=Decision._make(place if place is None else place[rows] for place in whole))
                return whole
        drawn = NoiseKey.draw() if on_cpu and compiled and noise is None else noise  # torch would draw one by one
        wanted = (torch.int64, True) if out is None else (compiled_dtype(out.actions), out.raw_entropy is not None)
        inputs = DecisionInputs(states, logits, total_seeds, limit, enabled, active, drawn, *wanted)
        # for a CPU, words of a byte would be written from a copy that lies row by row, and with it all be read
        place = () if on_cpu or out is None else (out,)
        with torch.no_grad():
            made: Decision = self._run(self.decide, device, inputs, *place, categorical=CompiledCategorical)
            if out is not None and on_cpu:
                copy_into(out, made)
        return made if out is None else out

    def masks(
        self,
        states: Tensor,
        total_seeds: Tensor | None = None,
        *,
        max_seeds: int | Tensor | None = None,
        enabled: Tensor | None = None,
    ) -> ActionMasks:
        """The masks alone: ``engine(states, ...)`` in this step's mode."""
        limit = self.engine.max_seeds if max_seeds is None else max_seeds
        device = self.engine.device
        inputs = MaskInputs(states, total_seeds, limit, from_numpy(enabled, device))
        with torch.no_grad():
            words = self._run(self._words, device, inputs)
        return ActionMasks(self.engine.layout, *words)

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
            masks: under which the actions were decided: from a buffer, or ``ActionMasks.from_words`` of a decision.
            actions: integer ``[..., heads]``.
            active: bool ``[...]``; False for padding rows.
            head_entropies: whether these are wanted too.

        Raises:
            ValueError, InvalidStateMachineError: see ``FactoredCategorical``.
        """
        if not isinstance(masks, ActionMasks):
            raise ValueError(f"masks must be ActionMasks, got {type(masks).__name__}")
        if masks.layout is not self.engine.layout and masks.layout != self.engine.layout:
            raise ValueError("these masks have another layout (rules, switches or slots) than the engine of this step")
        device, logits = self.engine.device, dict(logits) if isinstance(logits, Mapping) else logits
        words = masks.slot_words, masks.op_words, masks.constraints
        inputs = EvaluationInputs(logits, *words, actions, from_numpy(active, device), head_entropies)
        return Evaluation(*self._run(self._evaluate, device, inputs, categorical=CompiledCategorical))

    def allocate(self, *shape: int, entropy: bool = True, dtype: torch.dtype | None = None) -> Decision:
        """Memory for ``out``, one byte an action and a word where heads and ops allow: ``[*shape, ...]``.

        Args:
            shape: leading shape.
            entropy: whether there is a place for it.
            dtype: of log-probabilities and entropies, see ``RolloutBuffer``.
        """
        return allocate_decision(self.engine.layout, shape, self.engine.device, entropy=entropy, real=dtype)

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
        masks = self.engine(inputs.states, inputs.total_seeds, max_seeds=inputs.max_seeds, enabled=inputs.enabled)
        joint = categorical(inputs.logits, masks, active=inputs.active, min_prob=self.min_prob, validate=self.validate)
        actions, log_prob = joint.sample_and_log_prob(noise=inputs.noise, dtype=inputs.dtype)
        made = Decision(actions, log_prob, masks.slot_words, joint.raw_entropy() if inputs.entropy else None)
        if out is None:
            return made
        copy_into(out, made)
        return None

    def _words(self, inputs: MaskInputs) -> tuple[Tensor, Tensor]:
        masks = self.engine(inputs.states, inputs.total_seeds, max_seeds=inputs.max_seeds, enabled=inputs.enabled)
        return masks.slot_words, masks.op_words

    def _evaluate(
        self, inputs: EvaluationInputs, *, categorical: type[FactoredCategorical] = FactoredCategorical
    ) -> Scores:
        def score(logits: Logits) -> Scores:
            masks = ActionMasks(self.engine.layout, inputs.slot_words, inputs.op_words, inputs.constraints)
            joint = categorical(logits, masks, active=inputs.active, min_prob=self.min_prob, validate=self.validate)
            each = joint.head_entropies() if inputs.head_entropies else None
            log_prob, faults = joint.log_prob_and_faults(inputs.actions, "actions")
            return log_prob, joint.raw_entropy(), each, faults

        if not torch.compiler.is_compiling():
            return score(inputs.logits)
        scored: Scores = checkpoint(score, inputs.logits, use_reentrant=False, preserve_rng_state=False)
        return scored

    # -- how it is run ------------------------------------------------------------------------------------------------

    def _is_compiled(self) -> bool:
        """Whether a call now runs code that this step compiles."""
        return self.mode != "eager" and not torch.compiler.is_compiling() and not intercepted()

    def _chunks(self, batch: torch.Size, compiled: bool) -> int:
        """How many chunks a batch is worth; one for an eager error, which names rows of the batch, and in a trace."""
        if not compiled and (self.validate == "raise" or torch.compiler.is_compiling() or intercepted()):
            return 1
        return batch.numel() * self._values_per_row[compiled] // self.chunk_values

    def _run(self, method: Any, device: torch.device, inputs: Any, *out: Any, **compiled: Any) -> Any:
        """Call a method of this step; ``compiled`` are arguments that it has where it is compiled, and not else."""
        if not self._is_compiled():
            return method(inputs, *out)
        key = method.__name__, device
        if key not in self.runs:
            made = CompiledMethod(method, **compiled)
            graphed = self.mode == "cuda-graph" and method != self._evaluate  # whose gradient no such graph would have
            self.runs[key] = GraphedMethod(made) if graphed else made
        return self.runs[key](inputs, *out)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "runs": {}}  # compiled code is made again

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, min_prob={self.min_prob}, validate={self.validate!r}"
