"""Actor-critics whose actions are drawn from the joint distribution over all heads, under masks."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn

from esper_masks.decision.given import Given
from esper_masks.decision.rows import Decision, Evaluation
from esper_masks.decision.step import DecisionStep
from esper_masks.masks.masks import ActionMasks

Hidden = tuple[Tensor, Tensor]  # of a recurrence, float32 [batch, width] both


class Acted(NamedTuple):
    """What a policy gives when it acts."""

    decision: Decision
    values: Tensor  # float32 [batch]
    hidden: Hidden | None  # of a recurrent policy, for the next step


class Scored(NamedTuple):
    """What a policy says about given actions."""

    evaluation: Evaluation  # log-probability, raw entropy in nats, head entropies, faults
    values: Tensor  # float32 [...]


class Tanh(nn.Module):
    """Hyperbolic tangent. In float32 on a CPU within 4e-7 of torch's, and several times as fast.

    Eager code takes torch's logistic function, which has a fast exponential. Compiled code has none, and takes a
    quotient of polynomials: all of it is multiplied and added where the layer before has just been written.
    """

    # tanh(x) is x times a quotient of these in x squared, lowest power first: least relative error, 7e-9, up to LIMIT
    OVER = (0.999999994, 0.134444849, 0.00357158147, 2.18943384e-05, 1.52298483e-08)
    UNDER = (1.0, 0.467778122, 0.0261643827, 0.000341126287, 8.52224074e-07)
    LIMIT = 8.0  # beyond, 1 is less than 3e-7 away

    def forward(self, values: Tensor) -> Tensor:
        if not values.is_cpu or values.dtype != torch.float32:
            return values.tanh()
        if not torch.compiler.is_compiling():
            return 2 * torch.sigmoid(2 * values) - 1
        within = values.clamp(-self.LIMIT, self.LIMIT)
        x = within.detach()
        made = x * self._polynomial(self.OVER, x * x) / self._polynomial(self.UNDER, x * x)
        return made + (1 - made * made) * (within - x)  # plus 0, whose gradient is that of the tangent

    def _polynomial(self, terms: Sequence[float], at: Tensor) -> Tensor:
        made = torch.full_like(at, terms[-1])
        for term in reversed(terms[:-1]):
            made = made * at + term
        return made


class FactoredActorCritic(nn.Module):
    """Two hidden layers, and one linear layer behind them for the logits of all heads and the value.

    Masks meet logits in one place, the distribution: ``step`` is the engine and ``FactoredCategorical`` as one unit,
    for rollout and update alike.

    >>> import esper_masks as em
    >>> env = em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 8)
    >>> policy = em.rollout.FactoredActorCritic(em.DecisionStep(env.engine, mode="eager"), env.obs_size)
    >>> decision, values, _ = policy.act(env.reset(), env.states)
    >>> scored = policy.evaluate_actions(env.reset(), env.masks(), decision.actions)
    >>> bool((scored.evaluation.log_prob == decision.log_prob).all()), scored.values.shape
    (True, torch.Size([8]))

    Args:
        step: how to decide and to score.
        obs_size: numbers of an observation.
        width: width of the hidden layers.
        autocast: whether layers run in bfloat16.

    Layers have torch's default dtype, or the one that ``policy.double()`` and its like give them. Observations, logits,
    values and everything in the distribution are float32.
    """

    def __init__(self, step: DecisionStep, obs_size: int, width: int = 128, *, autocast: bool = False):
        super().__init__()
        self.step, self.width, self.autocast = step, width, autocast
        columns = step.engine.layout.logit_size
        self.features = self._features(obs_size, width)
        self.output = nn.Linear(width, columns + 1)
        for layer in self.features:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, 2**0.5)
                nn.init.zeros_(layer.bias)
        with torch.no_grad():  # nearly uniform over what is legal, and values of their own size
            nn.init.orthogonal_(self.output.weight[:-1], 0.01)
            nn.init.orthogonal_(self.output.weight[-1:], 1.0)
            nn.init.zeros_(self.output.bias)

    def _features(self, obs_size: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(obs_size, width), Tanh(), nn.Linear(width, width), Tanh())

    def initial(self, batch: int) -> Hidden | None:
        """The hidden state with which an episode begins: None, since nothing is kept from step to step."""
        return None

    def forward(
        self, obs: Tensor, hidden: Hidden | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Hidden | None]:
        """Logits and values of observations.

        Args:
            obs: ``[..., obs_size]``; of a recurrent policy ``[batch, obs_size]`` or ``[steps, batch, obs_size]``.
            hidden: of a recurrent policy, as the step before gave it; by default that of an episode that begins.
            starts: bool ``[..., batch]``: an episode begins with the observation.

        Returns: logits float32 ``[..., columns]``, values float32 ``[...]``, and ``hidden`` for the next step.
        """
        with torch.autocast(obs.device.type, torch.bfloat16, enabled=self.autocast):
            features, kept = self._remember(self.features(obs.to(self.output.weight.dtype)), hidden, starts)
            made = self.output(features).float()
        return made[..., :-1], made[..., -1], kept

    def _remember(self, features: Tensor, hidden: Hidden | None, starts: Tensor | None) -> tuple[Tensor, Hidden | None]:
        return features, None

    def act(
        self,
        obs: Tensor,
        states: Tensor,
        total_seeds: Tensor | None = None,
        *,
        hidden: Hidden | None = None,
        starts: Tensor | None = None,
        noise: Tensor | None = None,
        out: Decision | None = None,
        **given: Unpack[Given],
    ) -> Acted:
        """Draw legal actions, without gradients.

        Args:
            obs: ``[batch, obs_size]``.
            states: integer ``[batch, slots, features]``; see ``MaskEngine``.
            total_seeds: integer ``[batch]``; see ``MaskEngine``.
            hidden: see ``forward``.
            starts: see ``forward``.
            noise: uniform ``[batch, heads]``; see ``DecisionStep``.
            out: where to write the decision; see ``DecisionStep``.
            given: ``row``, ``head_masks`` and ``restrict``; see ``DecisionStep``.
        """
        with torch.no_grad():
            logits, values, kept = self(obs, hidden, starts)
            return Acted(self.step(states, logits, total_seeds, noise=noise, out=out, **given), values, kept)

    def evaluate_actions(
        self,
        obs: Tensor,
        masks: ActionMasks,
        actions: Tensor,
        *,
        active: Tensor | None = None,
        hidden: Hidden | None = None,
        starts: Tensor | None = None,
    ) -> Scored:
        """Score actions that were decided before, with gradients.

        Args:
            obs: see ``forward``.
            masks: the masks under which the actions were decided, ``[...]``.
            actions: integer ``[..., heads]``.
            active: bool ``[...]``; False for padding.
            hidden: see ``forward``.
            starts: see ``forward``.
        """
        logits, values, _ = self(obs, hidden, starts)
        return Scored(self.step.evaluate(logits, masks, actions, active=active, head_entropies=True), values)


class FactoredRecurrentActorCritic(FactoredActorCritic):
    """A feature layer, an LSTM behind it, and one linear layer for the logits of all heads and the value.

    The recurrence is a cell for each step, which compiles into the same graph as what is around it; sequences are
    ``[steps, batch]``, and where an episode begins nothing is remembered.

    Args:
        step: see ``FactoredActorCritic``.
        obs_size: see ``FactoredActorCritic``.
        width: width of the feature layer and of the recurrence.
        autocast: see ``FactoredActorCritic``.
    """

    def __init__(self, step: DecisionStep, obs_size: int, width: int = 128, *, autocast: bool = False):
        super().__init__(step, obs_size, width, autocast=autocast)
        self.cell = nn.LSTMCell(width, width)

    def _features(self, obs_size: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(obs_size, width), Tanh())

    def initial(self, batch: int) -> Hidden:
        """The hidden state with which an episode begins, zeros."""
        zeros = torch.zeros(batch, self.width, dtype=torch.float32, device=self.output.weight.device)
        return zeros, zeros

    def _remember(self, features: Tensor, hidden: Hidden | None, starts: Tensor | None) -> tuple[Tensor, Hidden | None]:
        steps = features.unsqueeze(0) if features.ndim == 2 else features
        begins = None if starts is None else starts.view(len(steps), -1, 1)
        first, second = self.initial(steps.shape[1]) if hidden is None else hidden
        dtype, made = self.output.weight.dtype, []
        state = first.to(dtype), second.to(dtype)
        for at, step in enumerate(steps.unbind()):
            if begins is not None:
                state = state[0].masked_fill(begins[at], 0), state[1].masked_fill(begins[at], 0)
            state = self.cell(step, state)
            made.append(state[0])
        kept = state[0].float(), state[1].float()
        return torch.stack(made).view(*features.shape[:-1], -1), kept
