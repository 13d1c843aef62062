"""A step of the optimizer: what a policy loses on rows of a rollout, the gradient of that, clipping, Adam."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from esper_masks.compiled.methods import CompiledMethod
from esper_masks.compiled.torch_private import intercepted
from esper_masks.decision.buffer import Minibatch, RolloutBuffer
from esper_masks.decision.rows import Evaluation
from esper_masks.decision.step import CompiledCategorical, EvaluationInputs
from esper_masks.distributions.factored import FactoredCategorical
from esper_masks.distributions.faults import raise_on_fault
from esper_masks.errors import InvalidStateMachineError
from esper_masks.rollout.training.config import PPOConfig
from esper_masks.rollout.training.policy import FactoredActorCritic, Hidden, Scored
from esper_masks.rollout.training.processes import Processes

KL = 0  # where figures have it


class Learned(NamedTuple):
    """What a step did."""

    figures: Tensor  # float32 [figures], in the order of ``Learner.names``
    near: bool  # whether the step was taken: the policy has not gone too far from that of the rollout


class AdamState(NamedTuple):
    """What a step changes, of each parameter, as ``torch.optim.Adam`` keeps it."""

    parameters: Sequence[Tensor]
    steps: Sequence[Tensor]  # float32 []
    means: Sequence[Tensor]
    squares: Sequence[Tensor]


class StepInputs(NamedTuple):
    """What the graph of a step computes from."""

    chosen: Tensor  # int64 [rows], see ``RolloutBuffer.minibatch``
    advantages: Tensor  # float32 [steps, batch]
    returns: Tensor  # float32 [steps, batch]
    learning_rate: Tensor  # float32 []: one in float64 is a number to the compiler
    adam: AdamState  # written to, if the step is taken


class Scoring(nn.Module):
    """``evaluate_actions`` as a forward pass: ``DistributedDataParallel`` averages the gradients of nothing else."""

    def __init__(self, policy: FactoredActorCritic):
        super().__init__()
        self.policy = policy

    def forward(self, rows: Minibatch, hidden: Hidden | None) -> Scored:
        obs, masks, actions = rows.fields["obs"], rows.masks, rows.actions
        starts = None if hidden is None else rows.fields["start"]
        return self.policy.evaluate_actions(obs, masks, actions, active=rows.active, hidden=hidden, starts=starts)


class Learner(nn.Module):
    """Steps on rows of a buffer. Where a rollout is one graph, a step is one, too, from the rows to the parameters.

    It is several calls for a recurrent policy, each step of whose sequences the graph would hold by itself, for one of
    several processes, which average their gradients in between, and for a policy of one's own, which may do in
    ``forward`` and ``evaluate_actions`` what no graph can.

    Args:
        policy: what learns.
        buffer: what it learns from, with the field "obs", normalized, and "start" for a recurrent policy.
        optimizer: of all its parameters, with ``fused=True``, without weight decay and other variations.
        config: hyper-parameters.
        processes: the processes of the training.
        compiled: whether a rollout is one graph.

    Attributes:
        names: of the figures to log.
        graph: the graph, or None.
    """

    def __init__(
        self,
        policy: FactoredActorCritic,
        buffer: RolloutBuffer,
        optimizer: torch.optim.Adam,
        config: PPOConfig,
        processes: Processes,
        compiled: bool,
    ):
        super().__init__()
        self.policy, self.buffer, self.optimizer = policy, buffer, optimizer
        self.config, self.processes = config, processes
        entropies = [f"entropy_{name}" for name in policy.step.layout.head_names]
        self.names = ["kl", "clip_fraction", "policy_loss", "value_loss", *entropies, "gradient_norm"]
        self.scoring: nn.Module = Scoring(policy)
        if processes.size > 1:
            self.scoring = processes.averaged(self.scoring, buffer.device)
        known = type(policy) is FactoredActorCritic and processes.size == 1
        self.graph = CompiledMethod(self._whole) if known and compiled else None
        self._betas, self._eps = optimizer.param_groups[0]["betas"], optimizer.param_groups[0]["eps"]
        self._trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}

    def step(self, index: Tensor, hidden: Hidden | None, advantages: Tensor, returns: Tensor) -> Learned:
        """One optimizer step, unless the policy has gone too far from that of the rollout.

        Args:
            index: of rows of the buffer; for a recurrent policy of environments, whose sequences it learns from.
            hidden: of a recurrent policy, at the first step of the rollout.
            advantages: ``[steps, batch]``.
            returns: as many, over their spread.

        Raises:
            InvalidStateMachineError: a fault in scored rows, or a gradient that is not finite. Nothing is learned.
        """
        if self.graph is not None and not intercepted():
            learned = self._compiled(index, advantages, returns)
            if learned is not None:
                return learned
        return self.learn(*self._gather(index, hidden, advantages, returns))

    def _gather(
        self, index: Tensor, hidden: Hidden | None, advantages: Tensor, returns: Tensor
    ) -> tuple[Minibatch, Hidden | None, Tensor, Tensor]:
        if hidden is None:
            own = [value.flatten().index_select(0, index) for value in (advantages, returns)]
            return self.buffer.minibatch(index), None, own[0], own[1]
        own = [value.index_select(1, index) for value in (advantages, returns)]
        return self.buffer.sequences(index), (hidden[0][index], hidden[1][index]), own[0], own[1]

    def _losses(self, scored: Scored, rows: Minibatch, advantages: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the figures but for the last."""
        config = self.config
        log_ratio = scored.evaluation.log_prob - rows.log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        value_loss = 0.5 * (scored.values - returns).square().mean()
        heads = scored.evaluation.head_entropies
        assert heads is not None
        entropies = heads.flatten(0, -2).mean(0)
        loss = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropies.mean()
        with torch.no_grad():
            kl, beyond = (ratio - 1 - log_ratio).mean(), (ratio != clipped).float().mean()
            figures = torch.stack([kl, beyond, policy_loss, value_loss, *entropies.unbind()])
        return loss, figures.detach()

    # -- call by call -------------------------------------------------------------------------------------------------

    def learn(self, rows: Minibatch, hidden: Hidden | None, advantages: Tensor, returns: Tensor) -> Learned:
        """A step on given rows.

        Args:
            rows: of the buffer, ``[rows]``; for a recurrent policy ``[steps, envs]``.
            hidden: of a recurrent policy, at the first step of each sequence.
            advantages: as many.
            returns: as many, over their spread.

        Raises:
            InvalidStateMachineError: see ``step``.
        """
        config, optimizer = self.config, self.optimizer
        scored: Scored = self.scoring(rows, hidden)
        loss, figures = self._losses(scored, rows, advantages, returns)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm)
        faults = scored.evaluation.faults
        fault = (faults != 0).any() | ~norm.isfinite()
        # one read of the device for all that decides whether the step is taken, and one decision of all processes
        far, anywhere = self.processes.mean(torch.stack([figures[KL], fault.float()])).tolist()
        if anywhere:
            raise_on_fault(heads=self.policy.step.layout.head_names, faults=faults, gradient_norm=norm)
            raise InvalidStateMachineError("another process of the training met a fault, and says which")
        near = far <= 1.5 * config.target_kl
        if near:
            optimizer.step()
        return Learned(torch.cat([figures, norm.detach().float().view(1)]), near)

    # -- as one graph -------------------------------------------------------------------------------------------------

    def _compiled(self, index: Tensor, advantages: Tensor, returns: Tensor) -> Learned | None:
        """The same as one graph; None if there was a fault, so that nothing has changed."""
        graph = self.graph
        assert graph is not None
        if not graph.entries:  # lookup tables that no trace can make
            rows = self.buffer.minibatch(index[:1])
            logits = torch.zeros(1, self.policy.step.layout.logit_size, dtype=torch.float32, device=index.device)
            self._score(logits, rows, FactoredCategorical)
        rate = torch.tensor(self.optimizer.param_groups[0]["lr"], dtype=torch.float32, device=index.device)
        with torch.no_grad():
            figures, decided = graph(StepInputs(index, advantages, returns, rate, self._adam_state()))
        near, fault = decided.tolist()
        return None if fault else Learned(figures, near)

    def _adam_state(self) -> AdamState:
        """Of this training; begins it."""
        parameters = list(self._trained.values())
        for parameter in parameters:
            state = self.optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.optimizer.state[parameter] for parameter in parameters]
        return AdamState(parameters, *([state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq")))

    def _score(self, logits: Tensor, rows: Minibatch, categorical: type[FactoredCategorical]) -> Evaluation:
        masks, step = rows.masks, self.policy.step
        held = masks.slot_words, masks.op_words, masks.choices, masks.slot_mask
        inputs = EvaluationInputs(logits, *held, rows.actions, rows.active, head_entropies=True)
        scores: Any = step.score(inputs, categorical=categorical)
        return Evaluation(*scores)

    def _whole(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """The figures; and bool ``[2]``: whether the step is taken, and whether there is a fault."""
        config, names, adam = self.config, list(self._trained), inputs.adam
        rows, _, advantages, returns = self._gather(inputs.chosen, None, inputs.advantages, inputs.returns)

        def lose(parameters: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            logits, values, _ = functional_call(self.policy, parameters, (rows.fields["obs"],))
            scored = Scored(self._score(logits, rows, CompiledCategorical), values)
            loss, figures = self._losses(scored, rows, advantages, returns)
            return loss, (figures, (scored.evaluation.faults != 0).any())

        parameters = dict(zip(names, [parameter.detach() for parameter in adam.parameters]))
        gradients, (figures, fault) = grad(lose, has_aux=True)(parameters)
        norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
        fault = fault | ~norm.isfinite()
        near = (figures[KL] <= 1.5 * config.target_kl) & ~fault
        kept = (config.max_grad_norm / (norm + 1e-6)).clamp_max(1)
        for name, *state in zip(names, *adam):
            made = self._adam(gradients[name] * kept, inputs.learning_rate, *state)
            for old, new in zip(state, made):
                old.copy_(torch.where(near, new, old))
        return torch.cat([figures, norm.float().view(1)]), torch.stack([near, fault])

    def _adam(
        self, gradient: Tensor, rate: Tensor, parameter: Tensor, step: Tensor, mean: Tensor, square: Tensor
    ) -> tuple[Tensor, ...]:
        """What ``torch.optim.Adam`` makes of a parameter and of its state."""
        (first, second), step = self._betas, step + 1
        mean = mean + (gradient - mean) * (1 - first)
        square = square * second + gradient * gradient * (1 - second)
        size = rate / (1 - first ** step.double()).to(mean.dtype)
        root = (1 - second ** step.double()).sqrt().to(mean.dtype)
        return parameter - size * mean / (square.sqrt() / root + self._eps), step, mean, square
