"""``LifecycleEnv`` and distributions for TorchRL, https://docs.pytorch.org/rl; on any device.

Importing TorchRL switches off torch's validation of distributions for the whole process. This package still checks
what it checked before.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper_masks import distributions, rollout
from esper_masks.actions.layout import ActionLayout
from esper_masks.decision.packing import in_words
from esper_masks.distributions.base import MaskedDistribution
from esper_masks.extras import needs
from esper_masks.interop.action_forms import ActionForm, Form
from esper_masks.interop.arrays import make_env
from esper_masks.masks.masks import ActionMasks

with needs("interop.torchrl"):
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import Binary, Categorical, Composite, MultiCategorical, Unbounded
    from torchrl.envs import EnvBase

ENDS = ("done", "terminated")


class LifecycleEnv(EnvBase):  # type: ignore[misc]  # TorchRL has no types
    """``rollout.LifecycleEnv`` as an ``EnvBase`` of batch size ``[num_envs]``.

        "observation"  float32 [num_envs, obs_size]
        "action_mask"  bool [num_envs, n], True is legal: n whole actions; factored, of all heads side by side
        "slot_words"   int32 [num_envs, slots] and "op_words" int32 [num_envs]: the same masks, exact in either form,
                       for ``FactoredCategorical`` below; int64 for more than 31 ops
        "packed"       int32 [num_envs, words], instead of the two where slot words do not hold the masks: where heads
                       depend on the slot, ops are legal without one, or ``given=`` limits them

    At the end of an episode ``("next", "observation")`` is its last observation, and masks in ``"next"`` are what was
    legal then: no action is drawn under them, but a value may be. TorchRL's collectors, and ``rollout`` with
    ``break_when_any_done=False``, then begin the next episode by themselves.

    An illegal action is WAIT, and is counted in ``illegal_actions``. Under ``ActionMask`` the joint form has none. The
    factored form has none with ``FactoredCategorical``; a library's own heads, drawn independently of each other, form
    illegal pairs of op and slot however they are masked. See ``docs/frameworks/torchrl.md``.

    >>> import esper_masks as em
    >>> env = em.interop.torchrl.LifecycleEnv(4)
    >>> env.rollout(3)["action_mask"].shape
    torch.Size([4, 3, 43])

    Args:
        num_envs: number of environments, or a ``rollout.LifecycleEnv``, which takes no settings beside it.
        action: ``"joint"``, the index of a whole action, or ``"factored"``, one choice a head.
        settings: ``rules``, a rule set or the name of one, by default ``"esper-2025-12"``; and settings of
            ``rollout.LifecycleEnv``, ``slot_ids``, ``seed``, ``device``, ``mode`` and ``dynamics`` among them. Without
            a seed here or by ``set_seed``, no two environments have the same noise.

    Raises:
        TypeError: there is no such setting, or there are some beside a ``rollout.LifecycleEnv``.
        RulesError, SlotStateError, ValueError, RuntimeError: see ``rollout.LifecycleEnv``; or no such form.
    """

    def __init__(self, num_envs: int | rollout.LifecycleEnv, *, action: Form = "joint", **settings: Any):
        lifecycles = make_env(num_envs, settings)
        form, device, num_envs = ActionForm(lifecycles.engine, action), lifecycles.device, lifecycles.num_envs
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self.lifecycles, self.form = lifecycles, form
        masks, width = lifecycles.masks(), sum(form.sizes)
        self._in_words = in_words(masks)
        words = {name: self._spec(Unbounded, *of.shape[1:], dtype=of.dtype) for name, of in self._held(masks).items()}
        self.observation_spec = Composite(
            observation=self._spec(Unbounded, lifecycles.obs_size),
            action_mask=Binary(width, shape=(num_envs, width), dtype=torch.bool, device=device),
            **words,
            shape=self.batch_size,
        )
        shape = (num_envs, *form.row)
        self.action_spec = (
            MultiCategorical(form.sizes, shape=shape, device=device)
            if form.row
            else Categorical(form.sizes[0], shape=shape, device=device)
        )
        self.reward_spec = self._spec(Unbounded, 1)
        done = {name: Binary(1, shape=(num_envs, 1), dtype=torch.bool, device=device) for name in ENDS}
        self.done_spec = Composite(done, shape=self.batch_size)

    def _spec(self, kind: Any, *row: int, dtype: torch.dtype = torch.float32) -> Any:
        return kind(shape=(*self.batch_size, *row), dtype=dtype, device=self.device)

    @property
    def layout(self) -> ActionLayout:
        """Heads and ops, for ``FactoredCategorical``."""
        return self.lifecycles.engine.layout

    @property
    def illegal_actions(self) -> Tensor:
        """How many actions of each environment were illegal since it was made, int64 ``[num_envs]``."""
        return self.lifecycles.illegal_actions

    def _seen(self, observation: Tensor, masks: ActionMasks) -> dict[str, Tensor]:
        return {"observation": observation, "action_mask": self.form.masks(masks), **self._held(masks)}

    def _held(self, masks: ActionMasks) -> dict[str, Tensor]:
        """What ``FactoredCategorical`` makes masks of."""
        if self._in_words:
            return {"slot_words": masks.slot_words.contiguous(), "op_words": masks.op_words}
        return {"packed": masks.pack().contiguous()}

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.clone() if self.lifecycles.mode == "cuda-graph" else tensor  # whose next step writes over it

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        where = None if tensordict is None else tensordict.get("_reset", None)
        obs = self._own(self.lifecycles.reset(None if where is None else where.view(self.batch_size)))
        ends = {name: torch.zeros(*self.batch_size, 1, dtype=torch.bool, device=self.device) for name in ENDS}
        return TensorDict({**self._seen(obs, self.lifecycles.masks()), **ends}, self.batch_size, device=self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        actions = self.form.actions(tensordict["action"], self.batch_size[0])
        *given, _, info = self.lifecycles.step(actions)
        obs, reward, terminated = (self._own(each) for each in given)
        if terminated.any():  # TorchRL reads it as well, to begin the next episode
            obs = torch.where(terminated.unsqueeze(-1), info["final_obs"], obs)
        made = {**self._seen(obs, info["final_masks"]), "reward": reward.unsqueeze(-1)}
        made |= {name: terminated.unsqueeze(-1) for name in ENDS}
        return TensorDict(made, self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self.lifecycles.seed(seed)

    def to(self, device: Any, *arguments: Any, **settings: Any) -> "LifecycleEnv":
        """This environment, which stays on its device.

        Raises:
            RuntimeError: another device.
        """
        place = torch.device(device)
        if place.type != self.device.type or place.index not in (None, self.device.index or 0):
            raise RuntimeError(
                f"the environment is on {self.device} and stays there; make it with device={str(place)!r}"
            )
        return self


class _InNats(MaskedDistribution):
    """What TorchRL asks of a distribution. Among the bases it stands before a distribution of the package."""

    def entropy(self) -> Tensor:
        """``raw_entropy()``, in nats, ``[...]``."""
        return self.raw_entropy()

    def normalized_entropy(self) -> Tensor:
        """Entropy over the logarithm of the number of legal actions, ``[...]``, in [0, 1]."""
        return super().entropy()

    @property
    def deterministic_sample(self) -> Tensor:
        """``mode``, the likeliest choices."""
        return self.mode


class MaskedCategorical(_InNats, distributions.MaskedCategorical):
    """``MaskedCategorical`` for a ``ProbabilisticActor``: one discrete action, such as the index of a whole one.

    ``entropy()`` is in nats, as TorchRL's losses expect; ``normalized_entropy()`` is that of the package, in [0, 1].
    Everything else, arguments and errors too, is as in ``esper_masks.MaskedCategorical``.

        ProbabilisticActor(network, in_keys={"logits": "logits", "mask": "action_mask"}, out_keys=["action"],
                           distribution_class=MaskedCategorical, ...)
    """


class FactoredCategorical(_InNats, distributions.FactoredCategorical):
    """``FactoredCategorical`` of words, for a ``ProbabilisticActor``: exact under the masks, all heads in one action.

    ``entropy()`` is in nats, as TorchRL's losses expect; ``normalized_entropy()`` is that of the package, in [0, 1].

        ProbabilisticActor(network, in_keys=["logits", "slot_words", "op_words"], out_keys=["action"],
                           distribution_class=FactoredCategorical, distribution_kwargs={"layout": env.layout}, ...)

    ``in_keys`` are ``["logits", "packed"]`` for an environment that gives packed masks. Logits of each slot need
    ``distribution_kwargs={"layout": env.layout, "by_slot": ("node",)}``, and a nested TensorDict with an entry a head.

    Args:
        logits: all heads side by side in head order, ``[..., sum of head sizes]``; or a nested TensorDict, or mapping,
            of head to logits, see ``esper_masks.FactoredCategorical``.
        slot_words: int32 ``[..., slots]``, as the environment gives them.
        op_words: int32 ``[...]``.
        layout: heads and ops (``env.layout``).
        packed: int32 ``[..., words]``, in place of slot words and op words.
        settings: settings of ``esper_masks.FactoredCategorical``. ``validate="flag"`` reads nothing from the device;
            the action of a row at fault is -1 then, and the caller looks at it (``esper_masks.raise_on_fault``).

    Raises:
        InvalidStateMachineError: rows at fault, such as logits that are NaN.
        ValueError: see ``ActionMasks.from_words`` and ``esper_masks.FactoredCategorical``.
        TypeError: no layout, or not one of words and packed words.
    """

    def __init__(
        self,
        logits: Tensor | TensorDictBase | Mapping[str, Tensor],
        slot_words: Tensor | None = None,
        op_words: Tensor | None = None,
        layout: ActionLayout | None = None,
        *,
        packed: Tensor | None = None,
        **settings: Any,
    ):
        if layout is not None and slot_words is not None and packed is None:
            masks = ActionMasks.from_words(layout, slot_words, op_words)
        elif layout is not None and packed is not None and slot_words is None:
            masks = ActionMasks.from_packed(layout, packed)
        else:
            raise TypeError("FactoredCategorical needs a layout, and slot_words or packed; env.layout is one")
        heads = dict(logits.items()) if isinstance(logits, TensorDictBase) else logits
        super().__init__(heads, masks, **settings)
