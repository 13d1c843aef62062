"""Methods as compiled code, and compiled methods as CUDA graphs.

Why graphs are chosen here, and not by ``torch.compile`` at each call:

    guard      A condition under which torch holds a graph to be valid: "input 0 is an int32 tensor on the CPU with 64
               rows". ``torch.compile`` checks the guards of its graphs before each call. These checks take some tens
               of microseconds, longer than to decide for a hundred rows.
    ahead      ``aot_compile`` gives a graph, and the graph's guards as a function. So the guards are checked once for
               all calls with the same key. A lookup of the key takes less than ten microseconds.
    key        All that a guard could ask about a call: sizes, strides, dtypes, devices, gradients, classes, numbers,
               and the modes of torch. Keys may tell apart more than guards do, never less: each size has its own key.
    signature  What has graphs of its own whatever the sizes. Of a size it holds only whether it is 0, 1 or more,
               because 0 and 1 are constants to torch: an axis of 1 may be broadcast.

One entry, for ``step.masks(states)`` of an engine with three slots, int32 ``[64, 3, 2]``:

    key        modes: (False, 1, torch.float32, False, False, False, 0)
               inputs: (MaskInputs, ((64, 3, 2), (1, 64, 192), int32, cpu, False, Tensor), None, (int, 0), None, None)
               out: ()
    signature  the tree of inputs and out; (int32, cpu, not contiguous, no gradient, (2, 2, 2)); None; int; thrice None
    entry      the graph of this signature for 64 rows; input 0 crosses as float32

Then 65 rows come: another key and the same signature, whose one graph has a guard for 64 rows. A second graph is made,
for any number of rows from 2 on. It serves 66 rows, a third key, too.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from esper_masks.compiled.torch_private import (
    Ahead,
    can_compile_ahead,
    compile_ahead,
    compile_error,
    compile_function,
    compile_lock,
    function_modes,
)

CPU_OPTIONS = {
    # one vectorized `exp` for all rows: by default the compiler leaves some to a scalar one, which rounds differently
    "cpp.enable_tiling_heuristics": False,
    # one loop over rows for all of a decision: by default it is cut into several, with what passes between in memory
    "max_fusion_size": 1 << 16,
    # what several others are computed from is computed once: by default only what takes 30 ops or more
    "realize_opcount_threshold": 25,
    # sizes are looked at before, by what chooses the graph
    "size_asserts": False,
}
WARM_UP = 3  # calls before a capture
CONSTANTS = (bool, int, float, torch.dtype)  # to a graph; so is None

LOG = logging.getLogger("esper_masks")  # silent unless a program asks for INFO
_numbers = count()


class Entry(NamedTuple):
    """What serves the calls of one key. It may be kept and called again, for inputs that have the same key."""

    graph: Callable[[list[Any], tuple[Any, ...]], Any]
    as_bits: Sequence[int]  # inputs that cross as the float32 of the same bits

    def __call__(self, inputs: Sequence[Any], *out: Any) -> Any:
        return self.graph(_crossing(inputs, self.as_bits), out)


class CompiledMethod:
    """A method of a module as compiled code: for each signature a graph of the first sizes, and then one for all.

    On a CPU, int32 inputs cross the border as the float32 of the same bits: for AVX2 the compiler reads integers
    through the stack, which takes longer than most of what is done with them.

    Args:
        method: of a module; what belongs to the module, but for the values of its tensors, is constant to the graphs.
            It takes one tuple or named tuple, of tensors, pytrees of tensors, numbers and None. If it also takes
            memory to write to, that is its second argument: a call has at most one place in ``out``.
        cpu_options: of torch's compiler, beside ``CPU_OPTIONS``.
        constants: further arguments of the method, by name.
    """

    max_entries = 4096  # calls of so many keys are remembered

    def __init__(self, method: Callable[..., Any], cpu_options: Mapping[str, Any] | None = None, **constants: Any):
        self.method, self.constants = method, constants
        self.name = method.__qualname__.replace("._", ".")
        self.cpu_options = {**CPU_OPTIONS, **(cpu_options or {})}
        # for each signature, what ``torch.compile`` gave and the graphs made of it ahead; None if none can be
        self.graphs: dict[Any, tuple[Any, list[Ahead] | None]] = {}
        self.entries: dict[Any, Entry] = {}

    def __call__(self, inputs: Sequence[Any], *out: Any) -> Any:
        if torch.is_inference_mode_enabled():  # in which the compiler would set itself up for no other
            with torch.inference_mode(False), torch.no_grad():
                return self(inputs, *out)
        try:
            return self.find(inputs, *out)(inputs, *out)
        except compile_error():
            self.method(inputs, **self.constants)  # what does not fit is named by the method itself
            raise

    def find(self, inputs: Sequence[Any], *out: Any) -> Entry:
        """What serves a call with these inputs, or with any that have the same key."""
        key = _modes(), _exact(inputs), out and _exact(out)
        entry = self.entries.get(key)
        if entry is None:
            if len(self.entries) >= self.max_entries:
                self.entries.clear()
            with compile_lock():
                entry = self.entries[key] = self._choose(inputs, out)
        return entry

    def _choose(self, inputs: Sequence[Any], out: tuple[Any, ...]) -> Entry:
        leaves, spec = tree_flatten((inputs, out))
        as_bits = [at for at, a in enumerate(inputs) if isinstance(a, Tensor) and a.dtype == torch.int32 and a.is_cpu]
        signature = spec, *[_signature(leaf) for leaf in leaves]
        if signature not in self.graphs:
            if not self.graphs:
                LOG.info("building %s: this first call takes some 10 to 90 seconds", self.name)
            on_cpu = all(leaf.is_cpu for leaf in leaves if isinstance(leaf, Tensor))
            self.graphs[signature] = self._compile(type(inputs), as_bits, self.cpu_options if on_cpu else {}), []
        call, graphs = self.graphs[signature]
        if graphs is None or not can_compile_ahead(call):
            return Entry(call, as_bits)
        # two tensors even where one was given for two inputs: the graph is for all that are like them
        given, places = tree_map_only(Tensor, _like, (_crossing(inputs, as_bits), out))
        fitting = next((graph for graph in graphs if graph.fits(given, places)), None)
        if fitting is None:
            fitting = compile_ahead(call, ((given, places), {}))
            if fitting is None:  # nor will it for other sizes, and to try takes as long as to compile
                self.graphs[signature] = call, None
                return Entry(call, as_bits)
            graphs.append(fitting)
        return Entry(fitting.call, as_bits)

    def _compile(self, kind: type[Any], as_bits: Sequence[int], options: Mapping[str, Any]) -> Any:
        method, constants, named = self.method, self.constants, hasattr(kind, "_fields")

        def call(crossed: list[Any], out: tuple[Any, ...]) -> Any:
            own = [a.view(torch.int32) if at in as_bits else a for at, a in enumerate(crossed)]
            return method(kind(*own) if named else own, *out, **constants)

        # with code of its own it learns by itself which sizes change; what is compiled is kept by its globals
        code = call.__code__.replace(co_name=f"call_{next(_numbers)}")
        own_call = FunctionType(code, dict(globals()), closure=call.__closure__)
        return compile_function(own_call, {**options, "guard_filter_fn": _of_inputs})


def _crossing(inputs: Sequence[Any], as_bits: Sequence[int]) -> list[Any]:
    crossed = list(inputs)
    for at in as_bits:
        crossed[at] = crossed[at].view(torch.float32)
    return crossed


def _modes() -> tuple[Any, ...]:
    """What of torch, rather than of the arguments, a graph was compiled for."""
    return (
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.are_deterministic_algorithms_enabled(),
        function_modes(),
    )


def _exact(value: Any) -> Any:
    """The part of a key that tells a value from those that another graph may serve, in as little time as may be."""
    if isinstance(value, Tensor):
        size = value.shape, value.stride()
        return size, value.dtype, value.device, value.requires_grad, type(value)
    if value is None:
        return None
    if isinstance(value, (tuple, list)):  # a union takes longer
        return type(value), *[_exact(part) for part in value]
    if isinstance(value, CONSTANTS):
        return type(value), value  # 1, True and 1.0 are equal
    if isinstance(value, Mapping):
        return tuple([(name, _exact(part)) for name, part in value.items()])
    return type(value)


def _signature(leaf: Any) -> Any:
    """What tells apart the inputs that have graphs of their own whatever the sizes."""
    if isinstance(leaf, Tensor):
        small = tuple([size if size < 2 else 2 for size in leaf.shape])
        return leaf.dtype, leaf.device, leaf.is_contiguous(), leaf.requires_grad, small
    return leaf if leaf is None or isinstance(leaf, bool | torch.dtype) else type(leaf)


def _like(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _of_inputs(guards: Sequence[Any]) -> list[bool]:
    """Which guards of a graph are kept: those of the inputs and of torch's modes; the module stays as it is.

    Classes are told apart before, and torch 2.11 keeps no graph that depends on one.
    """
    return [
        guard.guard_type != "CLASS_MATCH"
        and (not guard.name or re.search(r"\b(crossed|out)\b", guard.name) is not None)
        for guard in guards
    ]


def copy_into(places: Sequence[Tensor | None], values: Sequence[Tensor | None]) -> None:
    """Write values where there is a place for them."""
    for place, value in zip(places, values):
        if place is not None and value is not None:
            place.copy_(value)


class GraphedMethod:
    """A function as a CUDA graph for each shape of its inputs: a call copies them, and launches nothing but the graph.

    What a call returns is overwritten by the next one of the same shape. A call has at most one place in ``out``: what
    was computed is copied there, and nothing is returned.

    Args:
        function: of one tuple, as a ``CompiledMethod`` is; it is captured.
    """

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function
        self.graphs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, inputs: Sequence[Any], *out: Any) -> Any:
        leaves, spec = tree_flatten(inputs)
        key = spec, *[(a.shape, a.stride(), a.dtype) if isinstance(a, Tensor) else _exact(a) for a in leaves]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if key not in self.graphs:
            self.graphs[key] = self._capture(tensors, leaves, spec)
        made = self.graphs[key](*tensors)
        for places in out:
            copy_into(places, made)
        return None if out else made

    def _capture(self, tensors: Sequence[Tensor], leaves: Sequence[Any], spec: Any) -> Callable[..., Any]:
        made: tuple[Sequence[Any], Any] = [], None

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            nonlocal made
            made = tree_flatten(self.function(_with_tensors(tensors, leaves, spec)))
            return tuple(leaf for leaf in made[0] if isinstance(leaf, Tensor))  # a graph gives tensors only

        static = tuple(t.clone() for t in tensors)
        with torch.autocast("cuda", enabled=False):  # logits are cast by the distribution, if at all
            graphed: Callable[..., Any] = torch.cuda.make_graphed_callables(call, static, num_warmup_iters=WARM_UP)
        return lambda *tensors: _with_tensors(graphed(*tensors), *made)


def _with_tensors(tensors: Sequence[Tensor], leaves: Sequence[Any], spec: Any) -> Any:
    """A tree of these leaves with other tensors in place of its own."""
    given = iter(tensors)
    return tree_unflatten([next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
