"""The compact form: hosts and the seeds that they have, side by side, and the steps that train them.

Stages change only between epochs. At the beginning of one, the seeds of each slot are listed by blueprint, and the
parameters of those that are there are copied into blocks: one of the hosts, then one of each blueprint, slot by slot.
The steps compute all hosts at once, and one blueprint of a slot at once; at the end, all goes back to where it was. A
slot without a seed costs nothing.

Gradients of hosts are written out, those of blueprints are autograd's: a blueprint is anybody's.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from esper_masks.rollout.networks.blueprints import Blueprint
from esper_masks.rollout.networks.hosts import Host
from esper_masks.rollout.networks.layers import Shapes

EPSILON = 1e-6  # beside a norm that a gradient is clipped by, as in ``torch.nn.utils.clip_grad_norm_``
ALIGNED = 16  # numbers that a row of a block is padded to: where a row begins in memory can change a product's last bit


class Architecture(NamedTuple):
    """What is computed."""

    host: Host
    blueprints: tuple[Blueprint, ...]
    shapes: tuple[Shapes, ...]  # of each blueprint
    layers: tuple[tuple[int, ...], ...]  # slots after each layer, in order
    isolated: bool


class Rates(NamedTuple):
    """How a step is taken."""

    lr: float
    seed_lr: float
    momentum: float
    weight_decay: float
    clip: float


class _Block(NamedTuple):
    """Rows of one kind: of hosts, or of the seeds of one blueprint."""

    owners: Tensor  # int64 [rows]: each one's host
    frozen: Tensor | None  # bool [rows]: those that stay as they are; None where all are trained
    parameters: Tensor  # [rows, padded]
    momenta: Tensor
    gradients: Tensor
    norm: Tensor  # [rows]: norms of gradients, summed over steps


@dataclass
class _Group:
    """Seeds of one blueprint in one slot."""

    number: int
    rows: slice  # of its slot
    leaves: dict[str, Tensor]  # [seeds, *shape], in the block of the blueprint
    gradients: Tensor  # [seeds, parameters], there too
    norm: Tensor  # [seeds], there too
    hosts: Tensor  # int64 [seeds]
    alpha: Tensor  # [seeds, 1, ...], as many axes as h
    part: Tensor  # the same: the seed's part of the layer's gradient, alpha, or 1 with ste
    hidden: Tensor | None  # bool, the same: ste, where seeds change nothing; None where all have a share
    opened: Tensor | None  # the same: 1 where the seed's gradient goes on into the host, None where none does


@dataclass
class _Slot:
    """All seeds of one slot."""

    hosts: Tensor  # int64 [seeds]
    left: Tensor  # [seeds, 1, ...]: 1 - alpha
    groups: list[_Group] = field(default_factory=list)


class _Grown(NamedTuple):
    """What a slot's part of the gradient needs."""

    slot: _Slot
    chosen: Tensor  # [seeds, ...]: h before it
    given: list[Tensor]  # to each group
    made: list[Tensor]  # by each group


class Compact:
    """Some hosts with their seeds.

    Args:
        architecture: what is computed.
        host: parameters of hosts ``[parameters, hosts]``.
        seeds: of seeds ``[slots, parameters of the largest blueprint, hosts]``.
        blueprint: int ``[slots, hosts]``; -1 without a seed.
        alpha: ``[slots, hosts]``.
        ste: bool ``[slots, hosts]``.
        momenta: those of ``host`` and of ``seeds``, to train; None only computes.
        frozen: bool ``[slots, hosts]``, seeds that are not trained; None for none.
    """

    def __init__(
        self,
        architecture: Architecture,
        host: Tensor,
        seeds: Tensor,
        blueprint: Tensor,
        alpha: Tensor,
        ste: Tensor,
        momenta: tuple[Tensor, Tensor] | None = None,
        frozen: Tensor | None = None,
    ):
        self.architecture, self.trains = architecture, momenta is not None
        self.count = host.shape[1]
        self.listed = list(listed(blueprint, len(architecture.blueprints)))
        shapes = architecture.host.shapes
        everybody = torch.arange(self.count, device=host.device)
        owners = {-1: [everybody]}
        still: dict[int, list[Tensor]] = {}
        frozen = frozen if frozen is not None and bool(frozen.any()) else None
        for slot, number, hosts in self.listed:
            owners.setdefault(number, []).append(hosts)
            if frozen is not None:
                still.setdefault(number, []).append(frozen[slot, hosts])
        self._allocate(
            {number: torch.cat(parts) for number, parts in sorted(owners.items())},
            {number: torch.cat(parts) for number, parts in still.items()},
            host,
        )
        self.parameters = named(self.blocks[-1].parameters, shapes)
        self.gradients = named(self.blocks[-1].gradients, shapes)
        self.slots: dict[int, _Slot] = {}
        self.groups = self._grouped(alpha.to(host.dtype), ste)
        self._gather(host, seeds, "parameters")
        if momenta is not None:
            self._gather(*momenta, "momenta")
        self.loss, self.norm = host.new_zeros(2, self.count)
        self.diverged = torch.zeros(self.count, dtype=torch.bool, device=host.device)

    def _allocate(self, owners: dict[int, Tensor], frozen: dict[int, Tensor], like: Tensor) -> None:
        """Three vectors, of which blocks are parts."""
        architecture = self.architecture
        widths = {-1: architecture.host.shapes} | dict(enumerate(architecture.shapes))
        padded = {number: -(-numbers(shapes) // ALIGNED) * ALIGNED for number, shapes in widths.items()}
        self.sizes = [len(rows) * padded[number] for number, rows in owners.items()]
        self.flat = [like.new_zeros(sum(self.sizes)) for _ in range(3 if self.trains else 1)]
        self.split = self.sizes[0]  # where those of hosts end
        parts = [torch.split(flat, self.sizes) for flat in self.flat]
        parts = parts if self.trains else parts * 3
        self.blocks = {}
        for place, (number, rows) in enumerate(owners.items()):
            parameters, momenta, gradients = (part[place].view(len(rows), padded[number]) for part in parts)
            norm = like.new_zeros(len(rows))
            self.blocks[number] = _Block(rows, frozen.get(number), parameters, momenta, gradients, norm)

    def _grouped(self, alpha: Tensor, ste: Tensor) -> list[_Group]:
        architecture = self.architecture
        tail = (1,) * (2 + architecture.host.dims)
        of_slots: dict[int, list[Tensor]] = {}
        for slot, _, hosts in self.listed:
            of_slots.setdefault(slot, []).append(hosts)
        for slot, parts in of_slots.items():
            members = torch.cat(parts)
            self.slots[slot] = _Slot(members, 1 - alpha[slot, members].view(-1, *tail))
        groups = []
        filled = dict.fromkeys(self.blocks, 0)
        for slot, number, hosts in self.listed:
            block, shapes = self.blocks[number], architecture.shapes[number]
            rows = slice(filled[number], filled[number] + len(hosts))
            filled[number] = rows.stop
            share, unshared = (part[slot, hosts].view(-1, *tail) for part in (alpha, ste))
            hidden = unshared if bool(unshared.any()) else None
            opened = None if architecture.isolated or not self.trains or bool(unshared.all()) else (~unshared).to(share)
            leaves = {name: part.detach() for name, part in named(block.parameters[rows], shapes).items()}
            at = self.slots[slot].groups
            begin = at[-1].rows.stop if at else 0
            place = slice(begin, begin + len(hosts))
            gradients = block.gradients[rows, : numbers(shapes)]
            group = _Group(
                number,
                place,
                leaves,
                gradients,
                block.norm[rows],
                hosts,
                share,
                share + unshared.to(share),
                hidden,
                opened,
            )
            at.append(group)
            groups.append(group)
        if self.trains:
            for group in groups:
                for leaf in group.leaves.values():
                    leaf.requires_grad_()
        return groups

    def _places(self, part: str) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Slot, hosts and rows ``[seeds, parameters]`` of each group."""
        filled = dict.fromkeys(self.blocks, 0)
        for slot, number, hosts in self.listed:
            rows = slice(filled[number], filled[number] + len(hosts))
            filled[number] = rows.stop
            yield slot, hosts, getattr(self.blocks[number], part)[rows, : numbers(self.architecture.shapes[number])]

    def _gather(self, host: Tensor, seeds: Tensor, part: str) -> None:
        getattr(self.blocks[-1], part)[:, : len(host)] = host.t()
        for slot, hosts, rows in self._places(part):
            rows.copy_(seeds[slot, : rows.shape[1], hosts].t())

    def scatter(self, host: Tensor, seeds: Tensor, part: str) -> None:
        """Write "parameters" or "momenta" back."""
        host.copy_(getattr(self.blocks[-1], part)[:, : len(host)].t())
        for slot, hosts, rows in self._places(part):
            seeds[slot, : rows.shape[1], hosts] = rows.t()

    # -- computing ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits(self, x: Tensor, trace: list[tuple[Tensor, Tensor, list[_Grown]]] | None = None) -> Tensor:
        """``[hosts, classes, rows]``, of samples ``[hosts, rows, *shape]``.

        Args:
            x: samples.
            trace: for each layer what it was given, what it made, and what its slots made of that, is added here.
        """
        host = self.architecture.host
        h = x.transpose(1, 2)
        for number, slots in enumerate(self.architecture.layers):
            made = host.layer(number, h, self.parameters)
            grown = [self._grow(made, self.slots[slot]) for slot in slots if slot in self.slots]
            if trace is not None:
                trace.append((h, made, grown))
            h = made
        if trace is not None:
            trace.append((h, h, []))
        return host.head(h, self.parameters)

    def _grow(self, h: Tensor, slot: _Slot) -> _Grown:
        """What a slot's seeds make of ``h``, in its place."""
        chosen = h.index_select(0, slot.hosts)
        blended = torch.empty_like(chosen)
        grown = _Grown(slot, chosen, [], [])
        for group in slot.groups:
            blueprint = self.architecture.blueprints[group.number]
            given = chosen[group.rows].detach()
            with torch.set_grad_enabled(self.trains):
                if group.opened is not None:
                    given.requires_grad_()
                made = blueprint.apply(given, **group.leaves)
            place = blended[group.rows]
            torch.lerp(given.detach(), made.detach(), group.alpha, out=place)
            if group.hidden is not None:  # 0 times what is no number is none
                torch.where(group.hidden, given.detach(), place, out=place)
            grown.given.append(given)
            grown.made.append(made)
        h.index_copy_(0, slot.hosts, blended)
        return grown

    def _grown_backward(self, h: Tensor, gradient: Tensor, grown: _Grown) -> None:
        """The gradient before a slot, in place of the one after; seeds' gradients go into their blocks, and ``h`` is
        again what it was before.
        """
        slot = grown.slot
        gradients = gradient.index_select(0, slot.hosts)
        inputs = [
            *(given for given in grown.given if given.requires_grad),
            *(leaf for group in slot.groups for leaf in group.leaves.values()),
        ]
        outputs = [
            (made, gradients[group.rows] * group.part)
            for made, group in zip(grown.made, slot.groups)
            if made.requires_grad
        ]
        found = iter(_grad(outputs, inputs))
        gradients.mul_(slot.left)
        for group in slot.groups:
            if group.opened is not None:
                gradients[group.rows].addcmul_(next(found), group.opened)
        for group in slot.groups:
            if group.leaves:
                torch.cat([next(found).flatten(1) for _ in group.leaves], 1, out=group.gradients)
        gradient.index_copy_(0, slot.hosts, gradients)
        h.index_copy_(0, slot.hosts, grown.chosen)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, rates: Rates) -> None:
        """One step of every host.

        Args:
            x: samples ``[hosts, rows, *shape]``.
            y: classes int64 ``[hosts, rows]``.
            rates: how.
        """
        host = self.architecture.host
        trace: list[tuple[Tensor, Tensor, list[_Grown]]] = []
        scores = self.logits(x, trace).log_softmax(1)
        target = y.unsqueeze(1)
        loss = -scores.gather(1, target).mean((1, 2))
        gradient = scores.exp_().scatter_add_(1, target, scores.new_full((), -1).expand(target.shape))
        gradient.div_(y.shape[1])
        gradient = host.head_backward(trace.pop()[0], gradient, self.parameters, self.gradients)
        while trace:
            h, made, grown = trace.pop()
            for slot in reversed(grown):
                self._grown_backward(made, gradient, slot)
            onward = host.layer_backward(len(trace), h, made, gradient, self.parameters, self.gradients)
            gradient = gradient if onward is None else onward
        self._update(loss, rates)

    def _update(self, loss: Tensor, rates: Rates) -> None:
        hosts = self.blocks[-1]
        squares = loss.new_zeros(self.count)
        for block in self.blocks.values():
            if block.frozen is not None:
                block.gradients.masked_fill_(block.frozen.unsqueeze(1), 0)
            norm = torch.linalg.vector_norm(block.gradients, dim=1)
            block.norm.add_(norm)
            squares.index_add_(0, block.owners, norm.square_())
        norm = squares.sqrt_()
        self.loss.add_(loss)
        self.norm.add_(norm)
        lost = (loss + norm).isfinite().logical_not_()
        self.diverged.logical_or_(lost)
        parameters, momenta, _ = self.flat
        before: list[Sequence[Tensor]]  # parameters and momenta of each block in which something may stay as it is
        if lost.is_cuda or bool(lost.any()):
            before = list(zip(*(torch.split(part.clone(), self.sizes) for part in (parameters, momenta))))
        else:
            blocks = self.blocks.values()
            before = [() if b.frozen is None else (b.parameters.clone(), b.momenta.clone()) for b in blocks]
        scale = (rates.clip / (norm + EPSILON)).clamp_(max=1).unsqueeze(1)
        momenta.mul_(rates.momentum)
        for block in self.blocks.values():
            block.momenta.addcmul_(block.gradients, scale[block.owners])
        if rates.weight_decay:
            hosts.momenta.add_(hosts.parameters, alpha=rates.weight_decay)
        for part, lr in ((slice(self.split), rates.lr), (slice(self.split, None), rates.seed_lr)):
            parameters[part].add_(momenta[part], alpha=-lr)
        for block, olds in zip(self.blocks.values(), before):
            if not olds:
                continue
            which = lost[block.owners]
            which = (which if block.frozen is None else which | block.frozen).unsqueeze(1)
            for now, old in zip((block.parameters, block.momenta), olds):
                now.copy_(torch.where(which, old.view(now.shape), now))


def _grad(outputs: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients of inputs; 0 for one that nothing was made of."""
    if not (outputs and inputs):
        return [torch.zeros_like(part) for part in inputs]
    made, gradients = zip(*outputs)
    return torch.autograd.grad(made, inputs, gradients, allow_unused=True, materialize_grads=True)


def numbers(shapes: Shapes) -> int:
    """Parameters of one host or seed."""
    return sum(map(math.prod, shapes.values()))


def named(rows: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """Parameters ``[batch, *shape]`` in their rows ``[batch, parameters or more]``."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = torch.split(rows, [*sizes, rows.shape[1] - sum(sizes)], 1)
    return {name: part.view(len(rows), *shape) for part, (name, shape) in zip(parts, shapes.items())}


def listed(blueprint: Tensor, kinds: int) -> Iterator[tuple[int, int, Tensor]]:
    """Slot, number and hosts int64 of each blueprint's seeds in each slot, in this order; of ``[slots, batch]``."""
    slots, batch = blueprint.shape
    of_slots = torch.arange(slots, device=blueprint.device).unsqueeze(1) * kinds
    codes = torch.where(blueprint < 0, slots * kinds, of_slots + blueprint).flatten()
    order = codes.argsort(stable=True) % batch
    counts = codes.bincount(minlength=slots * kinds + 1).tolist()
    for code, hosts in enumerate(torch.split(order, counts)[:-1]):
        if len(hosts):
            yield code // kinds, code % kinds, hosts
