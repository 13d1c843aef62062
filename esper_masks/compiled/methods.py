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
from dataclasses import dataclass, field
from itertools import chain, count
from threading import RLock
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from esper_masks.compiled import kept
from esper_masks.compiled.torch_kept import can_keep, saves_plainly, tell_seen
from esper_masks.compiled.torch_private import (
    Ahead,
    alike,
    brief,
    can_compile_ahead,
    compile_ahead,
    compile_error,
    compile_function,
    compile_lock,
    function_modes,
    has_compiler,
    watches,
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
    # what the processor says it can do is taken as true: by default a program is built for each instruction set to find
    # out, which takes 6 of the 18 seconds of a first call; a compiler that lacks one fails, see ``_run_as_is``
    "cpp.vec_isa_ok": True,
}
ANY = "any"  # a size or a number of a graph for several
WARM_UP = 3  # calls before a capture
CONSTANTS = (bool, int, float, torch.dtype)  # to a graph; so is None

LOG = logging.getLogger("esper_masks")  # silent unless a program asks for INFO
_numbers = count()
_LOCK = RLock()  # one thread at a time looks for graphs, and makes them


class Entry(NamedTuple):
    """What serves the calls of one key. It may be kept and called again, for inputs that have the same key."""

    graph: Callable[[list[Any], tuple[Any, ...]], Any]
    as_bits: Sequence[int]  # inputs that cross as the float32 of the same bits

    def __call__(self, inputs: Sequence[Any], *out: Any) -> Any:
        return self.graph(_crossing(inputs, self.as_bits), out)


class Recalled(NamedTuple):
    """What served a call that was remembered."""

    fits: Callable[..., bool]  # whether tensors are like those of that call
    entry: Entry
    rest: Any  # what the caller found out


@dataclass
class Graphs:
    """What serves the calls of one signature."""

    function: Any  # what is compiled
    options: Mapping[str, Any]
    on_cpu: bool
    call: Any = None  # what ``torch.compile`` gave for it, once something has to be built
    made: list[Ahead] | None = field(default_factory=list)  # the graphs made ahead; None if none can be
    sizes: Sequence[Any] | None = None  # those that the graphs were made for, see ``sizes_with``
    seen: list[bytes] = field(default_factory=list)  # by graphs that were made in another process, see ``tell_seen``

    def sizes_with(self, leaves: Sequence[Any]) -> Sequence[Any]:
        """Numbers, sizes and strides of these leaves; ``ANY`` where they differ from those of a graph made before."""
        new = [_sizes(leaf) for leaf in leaves]
        if self.sizes is None:
            return new
        return [tuple([a if a == b else ANY for a, b in zip(*pair)]) for pair in zip(self.sizes, new)]


class CompiledMethod:
    """A method of a module as compiled code: for each signature a graph of the first sizes, and then one for all.

    On a CPU, int32 inputs cross the border as the float32 of the same bits: for AVX2 the compiler reads integers
    through the stack, which takes longer than most of what is done with them.

    Args:
        method: of a module; what belongs to the module, but for the values of its tensors, is constant to the graphs.
            It takes one tuple or named tuple, of tensors, pytrees of tensors, numbers and None. If it also takes
            memory to write to, that is its second argument: a call has at most one place in ``out``.
        cpu_options: of torch's compiler, beside ``CPU_OPTIONS``.
        told: gives all that the graphs are constant to, as ``kept.described`` takes it, for code that is kept for the
            next process. By default, and where it gives None, none is.
        constants: further arguments of the method, by name.
    """

    max_entries = 4096  # calls of so many keys are remembered
    max_alike = 64  # of one key, which are looked through at half a microsecond each

    def __init__(
        self,
        method: Callable[..., Any],
        cpu_options: Mapping[str, Any] | None = None,
        told: Callable[[], Any] = lambda: None,
        **constants: Any,
    ):
        self.method, self.constants, self.told = method, constants, told
        self.name = method.__qualname__.replace("._", ".")
        self.cpu_options = {**CPU_OPTIONS, **(cpu_options or {})}
        self.graphs: dict[Any, Graphs] = {}  # for each signature
        self.entries: dict[Any, Entry] = {}
        self.calls: dict[Any, list[Recalled]] = {}  # those that were remembered

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
        key = torch_modes(), _exact(inputs), out and _exact(out)
        entry = self.entries.get(key)
        if entry is None:
            if len(self.entries) >= self.max_entries:
                self.entries.clear()
            with _LOCK:
                entry = self.entries[key] = self._choose(inputs, out)
        return entry

    def remember(self, key: Any, tensors: Sequence[Any], inputs: Sequence[Any], rest: Any) -> None:
        """Let ``recall`` find what serves this call, which would else take longer than a small batch.

        Args:
            key: all that the call depends on beside tensors.
            tensors: that it depends on, of its inputs or others.
            inputs: see ``find``.
            rest: of the caller, for later calls.
        """
        if (fits := alike(tensors)) is None:
            return
        with _LOCK:
            if self.recall(key, tensors) is not None:  # by another thread
                return
            with torch.inference_mode(False), torch.no_grad():
                entry = self.find(inputs)
            if len(self.calls) >= self.max_entries:
                self.calls.clear()
            self.calls[key] = [*self.calls.get(key, ()), Recalled(fits, entry, rest)][-self.max_alike :]

    def recall(self, key: Any, tensors: Sequence[Any]) -> Recalled | None:
        """What was remembered of a call with this key and tensors like these; it may be run without gradients."""
        for call in self.calls.get(key, ()):
            if call.fits(*tensors):
                return call
        return None

    def _choose(self, inputs: Sequence[Any], out: tuple[Any, ...]) -> Entry:
        leaves, spec = tree_flatten((inputs, out))
        as_bits = [at for at, a in enumerate(inputs) if isinstance(a, Tensor) and a.dtype == torch.int32 and a.is_cpu]
        signature = spec, *[_signature(leaf) for leaf in leaves]
        if signature not in self.graphs:
            on_cpu = all(leaf.is_cpu for leaf in leaves if isinstance(leaf, Tensor))
            options = self.cpu_options if on_cpu else {}
            self.graphs[signature] = Graphs(self._function(type(inputs), as_bits), options, on_cpu)
        graphs = self.graphs[signature]
        if (
            graphs.call is None and not watches()
        ):  # there may be a transform around the call, under which none is chosen
            self._begin(graphs)
            graphs.made = None
        if graphs.made is None:
            return Entry(graphs.call, as_bits)
        # two tensors even where one was given for two inputs: the graph is for all that are like them
        given, places = tree_map_only(Tensor, _like, (_crossing(inputs, as_bits), out))
        fitting = next((graph for graph in graphs.made if graph.fits(given, places)), None)
        if fitting is None:
            sizes = graphs.sizes_with(leaves)
            keys = self._keys(signature, sizes, tree_flatten((given, places))[0]) if graphs.on_cpu else []
            fitting = self._revived(graphs, keys, given, places) or self._built(graphs, keys, sizes, given, places)
            if fitting is None:  # nor will it for other sizes, and to try takes as long as to compile
                graphs.made = None
                return Entry(graphs.call, as_bits)
            graphs.made.append(fitting)
        return Entry(fitting.call, as_bits)

    def _revived(self, graphs: "Graphs", keys: Sequence[str], given: Any, places: Any) -> Ahead | None:
        modes = torch_modes()
        for found in filter(None, (kept.read(key, graphs.function) for key in keys)):

            def fits(given: Any, places: Any, found: kept.Kept = found) -> bool:
                """What torch's guards ask, and what the key has told apart."""
                leaves = tree_flatten((given, places))[0]
                known = all(a in (b, ANY) for leaf, own in zip(leaves, found.sizes) for a, b in zip(own, _sizes(leaf)))
                return known and modes == torch_modes() and _are_plain(leaves) and found.code.fits(given, places)

            if fits(given, places):
                graphs.seen.append(found.seen)
                graphs.sizes = found.sizes
                return Ahead(fits, found.code.call)
        return None

    def _built(self, graphs: "Graphs", keys: Sequence[str], sizes: Any, given: Any, places: Any) -> Ahead | None:
        with compile_lock():
            return self._build(graphs, keys, sizes, given, places)

    def _build(self, graphs: "Graphs", keys: Sequence[str], sizes: Any, given: Any, places: Any) -> Ahead | None:
        if graphs.on_cpu and not has_compiler():
            self._run_as_is(graphs, "no C++ compiler is found; CXX names one")
            return None
        if graphs.call is None:
            self._begin(graphs)
        if not can_compile_ahead(graphs.call):
            return None
        while graphs.seen:
            tell_seen(graphs.function, graphs.seen.pop())
        keep = bool(keys) and can_keep()
        try:
            with brief(plain=self.told() is not None):  # else a network of the user may be in it
                made = compile_ahead(graphs.call, ((given, places), {}), keep=keep)
        except compile_error("BackendCompilerFailed") as error:
            if not graphs.on_cpu:
                raise
            self._run_as_is(graphs, f"the compiler fails: {build_reason(error)}")
            return None
        if made is not None:
            graphs.sizes = sizes
            if keep:
                kept.write(keys if ANY in chain(*sizes) else keys[:1], graphs.function, made.made, sizes)
                # as it is in the next process: without what torch does around each call
                return self._revived(graphs, keys, given, places) or made
        return made

    def _run_as_is(self, graphs: "Graphs", reason: str) -> None:
        kept.say(f"{self.name} runs op by op, as in eager mode: {reason}")
        graphs.call = graphs.function

    def _begin(self, graphs: "Graphs") -> None:
        if not any(other.call for other in self.graphs.values()):
            LOG.info("building %s: this first call takes some 10 to 90 seconds", self.name)
        graphs.call = compile_function(graphs.function, {**graphs.options, "guard_filter_fn": _of_inputs})

    def _keys(self, signature: Any, sizes: Any, leaves: Sequence[Any]) -> list[str]:
        """What tells a graph of these sizes, and one of any, from those of other calls; none where that is not known.

        So a graph for any number of rows, which is as fast, serves the first call if there is none for its number.
        """
        modes = torch_modes()
        plain = not modes[-1] and not torch.is_autocast_enabled("cpu") and saves_plainly()
        if not plain or not _are_plain(leaves) or (own := self.told()) is None or not kept.is_on():
            return []
        try:
            told = kept.described((own, self.constants, self.cpu_options, modes))
            each = [kept.described(own) for own in (sizes, ANY)]
        except kept.UnknownError as error:
            LOG.info("%s is not kept for the next process: it depends on %s", self.name, error)
            return []
        return [repr((self.name, told, [str(part) for part in signature], own)) for own in each]

    def _function(self, kind: type[Any], as_bits: Sequence[int]) -> Any:
        method, constants, named = self.method, self.constants, hasattr(kind, "_fields")

        def call(crossed: list[Any], out: tuple[Any, ...]) -> Any:
            own = [a.view(torch.int32) if at in as_bits else a for at, a in enumerate(crossed)]
            return method(kind(*own) if named else own, *out, **constants)

        # with code of its own it learns by itself which sizes change; what is compiled is kept by its globals
        code = call.__code__.replace(co_name=f"call_{next(_numbers)}")
        return FunctionType(code, dict(globals()), closure=call.__closure__)


def build_reason(error: Exception) -> str:
    """What went wrong while torch built something, in one line."""
    inner = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()] or [""]
    return f"{type(inner).__name__}: {next((line for line in lines if 'error:' in line), lines[0])}"


def _crossing(inputs: Sequence[Any], as_bits: Sequence[int]) -> list[Any]:
    crossed = list(inputs)
    for at in as_bits:
        crossed[at] = crossed[at].view(torch.float32)
    return crossed


def torch_modes() -> tuple[Any, ...]:
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


def _are_plain(leaves: Sequence[Any]) -> bool:
    """Whether no tensor is of a class of its own."""
    return all(type(leaf) is Tensor for leaf in leaves if isinstance(leaf, Tensor))


def _sizes(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, Tensor):
        return *leaf.shape, *leaf.stride()
    return (leaf,) if isinstance(leaf, CONSTANTS) else ()


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
