"""Many hosts and their seeds, trained together: each as if it were alone."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.distributions.noise import keyed_words, unit
from esper_masks.rollout.networks.blueprints import BLUEPRINTS, Blueprint, initial
from esper_masks.rollout.networks.compact import Architecture, Compact, Rates, listed, named, numbers
from esper_masks.rollout.networks.hosts import Host
from esper_masks.rollout.networks.layers import Shapes

SLOTS = 16  # at most

Batches = Callable[[int, slice], tuple[Tensor, Tensor]]
"""For a step and some hosts: samples ``[hosts, rows, *shape]`` and classes ``[hosts, rows]`` int64."""


class Networks(NamedTuple):
    """All that is trained, of the population's dtype. Rows of parameters that a seed does not have are 0."""

    host: Tensor  # [parameters, batch]
    host_momentum: Tensor  # [parameters, batch]
    seeds: Tensor  # [slots, parameters of the largest blueprint, batch]
    seed_momentum: Tensor  # the same


class TrainStats(NamedTuple):
    """What a training tells: means over its steps; of a host that diverged, they may not be finite."""

    loss: Tensor  # [batch]: nats
    grad_norm: Tensor  # [batch]: of the host and its seeds, before it is clipped
    seed_grad_norm: Tensor  # [slots, batch]: of each seed; 0 without one
    diverged: Tensor  # bool [batch]: some step's loss or gradient was not finite; no such step is taken


class Population:
    """Hosts of one architecture, and what is done to all of them at once; what they are is in ``Networks``.

    A step of a host is that of ``torch.optim.SGD`` on its mean cross entropy, after ``clip_grad_norm_`` over the host
    and its seeds. A seed gives ``s`` for the ``h`` of its layer, and the layer gives on

        h + alpha * (s - h) + ste * (s - s.detach())

    where ``s`` is made of ``h.detach()`` if ``ste`` holds or seeds are isolated: with ``ste`` a seed is trained and
    changes nothing.

    Args:
        host: the architecture.
        slots: 1 to 16; slot ``j`` is after hidden layer ``j * depth // slots``.
        blueprints: names in ``BLUEPRINTS``; a blueprint's number is its place here.
        isolated: keep the gradients of all seeds out of the layers before them; by default as the host has it.
        lr: learning rate of hosts.
        seed_lr: of seeds; by default as that of hosts.
        momentum: of both.
        weight_decay: of hosts.
        clip: the largest norm of a host's gradient with those of its seeds; inf for any.
        dtype: float32 or float64.
        device: where all is computed.
        chunk: hosts that are trained at a time; by default on a CPU as the host has it, elsewhere all of them.

    Raises:
        ValueError: an argument out of range, an unknown blueprint, or one that does not fit the host.
    """

    def __init__(
        self,
        host: Host,
        slots: int,
        blueprints: Sequence[str],
        *,
        isolated: bool | None = None,
        lr: float = 0.05,
        seed_lr: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        clip: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        chunk: int | None = None,
    ):
        if not isinstance(host, Host):
            raise ValueError(f"host must be an MLPHost or a CNNHost, got {host!r:.80}")
        self.host, self.slots, self.names = host, slots, tuple(blueprints)
        self.isolated = host.isolated if isolated is None else isolated
        self.lr, self.seed_lr = lr, lr if seed_lr is None else seed_lr
        self.momentum, self.weight_decay, self.clip = momentum, weight_decay, clip
        self.dtype, self.device = dtype, torch.device(device)
        usual = host.chunk if self.device.type == "cpu" else 1 << 30
        self.chunk = usual if chunk is None else chunk
        self._check()
        self.blueprints = tuple(BLUEPRINTS[name] for name in self.names)
        self.shapes = tuple(part.shapes(host.features, host.dims) for part in self.blueprints)
        layers = tuple(
            tuple(slot for slot in range(slots) if slot * host.depth // slots == layer) for layer in range(host.depth)
        )
        self.architecture = Architecture(host, self.blueprints, self.shapes, layers, self.isolated)
        self.rates = Rates(lr, self.seed_lr, momentum, weight_decay, clip)
        for name, part, shapes in zip(self.names, self.blueprints, self.shapes):
            self._check_blueprint(name, part, shapes)

    @property
    def host_parameters(self) -> int:
        """Of one host."""
        return numbers(self.host.shapes)

    @property
    def seed_parameters(self) -> tuple[int, ...]:
        """Of one seed of each blueprint."""
        return tuple(map(numbers, self.shapes))

    def fresh(self, keys: Tensor) -> Networks:
        """Hosts at their beginning, without seeds: a function of each one's key alone.

        Args:
            keys: int64 ``[batch]``.
        """
        host = _flat(initial(self._uniforms(keys, self.host.shapes, 0)))
        seeds = host.new_zeros(self.slots, max(self.seed_parameters), len(keys))
        host = host.t().contiguous()
        return Networks(host, torch.zeros_like(host), seeds, torch.zeros_like(seeds))

    def germinate(self, networks: Networks, where: Tensor, blueprint: Tensor, keys: Tensor) -> Networks:
        """New seeds in some slots, their momentum 0: a function of key, slot and blueprint alone.

        Args:
            networks: before; it is left as it is.
            where: bool ``[slots, batch]``.
            blueprint: int ``[slots, batch]``, numbers of blueprints; read where a seed is to be.
            keys: int64 ``[batch]``; a host that had the same key before gets the same seed.
        """
        kinds = torch.where(where, blueprint, -1)
        seeds, momentum = self.clear(networks, where)[2:]
        for slot, number, hosts in listed(kinds, len(self.names)):
            purpose = 1 + slot * len(self.names) + number
            made = self.blueprints[number].init(self._uniforms(keys[hosts], self.shapes[number], purpose))
            flat = _flat({name: made[name] for name in self.shapes[number]})
            seeds[slot, : flat.shape[1], hosts] = flat.t()
        return networks._replace(seeds=seeds, seed_momentum=momentum)

    def clear(self, networks: Networks, where: Tensor) -> Networks:
        """Without the seeds of some slots, bool ``[slots, batch]``."""
        seeds, momentum = (part.masked_fill(where[:, None], 0) for part in networks[2:])
        return networks._replace(seeds=seeds, seed_momentum=momentum)

    def train(
        self,
        networks: Networks,
        blueprint: Tensor,
        alpha: Tensor,
        ste: Tensor,
        batches: Batches,
        steps: int,
        frozen: Tensor | None = None,
    ) -> tuple[Networks, TrainStats]:
        """Some steps of every host.

        Args:
            networks: before; it is left as it is.
            blueprint: int ``[slots, batch]``, numbers of blueprints; -1 where no seed is.
            alpha: float ``[slots, batch]``, each seed's share in its layer.
            ste: bool ``[slots, batch]``, whether a seed is trained without a share.
            batches: see ``Batches``; called for each step of each chunk of hosts.
            steps: how many.
            frozen: bool ``[slots, batch]``, seeds that stay as they are, as with gradients switched off; None for none.
        """
        made = Networks(*(part.clone() for part in networks))
        batch = blueprint.shape[1]
        loss, norm = alpha.new_zeros(2, batch, dtype=self.dtype)
        seed_norm = alpha.new_zeros(blueprint.shape, dtype=self.dtype)
        diverged = torch.zeros(batch, dtype=torch.bool, device=alpha.device)
        for hosts in self._chunks(batch, self.chunk):
            host, host_momentum, seeds, seed_momentum = (part[..., hosts] for part in made)
            kinds, share, trained = (part[:, hosts] for part in (blueprint, alpha, ste))
            momenta, still = (host_momentum, seed_momentum), None if frozen is None else frozen[:, hosts]
            compact = Compact(self.architecture, host, seeds, kinds, share, trained, momenta, still)
            for step in range(steps):
                compact.step(*batches(step, hosts), self.rates)
            compact.scatter(host, seeds, "parameters")
            compact.scatter(host_momentum, seed_momentum, "momenta")
            loss[hosts], norm[hosts] = compact.loss / steps, compact.norm / steps
            diverged[hosts] = compact.diverged
            for (slot, _, members), group in zip(compact.listed, compact.groups):
                seed_norm[slot, hosts.start + members] = group.norm / steps
        return made, TrainStats(loss, norm, seed_norm, diverged)

    @torch.no_grad()
    def evaluate(
        self, networks: Networks, blueprint: Tensor, alpha: Tensor, batches: Batches, step: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Mean cross entropy, nats, and accuracy of every host, ``[batch]`` both.

        Args:
            networks: left as they are.
            blueprint: as in ``train``.
            alpha: as in ``train``; a seed without a share is not computed.
            batches: see ``Batches``; called for one step of each chunk of hosts.
            step: which.
        """
        kinds = torch.where(alpha == 0, -1, blueprint)
        loss, accuracy = alpha.new_zeros(2, blueprint.shape[1], dtype=self.dtype)
        for hosts in self._chunks(blueprint.shape[1], max(self.chunk // 4, 1)):  # a split has more rows
            part = kinds[:, hosts]
            none = torch.zeros_like(part, dtype=torch.bool)
            host, seeds = networks.host[:, hosts], networks.seeds[..., hosts]
            logits = Compact(self.architecture, host, seeds, part, alpha[:, hosts], none)
            x, y = batches(step, hosts)
            scores = logits.logits(x).log_softmax(1)
            loss[hosts] = -scores.gather(1, y.unsqueeze(1)).mean((1, 2))
            accuracy[hosts] = (scores.argmax(1) == y).to(self.dtype).mean(-1)
        return loss, accuracy

    def bytes_per_host(self) -> int:
        """Memory of a host with the largest seed in every slot, and their momenta: before an epoch, after it, and while
        seeds germinate. What a chunk takes while it is trained does not grow with the number of hosts.
        """
        seeds = self.slots * max(self.seed_parameters)
        return 2 * (2 * self.host_parameters + 4 * seeds) * self.dtype.itemsize

    # -- parts --------------------------------------------------------------------------------------------------------

    def _chunks(self, batch: int, chunk: int) -> Iterator[slice]:
        size = max(-(-batch // max(-(-batch // chunk), 1)), 1)  # as many chunks as must be, none of them small
        return (slice(at, min(at + size, batch)) for at in range(0, batch, size))

    def _uniforms(self, keys: Tensor, shapes: Shapes, purpose: int) -> dict[str, Tensor]:
        """Uniforms ``[batch, *shape]`` for each parameter."""
        words = keyed_words(keys, torch.full_like(keys, purpose), numbers(shapes))
        return named(unit(words).to(self.dtype), shapes)

    def _check(self) -> None:
        if type(self.slots) is not int or not 1 <= self.slots <= SLOTS:
            raise ValueError(f"slots must be an int of 1 to {SLOTS}, got {self.slots!r}")
        if not self.names:
            raise ValueError(f"blueprints names none; there are {', '.join(BLUEPRINTS)}")
        if unknown := [name for name in self.names if name not in BLUEPRINTS]:
            raise ValueError(f"no blueprint is called {unknown[0]!r}; there are {', '.join(BLUEPRINTS)}")
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise ValueError(f"blueprints names {twice[0]!r} twice")
        if type(self.chunk) is not int or self.chunk < 1:
            raise ValueError(f"chunk must be an int of at least 1, got {self.chunk!r}")
        for name in ("lr", "seed_lr", "momentum", "weight_decay", "clip"):
            if not (value := getattr(self, name)) >= 0 or (value == math.inf and name != "clip"):
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {self.dtype}")

    def _check_blueprint(self, name: str, part: Blueprint, shapes: Shapes) -> None:
        """Raises: ValueError: it is not for such hosts, or gives something of another shape than it is given."""
        if self.host.dims not in part.dims:
            raise ValueError(
                f"blueprint {name!r} is for hosts with {' or '.join(map(str, part.dims))} axes of space, and these "
                f"have {self.host.dims}"
            )
        h = torch.zeros(2, self.host.features, 3, *[4] * self.host.dims, dtype=self.dtype)
        uniform = {key: torch.zeros(2, *shape, dtype=self.dtype) for key, shape in shapes.items()}
        made = part.init(uniform)
        for key, shape in shapes.items():
            if key not in made or made[key].shape[1:] != shape:
                got = list(made[key].shape[1:]) if key in made else "nothing"
                raise ValueError(f"blueprint {name!r}: its init gives {got} for {key!r}, which has shape {list(shape)}")
        given = part.apply(h, **{key: made[key] for key in shapes})
        if given.shape != h.shape:
            raise ValueError(
                f"blueprint {name!r} gives {list(given.shape)} for {list(h.shape)}: it must give back the shape of h"
            )
        if given.dtype != h.dtype:
            raise ValueError(f"blueprint {name!r} gives {given.dtype} for {h.dtype}")


def _flat(parameters: Mapping[str, Tensor]) -> Tensor:
    """``[batch, parameters]``."""
    return torch.cat([part.flatten(1) for part in parameters.values()], 1)


def batches_of(x: Tensor, y: Tensor) -> Batches:
    """Samples ``[steps, batch, rows, *shape]`` and classes ``[steps, batch, rows]`` int64 that lie ready."""
    return lambda step, hosts: (x[step, hosts], y[step, hosts])
