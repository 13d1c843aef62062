"""The dynamics of real networks: seeds grow in hosts that are trained, and count by what they spare at the end."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from esper_masks.decision.step import Mode
from esper_masks.errors import RulesError
from esper_masks.masks.engine import MaskEngine
from esper_masks.rollout.env.calibrated import BLUEPRINT, is_any
from esper_masks.rollout.env.dynamics import Dynamics, Outcome, whole_actions
from esper_masks.rollout.env.mechanics import mechanics_of
from esper_masks.rollout.networks.hosts import CNNHost, Host, MLPHost
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
NAMES: Mapping[str, Mapping[str, str]] = {
    "mlp": FrozenMapping({"NORM": "norm", "ATTENTION": "gate", "DEPTHWISE": "low_rank", "CONV_LIGHT": "light"}),
    "cnn": FrozenMapping({"NORM": "norm", "ATTENTION": "gate", "DEPTHWISE": "low_rank", "CONV_LIGHT": "conv"}),
}
DWELLS = FrozenMapping({"GERMINATED": 1, "TRAINING": 2, "BLENDING": 3})  # epochs; of stages that are not here 1
RENT = 0.01, 0.04  # nats that a seed costs at the end, and that the parameters of a light one do
PLATEAU = 0.01  # nats a loss falls by in an epoch, of the host that the heuristic calls for a seed in


class NetworkState(NamedTuple):
    """The state of hosts and their seeds. What a slot has no seed for is 0."""

    states: Tensor  # int32 [batch, slots, features]: the engine's
    total_seeds: Tensor  # int32 [batch]: seeds that germinated in the episode
    epoch: Tensor  # int32 [batch]
    returns: Tensor  # float32 [batch]
    key: Tensor  # int64 [batch]: pool, round and number; see ``keys_of``
    elapsed: Tensor  # int32 [slots, batch]: epochs in the stage
    blueprint: Tensor  # int32 [slots, batch]
    alpha: Tensor  # float32 [slots, batch]: the share of the seed in its layer
    loss_at_birth: Tensor  # float32 [slots, batch]: loss on validation when it germinated
    seed_norm: Tensor  # float32 [slots, batch]: of its gradient, a mean over the epoch
    norm: Tensor  # float32 [batch]: of the gradient of the host
    training_loss: Tensor  # float32 [2, batch]: loss in training, in this epoch and in the one before
    loss: Tensor  # float32 [2, batch]: loss on validation, after this epoch and after the one before
    accuracy: Tensor  # float32 [batch]: on validation
    potential: Tensor  # float32 [batch]: what the network is ahead of its twin by, less rent; not observed
    diverged: Tensor  # int32 [batch]: epochs of the episode in which a step was not finite, and was not taken
    host: Tensor  # float32 [parameters, batch]: this and what follows are those of ``Networks``
    host_momentum: Tensor  # float32 [parameters, batch]
    seeds: Tensor  # float32 [slots, parameters, batch]
    seed_momentum: Tensor  # float32 [slots, parameters, batch]

    @property
    def networks(self) -> Networks:
        """What is trained."""
        return Networks(*[getattr(self, name) for name in Networks._fields])


class NetworkDynamics(Dynamics):
    """Real networks that are trained, and seeds that grow in them: ``docs/networks.md`` describes it.

    A step is an epoch of all hosts:

        1. the op; an illegal action is WAIT
        2. germination makes a seed, and what is culled is cleared; some training steps of hosts and seeds
        3. the loss on validation; in the last epoch of the kept seeds alone
        4. stages are left by themselves after their epochs, ``dwells``

        potential  loss of the twin, to which nothing was done, less that of the network, less the rent of kept seeds
        reward     change of the potential, so that the return of an episode is the score on validation

    A seed has no share in TRAINING, where it is taught behind the layer's back; in BLENDING its share rises by equal
    steps, and then it is the whole. Initial weights and samples are functions of pool, round, number of the host and
    epoch alone: an action shifts nobody's data. The task of a host is its number modulo the tasks; nothing observed
    says it.

    >>> import esper_masks as em, torch
    >>> from functools import partial
    >>> task = em.rollout.Task("dots", torch.randn(90, 4), torch.arange(90) % 3, (60, 15, 15))
    >>> dots = partial(em.rollout.NetworkDynamics, task=task, width=4, episode_length=3)
    >>> env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 8, dynamics=dots)
    >>> obs, reward, *_ = env.step(torch.zeros(8, 4, dtype=torch.int64))  # WAIT
    >>> reward.abs().sum()  # a host without seeds is its twin
    tensor(0.)

    Args:
        engine: of the rules ``esper-2025-12``, ``esper-2025-11``, or of others with an entry in ``MECHANICS``.
        task: a name in ``TASKS``, a ``Task`` or some of them with inputs and splits of one size.
        pool: ``"train"``, or ``"test"`` for hosts that no training has seen.
        host: ``"mlp"``, ``"cnn"``, or a host of one's own; by default as the inputs are, the second where they have
            channels and space.
        width: of the layers of an MLP host, channels of a CNN host.
        depth: layers.
        isolated: see ``Population``.
        first: number of the first host.
        rounds: how many beginnings each host has, one episode after another; then they come again.
        episode_length: epochs of an episode.
        steps: training steps of an epoch.
        rows: samples of a step.
        lr: learning rate of hosts and seeds.
        momentum: of both.
        clip: the largest norm of a host's gradient.
        names: blueprints of the rules -> names in ``BLUEPRINTS``.
        dwells: stage -> epochs after which it is left by itself; 1 where it is not named.

    Raises:
        RulesError: rules without mechanics or without blueprints.
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
        episode_length: int = 20,
        steps: int = 10,
        rows: int = 32,
        lr: float = 0.05,
        momentum: float = 0.9,
        clip: float = 1.0,
        names: Mapping[str, str] | None = None,
        dwells: Mapping[str, int] = DWELLS,
    ):
        super().__init__(engine)
        self._given = {name: value for name, value in locals().items() if name not in ("self", "engine", "__class__")}
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
        rules, layout = engine.rules, engine.layout
        mechanics = mechanics_of(rules)
        if BLUEPRINT not in layout.head_names:
            raise RulesError(f"{rules.name} has no head {BLUEPRINT!r}, by which seeds differ")
        tasks = find_tasks(task)
        host = _host(host, tasks, width, depth)
        kind = "mlp" if isinstance(host, MLPHost) else "cnn"

        # -- the lifecycle
        stage = {member.name: int(member) for member in rules.stages}
        if unknown := sorted(
            name for name, epochs in dwells.items() if name not in stage or type(epochs) is not int or epochs < 1
        ):
            raise ValueError(f"dwells must have stages of {rules.name} and epochs of at least 1, got {unknown}")
        self.empty, self.kept, self.blending = int(rules.empty), stage[mechanics.kept], stage[mechanics.blending]
        self.full = tuple(stage[name] for name in mechanics.full)
        self.without_seed = (self.empty, *(stage[name] for name in mechanics.cleared))
        self.advances = tuple(
            (stage[source], stage[target], dwells.get(source, 1)) for source, target in mechanics.advances.items()
        )
        # those in which a seed waits for a decision
        self.judged = tuple(each for each in self.full if each not in (self.kept, *(pair[0] for pair in self.advances)))
        self.ramp = dwells.get(mechanics.blending, 1)
        reached = {self.empty, self.kept, *(s for source, target, _ in self.advances for s in (source, target))}
        self.stages = tuple(sorted(reached | {int(to) for op in rules.op_rules for to in rules.edges(op.id).values()}))

        # -- the networks
        self.blueprint_at = layout.head_names.index(BLUEPRINT)
        head = layout.heads[self.blueprint_at]
        self.blueprints = tuple(sorted({c for at, row in enumerate(head.by_op) if head.users >> at & 1 for c in row}))
        names = NAMES[kind] if names is None else names
        if lacking := [head.choices[each] for each in self.blueprints if head.choices[each] not in names]:
            raise ValueError(f"names does not say what the blueprint {', '.join(lacking)} is in these hosts")
        seeds = [names[head.choices[each]] for each in self.blueprints]
        self.slots, self.device = len(engine.slot_ids), engine.device
        self.population = Population(
            host, self.slots, seeds, isolated=isolated, lr=lr, momentum=momentum, clip=clip, device=self.device
        )
        self.samples = Samples(tasks, torch.float32, self.device)
        self.twins = Twins(self.population, self.samples, episode_length, steps, rows)
        self.pool, self.first, self.rounds, self.episode_length = pool, first, rounds, episode_length
        self.steps, self.rows = steps, rows
        light = _light(host)
        sizes = self.population.seed_parameters
        # by the blueprint's number in the rules; the last one, of -1, is no seed
        number, rent = [-1] * (len(head.choices) + 1), [0.0] * (len(head.choices) + 1)
        for at, choice in enumerate(self.blueprints):
            number[choice], rent[choice] = at, RENT[0] + RENT[1] * sizes[at] / light
        self.register_buffer("number", torch.tensor(number, dtype=torch.int32, device=self.device), persistent=False)
        self.register_buffer("rent", torch.tensor(rent, device=self.device), persistent=False)
        of_slot = [f"stage {rules.stages(each).name}" for each in self.stages]
        of_slot += [f"blueprint {head.choices[each]}" for each in self.blueprints]
        of_slot += ["age", "epochs in stage", "alpha", "improvement", "gradient"]
        whole = ["training loss", "fall in training", "validation loss", "fall on validation", "accuracy", "gradient"]
        whole += ["epoch", "seeds"]
        self.obs_names = (*[f"{slot}: {name}" for name in of_slot for slot in engine.slot_ids], *whole)
        told = (task, VERSION) if isinstance(task, str) else tuple(each.fingerprint for each in tasks)
        facts = host, tuple(seeds), self.population.isolated, lr, momentum, clip, steps, rows, tuple(dwells.items())
        self.fingerprint = self.digest(told, pool, rounds, episode_length, RENT, *facts)

    number: Tensor  # int32 [choices + 1]
    rent: Tensor  # float32 [choices + 1]: nats

    def of_pool(self, pool: Pool, rounds: int = 1) -> Callable[[MaskEngine], "NetworkDynamics"]:
        """The same dynamics for hosts of a pool, from the first on, as ``LifecycleEnv`` takes them."""
        return partial(type(self), **{**self._given, "pool": pool, "rounds": rounds, "first": 0})

    def check(self, mode: Mode) -> None:
        """Nothing: no function of a caller is in it."""

    # -- a step -------------------------------------------------------------------------------------------------------

    def fresh(self, batch: int) -> NetworkState:
        """Hosts ``first`` to ``first + batch - 1`` in their first round, all slots empty.

        Raises:
            ValueError: memory does not suffice for so many, and for how many it does.
        """
        check_memory(self.population, batch, self.bytes_beside)
        numbers = torch.arange(self.first, self.first + batch, device=self.device)
        return self._begun(keys_of(self.pool, numbers))

    def reset(self, state: NetworkState, where: Tensor) -> NetworkState:
        """See ``Dynamics``. A host that has begun goes on to its next round."""
        if not bool(where.any()):
            return state
        rounds = (rounds_of(state.key) + (state.epoch > 0).long()) % self.rounds
        begun = self._begun(keys_of(self.pool, numbers_of(state.key), rounds))
        whole = [where.view(-1, 1, 1) if name == "states" else where for name in state._fields]
        return NetworkState(*[torch.where(*parts) for parts in zip(whole, begun, state)])

    def advance(self, state: NetworkState, actions: Tensor, noise: Tensor) -> tuple[NetworkState, Outcome]:
        """An epoch; there is no noise in it that a key does not decide."""
        old, limit, ends = state, self.engine.max_seeds, state.epoch + 1 >= self.episode_length
        totals = old.total_seeds if limit > 0 else None
        moved, legal = self.engine.successors(old.states, actions, totals, max_seeds=limit, **self.given(old))
        was = old.states[..., 0].movedim(-1, 0)
        stage, age = (moved[..., column].movedim(-1, 0) for column in (0, 1))  # [slots, batch]
        born = (was == self.empty) & (stage != self.empty)
        chosen = actions[:, self.blueprint_at].clamp(-1, len(self.number) - 2).int()
        blueprint = torch.where(born, chosen, old.blueprint)
        elapsed = torch.where(stage != was, 0, old.elapsed) + 1
        held, kept = ~is_any(stage, self.without_seed), stage == self.kept
        share = torch.where(stage == self.blending, elapsed.float() / self.ramp, is_any(stage, self.full).float())
        alpha = torch.where(held, share.clamp_max(1), 0)

        number = torch.where(held, self.number[blueprint.long()], -1)
        networks = self.population.clear(old.networks, ~held & ~is_any(was, self.without_seed))
        networks = self.population.germinate(networks, born, number, births_of(old.key, old.epoch))
        drawn = self.samples.drawn(old.key, old.epoch, self.steps, self.rows)
        networks, told = self.population.train(networks, number, alpha, held & (alpha == 0), drawn, self.steps)
        at_last = torch.where(ends & ~kept, 0, alpha)
        loss, accuracy = self.measure(networks, number, at_last, old.key, "validation")
        trained, twin = bounded(told.loss), self.twins.losses(old.key, old.epoch + 1)
        potential = twin - loss - self._rent(blueprint, kept)

        following = stage
        for source, target, epochs in self.advances:
            following = torch.where((stage == source) & (elapsed >= epochs), target, following)
        empty = following == self.empty
        elapsed = torch.where(empty | (following != stage), 0, elapsed)
        age = torch.where(empty, 0, age + 1)
        made = NetworkState(
            states=torch.stack([following, age, *moved.movedim(-1, 0)[2:].mT]).permute(2, 1, 0),
            total_seeds=old.total_seeds + born.sum(0, dtype=torch.int32),
            epoch=old.epoch,
            returns=old.returns,
            key=old.key,
            elapsed=elapsed,
            blueprint=torch.where(held, blueprint, 0),
            alpha=alpha,
            loss_at_birth=torch.where(held, torch.where(born, old.loss[0], old.loss_at_birth), 0),
            seed_norm=_finite(told.seed_grad_norm),
            norm=_finite(told.grad_norm),
            training_loss=torch.stack([trained, torch.where(old.epoch > 0, old.training_loss[0], trained)]),
            loss=torch.stack([loss, old.loss[0]]),
            accuracy=accuracy,
            potential=potential,
            diverged=old.diverged + told.diverged.int(),
            **networks._asdict(),
        )
        return made, Outcome(potential - old.potential, ends, ~legal)

    def observe(self, state: NetworkState) -> Tensor:
        """The observation of a state; ``obs_names`` has the order.

        For each slot, feature by feature: stage and blueprint one-hot; age and epochs in the stage, over the length of
        an episode; alpha; by how many nats the loss on validation has fallen since the seed germinated; ln(1 + norm) of
        its gradient. Then for the network: the loss in training, in nats, and what it fell by in the epoch; the same on
        validation; the accuracy; ln(1 + norm) of the gradient; the part of the episode that is over; and seeds over
        their limit, or over the length of an episode.

        Returns: float32 ``[batch, obs_size]``, in memory ``[obs_size, batch]``.
        """
        stage, age = (state.states[..., column].movedim(-1, 0) for column in (0, 1))
        held, length = ~is_any(stage, self.without_seed), self.episode_length
        rows = [(stage == each).float() for each in self.stages]
        rows += [((state.blueprint == each) & held).float() for each in self.blueprints]
        rows += [age.float() / length, state.elapsed.float() / length, state.alpha]
        rows += [torch.where(held, state.loss_at_birth - state.loss[0], 0), state.seed_norm.log1p()]
        seeds = state.total_seeds.float() / (self.engine.max_seeds or length)
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

    def kept_alone(self, state: NetworkState) -> tuple[Tensor, Tensor]:
        """Numbers of the seeds and their alphas with which a network is judged at the end, ``[slots, batch]`` both."""
        kept = state.states[..., 0].movedim(-1, 0) == self.kept
        return torch.where(kept, self.number[state.blueprint.long()], -1), kept.float()

    def score(self, state: NetworkState, split: Split) -> Tensor:
        """The score of a state with which an episode ended: loss of the twin less that of the network, less rent.

        Returns: nats, float32 ``[batch]``.
        """
        number, alpha = self.kept_alone(state)
        loss, _ = self.measure(state.networks, number, alpha, state.key, split)
        return self.twins.final(state.key, split)[0] - loss - self._rent(state.blueprint, alpha > 0)

    def _rent(self, blueprint: Tensor, kept: Tensor) -> Tensor:
        return torch.where(kept, self.rent[blueprint.long()], 0).sum(0)

    def heuristic(self, state: NetworkState) -> Tensor:
        """What the original's own heuristic does: seeds when the loss no longer falls, judged by the loss without them.

        The first seed on probation is kept if the loss on validation would be higher with its alpha 0, and culled
        otherwise. A network without a live seed, whose loss fell by less than ``PLATEAU``, gets one in its first empty
        slot, of each blueprint in turn.
        """
        heads, stage = self.engine.layout.heads, state.states[..., 0].movedim(-1, 0)
        waits = is_any(stage, self.judged)
        fill, keep, cull = (self.op(what) for what in ("fill", "keep", "cull"))
        judged, at = waits.any(0), waits.int().argmax(0)
        good = torch.zeros_like(judged)
        if bool(judged.any()):
            slots = torch.arange(self.slots, device=self.device).unsqueeze(-1)
            number = torch.where(state.alpha > 0, self.number[state.blueprint.long()], -1)
            without = torch.where(slots == at, 0, state.alpha)
            loss, _ = self.measure(state.networks, number, without, state.key, "validation")
            good = loss > state.loss[0]
        empty = stage == self.empty
        legal = self.masks(state).slot_by_op[..., fill, :].movedim(-1, 0)
        flat = state.loss[1] - state.loss[0] < PLATEAU
        alone = (empty | (stage == self.kept)).all(0)
        filled = ~judged & flat & alone & (empty & legal).any(0) & (state.epoch > 0)
        turn = torch.tensor(self.blueprints, device=self.device)[state.total_seeds.long() % len(self.blueprints)]
        op = torch.where(judged, torch.where(good, keep, cull), torch.where(filled, fill, self.wait))
        values = {OP: op, SLOT: torch.where(judged, at, torch.where(filled, (empty & legal).int().argmax(0), 0))}
        values[BLUEPRINT] = torch.where(filled, turn, heads[self.blueprint_at].canonical)
        return whole_actions(self.engine.layout, values)

    @property
    def bytes_beside(self) -> int:
        """Of memory, as estimated, that a host takes beside the population: the next state, twins, what is drawn."""
        twin = 8 * (self.episode_length + 1) + 4 * self.population.host_parameters
        drawn = 24 * self.steps * self.rows
        return self.population.bytes_per_host() + self.rounds * twin + drawn

    # -- parts --------------------------------------------------------------------------------------------------------

    def _begun(self, keys: Tensor) -> NetworkState:
        batch, device = len(keys), self.device

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        networks, slots = self.population.fresh(keys), self.slots
        none = torch.full((slots, batch), -1, dtype=torch.int32, device=device)
        loss, accuracy = self.measure(networks, none, zeros(slots, batch), keys, "validation")
        return NetworkState(
            states=self.engine.empty_slots(batch),
            total_seeds=zeros(batch, dtype=torch.int32),
            epoch=zeros(batch, dtype=torch.int32),
            returns=zeros(batch),
            key=keys,
            elapsed=zeros(slots, batch, dtype=torch.int32),
            blueprint=zeros(slots, batch, dtype=torch.int32),
            alpha=zeros(slots, batch),
            loss_at_birth=zeros(slots, batch),
            seed_norm=zeros(slots, batch),
            norm=zeros(batch),
            training_loss=loss.expand(2, -1).clone(),
            loss=loss.expand(2, -1).clone(),
            accuracy=accuracy,
            potential=zeros(batch),
            diverged=zeros(batch, dtype=torch.int32),
            **networks._asdict(),
        )

    def op(self, what: str) -> int:
        """The op that fills an empty slot, keeps a seed, or does away with it.

        Raises:
            RulesError: there is none.
        """
        for op in self.engine.rules.op_rules:
            for source, target in self.engine.rules.edges(op.id).items():
                fills, keeps = int(source) == self.empty, int(target) == self.kept
                culls = not fills and int(target) in self.without_seed
                if {"fill": fills, "keep": keeps, "cull": culls}[what]:
                    return int(op.id)
        raise RulesError(f"no op of {self.engine.rules.name} would {what} a seed, which the heuristic does")


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
