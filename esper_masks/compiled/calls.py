"""Methods of a module as compiled code, and that as a CUDA graph."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
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
MOST = 4096  # arguments whose graph is remembered
NUMBERS = (type(None), bool, int, float, torch.dtype)  # constants to a graph

Found = tuple[list[int], Callable[..., Any]]  # a graph, and which of its arguments it takes as bits

LOG = logging.getLogger("esper_masks")  # silent unless a program asks for INFO
_numbers = count()


class Compiled:
    """A method of a module as compiled code: one graph for each form of its arguments, made at the first such call.

    A form is which arguments there are, bools themselves, and of tensors dtype, device, axes, memory layout, whether
    there is a gradient, and which sizes are 1 or 0. Other sizes have a graph of the first ones and then one for all.

    Graphs are compiled ahead of their calls. What torch checks before each call of a compiled function takes longer
    than deciding for a hundred rows; here it is checked once for all calls with such arguments in such modes of torch.

    On a CPU, int32 arguments cross the border as the float32 of the same bits: for AVX2 the compiler reads integers by
    way of the stack, which takes longer than most of what is done with them.

    Args:
        module: what belongs to it, but for the values of its tensors, is constant to the graphs.
        name: the method. It takes tensors, pytrees of tensors, numbers and None; ``out`` last, and ``fused``, True in
            code that is compiled here.
        cpu_options: of torch's compiler, beside ``CPU_OPTIONS``.
    """

    def __init__(self, module: nn.Module, name: str, cpu_options: Mapping[str, Any] | None = None):
        self.method, self.name = getattr(module, name), f"{type(module).__name__}.{name.lstrip('_')}"
        self.cpu_options = {**CPU_OPTIONS, **(cpu_options or {})}
        self.forms: dict[Any, tuple[Any, list[Ahead] | None]] = {}  # what is compiled for each, and the graphs of it
        self.chosen: dict[Any, Found] = {}

    def __call__(self, *arguments: Any, out: Any = None) -> Any:
        if torch.is_inference_mode_enabled():  # in which the compiler would set itself up for no other
            with torch.inference_mode(False), torch.no_grad():
                return self(*arguments, out=out)
        try:
            return run(self.find(arguments, out), arguments, out)
        except compile_error():
            self.method(*arguments, None)  # what does not fit is named by the method itself
            raise

    def find(self, arguments: Sequence[Any], out: Any) -> Found:
        """What ``run`` calls, with these arguments or with any that are alike; to look it up takes some 10 us."""
        key = _modes(), tuple([_exact(a) for a in arguments]), out is None or tuple([_exact(place) for place in out])
        found = self.chosen.get(key)
        if found is None:
            if len(self.chosen) == MOST:
                self.chosen.clear()
            with compile_lock():
                found = self.chosen[key] = self._choose(arguments, out)
        return found

    def _choose(self, arguments: Sequence[Any], out: Any) -> Found:
        """The graph for such arguments, and which of them it takes as bits."""
        leaves, spec = tree_flatten((arguments, out))
        as_bits = [
            at for at, a in enumerate(arguments) if isinstance(a, Tensor) and a.dtype == torch.int32 and a.is_cpu
        ]
        form = spec, *[_form(leaf) for leaf in leaves]
        if form not in self.forms:
            if not self.forms:
                LOG.info("building %s: this first call takes some 10 to 90 seconds", self.name)
            on_cpu = all(leaf.is_cpu for leaf in leaves if isinstance(leaf, Tensor))
            self.forms[form] = self._compile(as_bits, self.cpu_options if on_cpu else {}), []
        call, graphs = self.forms[form]
        if graphs is None or not can_compile_ahead(call):
            return as_bits, call
        # two tensors even where one was given for two arguments: the graph is for all that are like them
        given, places = tree_map_only(Tensor, _like, (_passed(arguments, as_bits), out))
        fitting = next((graph for graph in graphs if graph.fits(given, places)), None)
        if fitting is None:
            fitting = compile_ahead(call, ((given, places), {}))
            if fitting is None:  # nor will it for other sizes, and to try takes as long as to compile
                self.forms[form] = call, None
                return as_bits, call
            graphs.append(fitting)
        return as_bits, fitting.call

    def _compile(self, as_bits: Sequence[int], options: Mapping[str, Any]) -> Any:
        method = self.method

        def call(arguments: list[Any], out: Any) -> Any:
            own = [a.view(torch.int32) if at in as_bits else a for at, a in enumerate(arguments)]
            return method(*own, out, fused=True)

        # with code of its own it learns by itself which sizes change; what is compiled is kept by its globals
        code = call.__code__.replace(co_name=f"call_{next(_numbers)}")
        own_call = FunctionType(code, dict(globals()), closure=call.__closure__)
        return compile_function(own_call, {**options, "guard_filter_fn": _of_arguments})


def run(found: Found, arguments: Sequence[Any], out: Any) -> Any:
    """Call what was found."""
    as_bits, graph = found
    return graph(_passed(arguments, as_bits), out)


def _passed(arguments: Sequence[Any], as_bits: Sequence[int]) -> list[Any]:
    passed = list(arguments)
    for at in as_bits:
        passed[at] = passed[at].view(torch.float32)
    return passed


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


def _exact(argument: Any) -> Any:
    """What tells an argument from those that another graph may serve, in as little time as may be."""
    if isinstance(argument, Tensor):
        size = argument.shape, argument.stride()
        return size, argument.dtype, argument.device, argument.requires_grad, type(argument)
    if isinstance(argument, Mapping):
        return tuple([(name, _exact(value)) for name, value in argument.items()])
    return (type(argument), argument) if isinstance(argument, NUMBERS) else type(argument)  # 1, True and 1.0 are equal


def _form(argument: Any) -> Any:
    """What tells apart the arguments that have graphs of their own whatever the sizes."""
    if isinstance(argument, Tensor):
        small = tuple([size if size < 2 else 2 for size in argument.shape])
        return argument.dtype, argument.device, argument.is_contiguous(), argument.requires_grad, small
    return argument if argument is None or isinstance(argument, bool | torch.dtype) else type(argument)


def _like(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _of_arguments(guards: Sequence[Any]) -> list[bool]:
    """Which conditions of a graph are checked: what the arguments are, and torch's modes; the module stays.

    Classes are told apart before, and torch 2.11 keeps no graph that depends on one.
    """
    return [
        guard.guard_type != "CLASS_MATCH"
        and (not guard.name or re.search(r"\b(arguments|out)\b", guard.name) is not None)
        for guard in guards
    ]


def copy_into(places: Sequence[Tensor | None], values: Sequence[Tensor | None]) -> None:
    """Write values where there is a place for them."""
    for place, value in zip(places, values):
        if place is not None and value is not None:
            place.copy_(value)


class Graphed:
    """The same as a CUDA graph for each shape of its arguments: a call copies them, and launches nothing but the graph.

    What a call returns is overwritten by the next one of the same shape.

    Args:
        module: as of ``Compiled``.
        name: as of ``Compiled``.
    """

    def __init__(self, module: nn.Module, name: str):
        self.compiled = Compiled(module, name)
        self.graphs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any, out: Any = None) -> Any:
        leaves, spec = tree_flatten(arguments)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        rest = tuple(None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves)
        key = (spec, rest, *((t.shape, t.stride(), t.dtype) for t in tensors))
        if key not in self.graphs:
            self.graphs[key] = self._capture(tensors, rest, spec)
        made = self.graphs[key](*tensors)
        if out is None:
            return made
        copy_into(out, made)
        return None

    def _capture(self, tensors: Sequence[Tensor], rest: Sequence[Any], spec: Any) -> Callable[..., Any]:
        makes: list[Any] = []

        def call(*tensors: Tensor) -> Any:
            given = iter(tensors)
            made = self.compiled(*tree_unflatten([next(given) if r is None else r[0] for r in rest], spec))
            leaves, of = tree_flatten(made)
            makes[:] = of, [leaf is None for leaf in leaves]
            return tuple(leaf for leaf in leaves if leaf is not None)  # a graph gives tensors only

        static = tuple(t.clone() for t in tensors)
        with torch.autocast("cuda", enabled=False):  # logits are cast by the distribution, if at all
            graphed: Callable[..., Any] = torch.cuda.make_graphed_callables(call, static, num_warmup_iters=WARM_UP)

        def replay(*tensors: Tensor) -> Any:
            made, (of, lacks) = iter(graphed(*tensors)), makes
            return tree_unflatten([None if lacking else next(made) for lacking in lacks], of)

        return replay
