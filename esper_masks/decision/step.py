"""One decision step as one unit: slot states and logits in, whole actions and their log-probabilities out.

Nothing is computed here that is not computed elsewhere: this is the one place where the library compiles itself.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper_masks.checks import from_numpy
from esper_masks.compiled.calls import Compiled, Graphed, copy_into
from esper_masks.compiled.torch_private import intercepted
from esper_masks.decision.chunks import CHUNK_VALUES, chunk_rows, chunks, fresh_decision, values_per_row
from esper_masks.decision.rows import (
    Decision,
    Evaluation,
    allocate_decision,
    check_out,
    check_real,
    compiled_dtype,
    is_double,
)
from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.distributions.faults import Validate, check_mode
from esper_masks.distributions.logits import check_floors
from esper_masks.distributions.noise import counted_uniforms, random_key
from esper_masks.distributions.unrolled import UnrolledHeads
from esper_masks.errors import SlotStateError
from esper_masks.masks.engine import MaskEngine
from esper_masks.masks.masks import ActionMasks

Mode = Literal["eager", "compiled", "cuda-graph"]
MODES = ("eager", "compiled", "cuda-graph")
Logits = Tensor | Mapping[str, Tensor]


class DecisionStep(nn.Module):
    """From the states of a batch to its actions, and from stored actions to what an update needs, by the same code.

    A step is the engine and ``FactoredCategorical``, in one of three modes:

        "eager"       op by op
        "compiled"    one graph each for ``step``, ``step.masks`` and ``step.evaluate``, made when first called
        "cuda-graph"  the compiled step captured in a CUDA graph for every batch size, so that a call launches nothing
                      else; ``evaluate`` is compiled. What a call gives is overwritten by the next one of that size

    No mode reads the device back (``validate="raise"`` does in eager code). Compiled for a CPU, the log-probability of
    a rollout and of the update behind it are the same to the last bit. Under ``vmap`` and other transforms, and under
    modes that look at each op, every mode runs op by op.

    >>> import esper_masks as em, torch
    >>> engine = em.MaskEngine(em.ruleset("esper-2025-12"))
    >>> step = DecisionStep(engine, mode="eager")
    >>> noise = torch.tensor([[0.5, 0.5, 0.5, 0.9]])  # slot, blueprint, blend, op
    >>> decision = step(engine.pack_slots([{"mid": em.SlotState(stage=4, age=2)}]), torch.zeros(1, 15), noise=noise)
    >>> decision.actions  # CULL in mid
    tensor([[1, 0, 0, 2]])

    Args:
        engine: whose states come in. It may be shared.
        mode: how to run.
        min_prob: as of ``FactoredCategorical``.
        validate: as of ``FactoredCategorical``: under ``"raise"`` compiled code asserts on the device, which names no
            rows. A row at fault has action -1. This and the floor are fixed; another step may share the engine.

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
        self._runs: dict[tuple[str, torch.device], Compiled | Graphed] = {}

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
            states: as of the engine.
            logits: as of ``FactoredCategorical``.
            total_seeds: as of the engine.
            max_seeds: as of the engine.
            enabled: as of the engine.
            active: as of ``FactoredCategorical``.
            noise: uniforms ``[..., heads]``; by default from torch's generator.
            out: where to write, of any dtypes that hold the values: ``allocate``, or the rows of a buffer, which for
                float64 logits need ``dtype=torch.float64``. Entropy is computed only if it has a place for it.

        Returns: ``out``; by default a new decision with int64 actions, int32 words and entropy.
        Raises:
            SlotStateError, ValueError, InvalidStateMachineError: as of the engine and the distribution.
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
            given: dict[str, Any] = {"states": states, "logits": logits, "total_seeds": total_seeds, "out": out}
            given |= {"max_seeds": max_seeds, "enabled": enabled, "active": active, "noise": noise}
            if rows := chunk_rows(number, batch, given):
                given["out"] = whole = fresh_decision(engine.layout, batch, logits, device) if out is None else out
                for chunk in chunks(rows, given):
                    self(**chunk)
                return whole
        key = random_key() if on_cpu and compiled and noise is None else None  # torch would draw one by one there
        wanted = (torch.int64, True) if out is None else (compiled_dtype(out.actions), out.raw_entropy is not None)
        arguments = states, logits, total_seeds, limit, enabled, active, noise, key, *wanted
        # for a CPU, words of a byte would be written from a copy that lies row by row, and with it all be read
        place = out if device.type != "cpu" else None
        with torch.no_grad():
            made = self._run("_decide", device, *arguments, out=place)
            if out is not None and place is None:
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
        with torch.no_grad():
            words = self._run("_words", device, states, total_seeds, limit, from_numpy(enabled, device))
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
        compute the rest once more takes less time than to write and read it.

        Args:
            logits: as of ``FactoredCategorical``.
            masks: under which the actions were decided: from a buffer, or ``ActionMasks.from_words`` of a decision.
            actions: integer ``[..., heads]``.
            active: bool ``[...]``; False for padding rows.
            head_entropies: whether these are wanted too.

        Raises:
            ValueError, InvalidStateMachineError: as of ``FactoredCategorical``.
        """
        if not isinstance(masks, ActionMasks):
            raise ValueError(f"masks must be ActionMasks, got {type(masks).__name__}")
        if masks.layout is not self.engine.layout and masks.layout != self.engine.layout:
            raise ValueError("these masks have another layout (rules, switches or slots) than the engine of this step")
        words = masks.slot_words, masks.op_words, masks._limits
        device, logits = self.engine.device, dict(logits) if isinstance(logits, Mapping) else logits
        active = from_numpy(active, device)
        return Evaluation(*self._run("_evaluate", device, logits, *words, actions, active, head_entropies))

    def allocate(self, *shape: int, entropy: bool = True, dtype: torch.dtype | None = None) -> Decision:
        """Memory for ``out``, one byte an action and a word where heads and ops allow: ``[*shape, ...]``.

        Args:
            shape: leading shape.
            entropy: whether there is a place for it.
            dtype: of log-probabilities and entropies, as of ``RolloutBuffer``.
        """
        if dtype is not None:
            check_real(dtype)
        return allocate_decision(self.engine.layout, shape, self.engine.device, entropy=entropy, real=dtype)

    # -- what is compiled ---------------------------------------------------------------------------------------------

    def _words(
        self,
        states: Tensor,
        total_seeds: Tensor | None,
        limit: int | Tensor,
        enabled: Tensor | None,
        out: None,
        *,
        fused: bool = False,
    ) -> tuple[Tensor, Tensor]:
        masks = self.engine(states, total_seeds, max_seeds=limit, enabled=enabled)
        return masks.slot_words, masks.op_words

    def _decide(
        self,
        states: Tensor,
        logits: Logits,
        total_seeds: Tensor | None,
        limit: int | Tensor,
        enabled: Tensor | None,
        active: Tensor | None,
        noise: Tensor | None,
        key: Tensor | None,
        dtype: torch.dtype,
        entropy: bool,
        out: Decision | None,
        *,
        fused: bool = False,
    ) -> Decision | None:
        masks = self.engine(states, total_seeds, max_seeds=limit, enabled=enabled)
        joint = self._joint(logits, masks, active, fused, key)
        actions, log_prob = joint.sample_and_log_prob(noise=noise, dtype=dtype)
        made = Decision(actions, log_prob, masks.slot_words, joint.raw_entropy() if entropy else None)
        if out is None:
            return made
        copy_into(out, made)
        return None

    def _evaluate(
        self,
        logits: Logits,
        slot_words: Tensor,
        op_words: Tensor,
        limits: dict[str, Tensor],
        actions: Tensor,
        active: Tensor | None,
        head_entropies: bool,
        out: None,
        *,
        fused: bool = False,
    ) -> tuple[Tensor | None, ...]:
        def score(logits: Logits) -> tuple[Tensor | None, ...]:
            masks = ActionMasks(self.engine.layout, slot_words, op_words, limits)
            joint = self._joint(logits, masks, active, fused)
            each = joint.head_entropies() if head_entropies else None
            log_prob, faults = joint._log_prob_and_faults("actions", actions)
            return log_prob, joint.raw_entropy(), each, faults

        if not torch.compiler.is_compiling():
            return score(logits)
        scored: tuple[Tensor | None, ...] = checkpoint(score, logits, use_reentrant=False, preserve_rng_state=False)
        return scored

    def _joint(
        self, logits: Logits, masks: ActionMasks, active: Tensor | None, fused: bool, key: Tensor | None = None
    ) -> FactoredCategorical:
        joint = (CompiledCategorical if fused else FactoredCategorical)(
            logits, masks, active=active, min_prob=self.min_prob, validate=self.validate
        )
        if isinstance(joint, CompiledCategorical):
            joint.key = key
        return joint

    def _is_compiled(self) -> bool:
        """Whether a call now runs code that this step compiles."""
        return self.mode != "eager" and not torch.compiler.is_compiling() and not intercepted()

    def _chunks(self, batch: torch.Size, compiled: bool) -> int:
        """How many chunks a batch is worth; one for an eager error, which names rows of the batch, and in a trace."""
        if not compiled and (self.validate == "raise" or torch.compiler.is_compiling() or intercepted()):
            return 1
        return batch.numel() * self._values_per_row[compiled] // self.chunk_values

    def _run(self, name: str, device: torch.device, *arguments: Any, out: Decision | None = None) -> Any:
        if not self._is_compiled():
            return getattr(self, name)(*arguments, out)
        key = name, device
        if key not in self._runs:
            graphed = self.mode == "cuda-graph" and name != "_evaluate"
            self._runs[key] = (Graphed if graphed else Compiled)(self, name)
        return self._runs[key](*arguments, out=out)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runs": {}}  # compiled code is made again

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, min_prob={self.min_prob}, validate={self.validate!r}"


class CompiledCategorical(FactoredCategorical):
    """The same, which loads row-major logits where they lie, and draws noise where it is used if it has a ``key``."""

    _transposes = False
    key: Tensor | None = None  # of ``random_key``

    def _uniforms(self, sample_shape: Any, noise: Tensor | None) -> Any:
        if noise is not None or self.key is None:
            return super()._uniforms(sample_shape, noise)
        made = counted_uniforms(self.key, self._extended_shape(torch.Size(sample_shape)), self._form.like.dtype)
        return made if isinstance(self._form, UnrolledHeads) else torch.stack(made).movedim(0, -1)
