"""The dynamics of real networks: seeds grow in hosts that are trained, and count by what they spare at the end."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from esper_masks.decision.step import Mode
from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.choices import is_any
from esper_masks.rollout.env.dynamics import BLUEPRINT, Dynamics, Outcome, begun_in, whole_actions
from esper_masks.rollout.networks.hosts import CNNHost, Host, MLPHost
from esper_masks.rollout.networks.lifecycles import States, lifecycle_of
from esper_masks.rollout.networks.memory import check_memory
from esper_masks.rollout.networks.population import Networks, Population
from esper_masks.rollout.networks.samples import (
    EPOCHS,
    POOLS,
    ROUND,
    ROUNDS,
    Pool,
    Samples,
    births_of,
    keys_of,
    numbers_of,
    rounds_of,
)
from esper_masks.rollout.networks.tasks import VERSION, Split, Task, find_tasks
from esper_masks.rollout.networks.twins import Twins, bounded
from esper_masks.rules.fields import FrozenMapping
from esper_masks.rules.names import OP, SLOT

HostKind = Literal["mlp", "cnn"]

# what the blueprints of the rules are here, in MLP hosts and in CNN hosts
EVERYWHERE = {
    "NORM": "norm",
    "ATTENTION": "gate",
    "FLEX_ATTENTION": "gate",
    "DEPTHWISE": "low_rank",
    "LORA": "low_rank",
}
EVERYWHERE |= {"LORA_LARGE": "half_rank", "CONV_SMALL": "small", "MLP_SMALL": "light", "MLP": "heavy"}
NAMES: Mapping[str, Mapping[str, str]] = {
    "mlp": FrozenMapping({**EVERYWHERE, "CONV_LIGHT": "light", "BOTTLENECK": "narrow", "CONV_HEAVY": "heavy"}),
    "cnn": FrozenMapping({**EVERYWHERE, "CONV_LIGHT": "conv", "BOTTLENECK": "conv_narrow", "CONV_HEAVY": "conv_wide"}),
}
RENT = 0.01, 0.04  # nats that a seed costs at the end, and that the parameters of a light one do
FLOATS = {"goal", "alpha", "velocity", "start", "target", "loss_at_birth", "seed_norm"}  # of the fields of slots
PLATEAU = 0.01  # nats a loss falls by in an epoch, of the host that the heuristic calls for a seed in


class NetworkDynamics(Dynamics):
    """Real networks that are trained, and seeds that grow in them: ``docs/networks.md`` describes it.

    A step is an epoch of all hosts:

        1. the op; an illegal action is WAIT. Under ``esper-2026-06`` the tick, too: ramps go on, slots cool down
        2. germination makes a seed, and what is culled is cleared; some training steps of hosts and seeds
        3. the loss on validation; in the last epoch of the kept seeds alone
        4. under other rules stages are left by themselves after their epochs, ``dwells``

        potential  loss of the twin, to which nothing was done, less that of the network, less the rent of kept seeds
        reward     change of the potential, so that the return of an episode is the score on validation

    A seed has no share in TRAINING, where it is taught behind the layer's back; in BLENDING its share rises by equal
    steps, or under ``esper-2026-06`` by the schedules of its ramps, and then it is the whole. Initial weights and
    samples are functions of pool, round, number of the host and epoch alone: an action shifts nobody's data. The task
    of a host is its number modulo the tasks; nothing observed says it.

    >>> import esper_masks as em, torch
    >>> from functools import partial
    >>> task = em.rollout.Task("dots", torch.randn(90, 4), torch.arange(90) % 3, (60, 15, 15))
    >>> dots = partial(em.rollout.NetworkDynamics, task=task, width=4, episode_length=3)
    >>> env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 8, dynamics=dots)
    >>> obs, reward, *_ = env.step(torch.zeros(8, 4, dtype=torch.int64))  # WAIT
    >>> reward.abs().sum()  # a host without seeds is its twin
    tensor(0.)

    Args:
        engine: of the rules ``esper-2026-06``, ``esper-2025-12``, ``esper-2025-11``, or of others with an entry in
            ``MECHANICS``.
        task: a name in ``TASKS``, a ``Task`` or some of them with inputs and splits of one size.
        pool: ``"train"``, or ``"test"`` for hosts that no training has seen.
        host: ``"mlp"``, ``"cnn"``, or a host of one's own; by default as the inputs are, the second where they have
            channels and space.
        width: of the layers of an MLP host, channels of a CNN host.
        depth: layers.
        isolated: see ``Population``.
        first: number of the first host.
        rounds: how many beginnings each host has, one episode after another; then they come again.
        episode_length: epochs of an episode; by default 20, under ``esper-2026-06`` 30.
        steps: training steps of an epoch.
        rows: samples of a step.
        lr: learning rate of hosts and seeds.
        momentum: of both.
        clip: the largest norm of a host's gradient.
        names: blueprints of the rules -> names in ``BLUEPRINTS``.
        dwells: stage -> epochs after which it is left by itself, 1 where it is not named; by default ``DWELLS``. There
            are none under ``esper-2026-06``.
        automatic: under ``esper-2026-06`` the gates that open by themselves; see ``ScheduledDynamics``.

    Raises:
        RulesError: rules without mechanics or without blueprints, or in which an op does more than to move its slot.
        ValueError: an argument out of range, or one that does not fit the task.
        ImportError: the task needs a package that is not installed.
    """

    modes = ("eager",)
    uniforms = 0

    def __init__(
        self,
        engine: MaskEngine,
        *,
        task: str | Task | Sequence[Task] = "mixture",
        pool: Pool = "train",
        host: HostKind | Host | None = None,
        width: int = 8,
        depth: int = 3,
        isolated: bool | None = None,
        first: int = 0,
        rounds: int = 8,
        episode_length: int | None = None,
        steps: int = 10,
        rows: int = 32,
        lr: float = 0.05,
        momentum: float = 0.9,
        clip: float = 1.0,
        names: Mapping[str, str] | None = None,
        dwells: Mapping[str, int] | None = None,
        automatic: Sequence[str] = (),
    ):
        super().__init__(engine)
        self.lifecycle = lifecycle_of(engine, dwells, automatic)
        episode_length = self.lifecycle.epochs if episode_length is None else episode_length
        for name, value, least, most in (
            ("first", first, 0, (1 << ROUND) - 1),
            ("rounds", rounds, 1, ROUNDS),
            ("episode_length", episode_length, 1, EPOCHS),
            ("steps", steps, 1, 1 << 20),
            ("rows", rows, 1, 1 << 20),
        ):
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} must be an int of {least} to {most}, got {value!r:.80}")
        if pool not in POOLS:
            raise ValueError(f"pool={pool!r} is not one of {POOLS}")
        tasks = find_tasks(task)
        host = _host(host, tasks, width, depth)
        kind = "mlp" if isinstance(host, MLPHost) else "cnn"

        head = engine.layout.head(BLUEPRINT)
        self.blueprints = self.lifecycle.blueprints
        names = NAMES[kind] if names is None else names
        if lacking := [head.choices[each] for each in self.blueprints if head.choices[each] not in names]:
            raise ValueError(f"names does not say what the blueprint {', '.join(lacking)} is in these hosts")
        seeds = [names[head.choices[each]] for each in self.blueprints]
        kinds = tuple(dict.fromkeys(seeds))  # two blueprints may be one thing here
        self.slots, self.device = len(engine.slot_ids), engine.device
        self.population = Population(
            host, self.slots, kinds, isolated=isolated, lr=lr, momentum=momentum, clip=clip, device=self.device
        )
        self.task, self.names = task, names
        self.samples = Samples(tasks, torch.float32, self.device)
        self.twins = Twins(self.population, self.samples, episode_length, steps, rows)
        self.pool, self.first, self.rounds, self.episode_length = pool, first, rounds, episode_length
        self.steps, self.rows = steps, rows
        light = _light(host)
        sizes = self.population.seed_parameters
        # by the blueprint's number in the rules; the last one, of -1, is no seed
        number, rent = [-1] * (len(head.choices) + 1), [0.0] * (len(head.choices) + 1)
        for choice, seed in zip(self.blueprints, seeds):
            number[choice] = kinds.index(seed)
            rent[choice] = RENT[0] + RENT[1] * sizes[number[choice]] / light
        self.register_buffer("number", torch.tensor(number, dtype=torch.int32, device=self.device), persistent=False)
        self.register_buffer("rent", torch.tensor(rent, device=self.device), persistent=False)
        of_slot = [*self.lifecycle.seen, "improvement", "gradient"]
        whole = ["training loss", "fall in training", "validation loss", "fall on validation", "accuracy", "gradient"]
        whole += ["epoch", "seeds"]
        self.obs_names = (*[f"{slot}: {name}" for name in of_slot for slot in engine.slot_ids], *whole)
        told = (task, VERSION) if isinstance(task, str) else tuple(each.fingerprint for each in tasks)
        facts = host, tuple(seeds), self.population.isolated, lr, momentum, clip, steps, rows, self.lifecycle.facts
        self.fingerprint = self.digest(told, pool, rounds, episode_length, RENT, *facts)

    number: Tensor  # int32 [choices + 1]
    rent: Tensor  # float32 [choices + 1]: nats

    def of_pool(self, pool: Pool, rounds: int = 1) -> Callable[[MaskEngine], "NetworkDynamics"]:
        """The same dynamics for hosts of a pool, from the first on, as ``LifecycleEnv`` takes them."""
        population = self.population
        return partial(
            type(self),
            task=self.task,
            pool=pool,
            host=population.host,
            isolated=population.isolated,
            rounds=rounds,
            episode_length=self.episode_length,
            steps=self.steps,
            rows=self.rows,
            lr=population.lr,
            momentum=population.momentum,
            clip=population.clip,
            names=self.names,
            **self.lifecycle.arguments,
        )

    def check(self, mode: Mode) -> None:
        """Nothing: no function of a caller is in it."""

    # -- a step -------------------------------------------------------------------------------------------------------

    def fresh(self, batch: int) -> States:
        """Hosts ``first`` to ``first + batch - 1`` in their first round, all slots empty.

        Raises:
            ValueError: memory does not suffice for so many, and for how many it does.
        """
        check_memory(self.population, batch, self.bytes_beside)
        numbers = torch.arange(self.first, self.first + batch, device=self.device)
        return self._begun(keys_of(self.pool, numbers))

    def reset(self, state: States, where: Tensor) -> States:
        """See ``Dynamics``. A host that has begun goes on to its next round."""
        if not bool(where.any()):
            return state
        rounds = (rounds_of(state.key) + (state.epoch > 0).long()) % self.rounds
        made: States = begun_in(state, where, self._begun(keys_of(self.pool, numbers_of(state.key), rounds)))
        return made

    def advance(self, state: States, actions: Tensor, noise: Tensor) -> tuple[States, Outcome]:
        """An epoch; there is no noise in it that a key does not decide."""
        old, ends = state, state.epoch + 1 >= self.episode_length
        heads, legal, acted = self._read(old, actions)
        born, held, kept, taught, frozen, fields = self.lifecycle.lived(old, heads, acted)
        blueprint, alpha = fields["blueprint"], fields["alpha"]
        was_held = ~is_any(old.states[..., 0].movedim(-1, 0), self.lifecycle.without_seed)

        number = torch.where(held, self.number[blueprint.long()], -1)
        networks = self.population.clear(old.networks, ~held & was_held)
        networks = self.population.germinate(networks, born, number, births_of(old.key, old.epoch))
        drawn = self.samples.drawn(old.key, old.epoch, self.steps, self.rows)
        trained = torch.where(taught | (alpha > 0), number, -1)
        networks, told = self.population.train(networks, trained, alpha, taught, drawn, self.steps, frozen)
        at_last = torch.where(ends & ~kept, 0, alpha)
        loss, accuracy = self.measure(networks, number, at_last, old.key, "validation")
        training, twin = bounded(told.loss), self.twins.losses(old.key, old.epoch + 1)
        potential = twin - loss - self._rent(blueprint, kept)
        made = self.lifecycle.kind(
            **fields,
            epoch=old.epoch,
            returns=old.returns,
            key=old.key,
            loss_at_birth=torch.where(held, torch.where(born, old.loss[0], old.loss_at_birth), 0),
            seed_norm=_finite(told.seed_grad_norm),
            norm=_finite(told.grad_norm),
            training_loss=torch.stack([training, torch.where(old.epoch > 0, old.training_loss[0], training)]),
            loss=torch.stack([loss, old.loss[0]]),
            accuracy=accuracy,
            potential=potential,
            diverged=old.diverged + told.diverged.int(),
            **networks._asdict(),
        )
        return made, Outcome(potential - old.potential, ends, ~legal)

    def observe(self, state: States) -> Tensor:
        """The observation of a state; ``obs_names`` has the order.

        For each slot, feature by feature: stage and blueprint one-hot; age and epochs in the stage, over the length of
        an episode; alpha; by how many nats the loss on validation has fallen since the seed germinated; ln(1 + norm) of
        its gradient. Then for the network: the loss in training, in nats, and what it fell by in the epoch; the same on
        validation; the accuracy; ln(1 + norm) of the gradient; the part of the episode that is over; and seeds over
        their limit, or over the length of an episode. Under ``esper-2026-06`` features of a slot up to alpha are those
        that ``ScheduledDynamics`` has of stages and ramps, and seeds are over the slots where they have no limit.

        Returns: float32 ``[batch, obs_size]``, in memory ``[obs_size, batch]``.
        """
        stage, length = state.states[..., 0].movedim(-1, 0), self.episode_length
        held = ~is_any(stage, self.lifecycle.without_seed)
        rows = self.lifecycle.rows(state, length)
        rows += [torch.where(held, state.loss_at_birth - state.loss[0], 0), state.seed_norm.log1p()]
        seeds = state.total_seeds.float() / (self.engine.max_seeds or self.lifecycle.most(self.slots, length))
        (trained, trained_before), (loss, loss_before) = state.training_loss, state.loss
        whole = [trained, trained_before - trained, loss, loss_before - loss, state.accuracy, state.norm.log1p()]
        whole += [state.epoch.float() / length, seeds]
        return torch.cat([torch.stack(rows).flatten(0, 1), torch.stack(whole)]).movedim(0, -1)

    # -- what networks are worth --------------------------------------------------------------------------------------

    def measure(
        self, networks: Networks, number: Tensor, alpha: Tensor, keys: Tensor, split: Split
    ) -> tuple[Tensor, Tensor]:
        """Losses, in nats and at most ``LOSS_LIMIT``, and accuracies on a split, float32 ``[batch]`` both.

        Args:
            networks: all of them.
            number: int32 ``[slots, batch]``, of the population's blueprints; -1 without a seed.
            alpha: float32 ``[slots, batch]``.
            keys: int64 ``[batch]``.
            split: of each host's task.
        """
        loss, accuracy = self.population.evaluate(networks, number, alpha, self.samples.whole(keys, split))
        return bounded(loss), accuracy

    def kept_alone(self, state: States) -> tuple[Tensor, Tensor]:
        """Numbers of the seeds and their alphas with which a network is judged at the end, ``[slots, batch]`` both."""
        kept = state.states[..., 0].movedim(-1, 0) == self.lifecycle.kept
        return torch.where(kept, self.number[state.blueprint.long()], -1), kept.float()

    def score(self, state: States, split: Split) -> Tensor:
        """The score of a state with which an episode ended: loss of the twin less that of the network, less rent.

        Returns: nats, float32 ``[batch]``.
        """
        number, alpha = self.kept_alone(state)
        loss, _ = self.measure(state.networks, number, alpha, state.key, split)
        return self.twins.final(state.key, split)[0] - loss - self._rent(state.blueprint, alpha > 0)

    def _rent(self, blueprint: Tensor, kept: Tensor) -> Tensor:
        return torch.where(kept, self.rent[blueprint.long()], 0).sum(0)

    def heuristic(self, state: States) -> Tensor:
        """What the original's own heuristic does: seeds when the loss no longer falls, judged by the loss without them.

        The first seed that waits for a decision is kept if the loss on validation would be higher with its alpha 0, and
        culled otherwise; else, under ``esper-2026-06``, the first for which it is time is advanced. A network without a
        live seed, whose loss fell by less than ``PLATEAU``, gets one in its first empty slot, of each blueprint in
        turn, or under ``esper-2026-06`` of one that the epoch decides.
        """
        lifecycle, stage = self.lifecycle, state.states[..., 0].movedim(-1, 0)
        waits, onward = lifecycle.judged(state), lifecycle.onward(state)
        fill, keep, cull = (lifecycle.op(what) for what in ("fill", "keep", "cull"))
        judged, at = waits.any(0), waits.int().argmax(0)
        good = torch.zeros_like(judged)
        if bool(judged.any()):
            slots = torch.arange(self.slots, device=self.device).unsqueeze(-1)
            number = torch.where(state.alpha > 0, self.number[state.blueprint.long()], -1)
            without = torch.where(slots == at, 0, state.alpha)
            loss, _ = self.measure(state.networks, number, without, state.key, "validation")
            good = loss > state.loss[0]
        advances = ~judged & (onward >= 0).any(0)
        at = torch.where(judged, at, (onward >= 0).int().argmax(0))
        empty = stage == lifecycle.empty
        legal = self.masks(state).slot_by_op[..., fill, :].movedim(-1, 0)
        flat = state.loss[1] - state.loss[0] < PLATEAU
        alone = (empty | (stage == lifecycle.kept)).all(0)
        filled = ~judged & flat & alone & (empty & legal).any(0) & (state.epoch > 0)
        turn = torch.tensor(self.blueprints, device=self.device)[lifecycle.turn(state) % len(self.blueprints)]
        op = torch.where(advances, onward.gather(0, at.unsqueeze(0)).squeeze(0), self.wait)
        op = torch.where(judged, torch.where(good, keep, cull), torch.where(filled, fill, op))
        slot = torch.where(judged | advances, at, torch.where(filled, (empty & legal).int().argmax(0), 0))
        blueprint = torch.where(filled, turn, self.engine.layout.head(BLUEPRINT).canonical)
        return whole_actions(self.engine.layout, {OP: op, SLOT: slot, BLUEPRINT: blueprint})

    @property
    def bytes_beside(self) -> int:
        """Of memory, as estimated, that a host takes beside the population: the next state, twins, what is drawn."""
        twin = 8 * (self.episode_length + 1) + 4 * self.population.host_parameters
        drawn = 24 * self.steps * self.rows
        return self.population.bytes_per_host() + self.rounds * twin + drawn

    # -- parts --------------------------------------------------------------------------------------------------------

    def _begun(self, keys: Tensor) -> States:
        batch, device = len(keys), self.device

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        networks, slots = self.population.fresh(keys), self.slots
        none = torch.full((slots, batch), -1, dtype=torch.int32, device=device)
        loss, accuracy = self.measure(networks, none, zeros(slots, batch), keys, "validation")
        own = {
            "states": self.engine.empty_slots(batch),
            "total_seeds": zeros(batch, dtype=torch.int32),
            "epoch": zeros(batch, dtype=torch.int32),
            "returns": zeros(batch),
            "key": keys,
            "norm": zeros(batch),
            "training_loss": loss.expand(2, -1).clone(),
            "loss": loss.expand(2, -1).clone(),
            "accuracy": accuracy,
            "potential": zeros(batch),
            "diverged": zeros(batch, dtype=torch.int32),
            **networks._asdict(),
        }
        of_slots = {
            name: zeros(slots, batch, dtype=torch.float32 if name in FLOATS else torch.int32)
            for name in self.lifecycle.kind._fields
            if name not in own
        }
        return self.lifecycle.kind(**own, **of_slots)


def _host(host: Any, tasks: Sequence[Task], width: int, depth: int) -> Host:
    """The host of a kind for some tasks.

    Raises:
        ValueError: a host that does not fit them.
    """
    shape, classes = tasks[0].shape, max(task.classes for task in tasks)
    host = ("mlp" if len(shape) == 1 else "cnn") if host is None else host
    if host == "mlp" and len(shape) == 1:
        host = MLPHost(*shape, width, depth, classes)
    elif host == "cnn" and len(shape) > 1:
        host = CNNHost(shape, width, depth, classes)
    if isinstance(host, MLPHost | CNNHost) and host.shape == shape and host.classes >= classes:
        return host
    wanted = "inputs [samples, numbers]" if host == "mlp" else "inputs [samples, channels, *space]"
    if host in get_args(HostKind):
        raise ValueError(f"host={host!r} is for {wanted}, and those of {tasks[0].name!r} are [samples, *{shape}]")
    raise ValueError(
        f"host must be one of {get_args(HostKind)}, or one for inputs {shape} and {classes} classes, got {host!r:.200}"
    )


def _light(host: Host) -> int:
    """Parameters of the seed in units of which rent is paid: the light one, in CNN hosts the convolution."""
    return Population(host, 1, ["light" if isinstance(host, MLPHost) else "conv"]).seed_parameters[0]


def _finite(norm: Tensor) -> Tensor:
    """Norms of gradients as they are told: those of a host that has diverged are 0."""
    return norm.nan_to_num(0, 0)
