"""Adapters over environments whose masks slot words do not hold: exact in the joint form, and for the distribution."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper_masks as em
from tests import pods
from tests.helpers import as_bools, assert_same_masks
from tests.rollout.given_rules import RULES, given

SETTINGS: dict[str, Any] = {"rules": RULES, "given": given, "seed": 3}


def test_gymnasium_and_sb3_have_its_masks() -> None:
    pytest.importorskip("gymnasium")
    from esper_masks.interop.gymnasium import LifecycleVectorEnv

    for action in ("joint", "factored"):
        env = LifecycleVectorEnv(8, action=action, **SETTINGS)  # type: ignore[arg-type]
        _, info = env.reset(seed=0)
        for _ in range(25):
            masks = env.lifecycles.masks()
            flat = masks.joint() if action == "joint" else masks.flat()
            assert torch.equal(torch.as_tensor(info["action_mask"]).bool(), flat)
            assert not masks["blueprint"][::2, 2].any()
            actions = em.FactoredCategorical(torch.zeros(8, 15), masks).sample()
            index = env.lifecycles.engine.joint_actions.encode(actions) if action == "joint" else actions
            *_, info = env.step(index.numpy())
        assert not env.illegal_actions.any()
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'givn' \(did you mean given\?\)"):
        LifecycleVectorEnv(8, rules=RULES, givn=given)


@pytest.mark.parametrize("action", ["joint", "factored"])
def test_torchrl_carries_packed_masks(action: Any) -> None:
    pytest.importorskip("torchrl")
    from tensordict.nn import TensorDictModule
    from torchrl.envs import check_env_specs
    from torchrl.modules import ProbabilisticActor

    from esper_masks.interop.torchrl import FactoredCategorical, LifecycleEnv

    env = LifecycleEnv(6, action=action, episode_length=5, **SETTINGS)
    check_env_specs(env, break_when_any_done="both", seed=0)
    row = env.reset()
    assert "slot_words" not in row
    assert_same_masks(em.ActionMasks.from_packed(env.layout, row["packed"]), as_bools(env.lifecycles.masks()))
    if action == "joint":
        return
    actor = ProbabilisticActor(
        TensorDictModule(nn.Linear(53, 15), ["observation"], ["logits"]),
        in_keys=["logits", "packed"],
        out_keys=["action"],
        distribution_class=FactoredCategorical,
        distribution_kwargs={"layout": env.layout},
        return_log_prob=True,
        spec=env.action_spec,
    )
    before = env.illegal_actions.clone()  # of the checker, which draws by itself
    rows = env.rollout(20, actor, break_when_any_done=False)
    assert rows.shape == (6, 20)
    assert torch.equal(env.illegal_actions, before)
    masks = em.ActionMasks.from_packed(env.layout, rows["packed"])
    assert masks.permits(rows["action"]).all()


def masks_with_room(batch: int = 9) -> em.ActionMasks:
    engine = pods.engine_of()
    room = torch.rand(batch, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    masks: em.ActionMasks = engine(pods.inputs(engine, batch)[0], row=pods.rows(batch), head_masks={"node": room})
    return masks


def test_a_distribution_for_torchrl_takes_words_or_packed_words() -> None:
    pytest.importorskip("torchrl")
    from tensordict import TensorDict

    from esper_masks.interop.torchrl import FactoredCategorical

    masks = masks_with_room()
    layout, logits = masks.layout, torch.randn(9, 14)
    ours = FactoredCategorical(logits, packed=masks.pack(), layout=layout)
    theirs = em.FactoredCategorical(logits, masks)
    noise = torch.rand(9, 4)
    assert torch.equal(ours.sample(noise=noise), theirs.sample(noise=noise))
    assert torch.equal(ours.entropy(), theirs.raw_entropy())
    parts: dict[str, Tensor] = dict(zip(layout.head_names, logits.split([5, 2, 3, 4], -1)))
    nested = FactoredCategorical(TensorDict(parts, [9]), packed=masks.pack(), layout=layout)
    assert torch.equal(nested.sample(noise=noise), theirs.sample(noise=noise))
    for wrong in ({}, {"layout": layout}, {"packed": masks.pack()}):
        with pytest.raises(TypeError, match="needs a layout, and slot_words or packed"):
            FactoredCategorical(logits, **wrong)
    with pytest.raises(TypeError, match="needs a layout, and slot_words or packed"):
        FactoredCategorical(logits, masks.slot_words, masks.op_words, layout, packed=masks.pack())


@pytest.mark.parametrize("action", ["joint", "factored"])
def test_masks_beside_an_observation(action: Any) -> None:
    masks = masks_with_room()
    from esper_masks.interop import rllib

    made = rllib.observations(masks, torch.zeros(9, 2), action=action)["action_mask"]
    flat = masks.joint() if action == "joint" else masks.flat()
    assert torch.equal(torch.as_tensor(made).bool(), flat)
    joint, permitted = pods.engine_of().joint_actions, masks.joint()
    for index in range(joint.size):  # the joint form is exact
        every = joint.decode(torch.full((9,), index))
        assert torch.equal(permitted[:, index], masks.permits(every))
