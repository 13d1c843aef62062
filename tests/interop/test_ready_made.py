"""Every adapter over environments ready made, of every kind: what it gives is what they give."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import esper_masks as em
from esper_masks.interop.arrays import ArrayEnv
from esper_masks.rollout import LifecycleEnv
from tests.helpers import as_bools, assert_same_masks
from tests.interop.lifecycles import ALL

BATCH, HORIZON, STEPS = 5, 6, 14
KINDS = pytest.mark.parametrize("name", ALL)
FORMS = pytest.mark.parametrize("action", ["joint", "factored"])


def random_legal(env: LifecycleEnv) -> Tensor:
    logits = torch.zeros(env.num_envs, env.engine.layout.logit_size)
    return em.FactoredCategorical(logits, env.masks()).sample()


def of_form(masks: em.ActionMasks, action: str) -> Tensor:
    return masks.joint() if action == "joint" else masks.flat()


def told(env: LifecycleEnv, actions: Tensor, action: str) -> Tensor:
    return env.engine.joint_actions.encode(actions) if action == "joint" else actions


@KINDS
@FORMS
def test_arrays(name: str, action: Any) -> None:
    """Behind the adapters to Gymnasium, stable-baselines3 and PettingZoo."""
    env, twin = (ALL[name](BATCH, HORIZON, seed=3) for _ in range(2))
    arrays, ends = ArrayEnv(env, action, {}), 0
    assert arrays.env is env
    assert arrays.reset().tolist() == twin.reset().tolist()
    for _ in range(STEPS):
        assert arrays.masks().tolist() == of_form(twin.masks(), action).tolist()
        actions = random_legal(twin)
        obs, reward, ended, last = arrays.step(told(twin, actions, action).numpy())
        made = twin.step(actions)
        assert [part.tolist() for part in (obs, reward, ended)] == [part.tolist() for part in made[:3]]
        assert (last is not None) == bool(ended.any())
        if last is not None:
            assert last.obs.tolist() == made[4]["final_obs"].tolist()
            assert last.masks().tolist() == of_form(made[4]["final_masks"], action).tolist()
            ends += int(ended.sum())
    assert ends >= 2 * BATCH
    assert not env.illegal_actions.any()


def test_what_is_idle_may_be_anything_and_is_not_counted() -> None:
    arrays = ArrayEnv(ALL["kilns"](4, HORIZON), "joint", {})
    idle = torch.tensor([True, False, True, False]).numpy()
    arrays.step(torch.tensor([-7, 0, 3, 0]).numpy(), idle)  # 3 is to stop a kiln that is none
    assert not arrays.env.illegal_actions.any()
    arrays.step(torch.tensor([1, 3, 1, 3]).numpy(), idle)
    assert arrays.env.illegal_actions.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="the action of environment 1 is -7"):
        arrays.step(torch.tensor([0, -7, 0, -7]).numpy(), idle)


@KINDS
@FORMS
def test_torchrl(name: str, action: Any) -> None:
    pytest.importorskip("torchrl")
    from torchrl.envs import check_env_specs

    from esper_masks.interop.torchrl import LifecycleEnv as TheirEnv

    check_env_specs(TheirEnv(ALL[name](BATCH, HORIZON), action=action), break_when_any_done="both", seed=0)
    ready, twin = (ALL[name](BATCH, HORIZON, seed=3) for _ in range(2))
    env, ends = TheirEnv(ready, action=action), 0
    assert env.lifecycles is ready
    row = env.reset()
    twin.reset()

    def assert_seen(row: Any, obs: Tensor, masks: em.ActionMasks) -> None:
        assert torch.equal(row["observation"], obs)
        assert torch.equal(row["action_mask"], of_form(masks, action))
        words = (
            em.ActionMasks.from_packed(env.layout, row["packed"])
            if "packed" in row.keys()  # noqa: SIM118  # TensorDict wants it so
            else em.ActionMasks.from_words(env.layout, row["slot_words"], row["op_words"])
        )
        assert_same_masks(words, as_bools(masks))

    for _ in range(STEPS):
        assert_seen(row, twin.obs, twin.masks())
        actions = random_legal(twin)
        made, row = env.step_and_maybe_reset(row.set("action", told(twin, actions, action)))
        obs, reward, terminated, _, info = twin.step(actions)
        following, ended = made["next"], terminated.unsqueeze(-1)
        assert_seen(following, torch.where(ended, info["final_obs"], obs), info["final_masks"])
        assert torch.equal(following["reward"].squeeze(-1), reward)
        assert torch.equal(following["done"], ended)
        ends += int(terminated.sum())
    assert ends >= 2 * BATCH
    assert not env.illegal_actions.any()


@KINDS
def test_a_collector_of_torchrl(name: str) -> None:
    """Draws every head at once under the masks of each row, and no action under those of an end."""
    pytest.importorskip("torchrl")
    from tensordict.nn import TensorDictModule
    from torchrl.collectors import Collector
    from torchrl.modules import ProbabilisticActor

    from esper_masks.interop.torchrl import FactoredCategorical
    from esper_masks.interop.torchrl import LifecycleEnv as TheirEnv

    env = TheirEnv(ALL[name](BATCH, HORIZON), action="factored")
    words = ["packed"] if "packed" in env.observation_spec.keys() else ["slot_words", "op_words"]  # noqa: SIM118
    network = torch.nn.Linear(env.lifecycles.obs_size, env.layout.logit_size)
    actor = ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["logits"]),
        in_keys=["logits", *words],
        out_keys=["action"],
        distribution_class=FactoredCategorical,
        distribution_kwargs={"layout": env.layout},
        return_log_prob=True,
        spec=env.action_spec,
    )
    collector = Collector(env, actor, frames_per_batch=BATCH * STEPS, total_frames=2 * BATCH * STEPS)
    ends = sum(int(data["next", "done"].sum()) for data in collector)
    collector.shutdown()
    assert ends >= 4 * BATCH
    assert not env.illegal_actions.any()


@KINDS
def test_sb3(name: str) -> None:
    pytest.importorskip("sb3_contrib")
    from sb3_contrib import MaskablePPO

    from esper_masks.interop.sb3 import LifecycleVecEnv

    env = LifecycleVecEnv(ALL[name](BATCH, HORIZON))
    MaskablePPO("MlpPolicy", env, n_steps=STEPS, batch_size=35, n_epochs=1, seed=0, device="cpu").learn(BATCH * STEPS)
    assert not env.illegal_actions.any()


def adapters() -> list[Callable[..., Any]]:
    from esper_masks.interop import gymnasium, pettingzoo, sb3, torchrl

    made = [gymnasium.LifecycleVectorEnv, gymnasium.LifecycleEnv, sb3.LifecycleVecEnv]
    return [*made, torchrl.LifecycleEnv, pettingzoo.LifecycleParallelEnv]


def test_one_form_in_all_of_them() -> None:
    for library in ("gymnasium", "sb3_contrib", "torchrl", "pettingzoo"):
        pytest.importorskip(library)
    for adapter in adapters():
        adapter(ALL["kilns"](1, HORIZON), action="factored")
        adapter(1, max_seeds=2, rules="esper-2025-11")
        with pytest.raises(TypeError, match="max_seeds= and seed= beside a LifecycleEnv, which has its settings: give"):
            adapter(ALL["kilns"](1, HORIZON), max_seeds=3, seed=None)
        with pytest.raises(TypeError, match="rules= beside a LifecycleEnv"):
            adapter(ALL["kilns"](1, HORIZON), rules="esper-2025-12")
        with pytest.raises(TypeError, match=r"'max_seed' \(did you mean max_seeds\?\)"):
            adapter(1, max_seed=3)
    with pytest.raises(ValueError, match="this is one environment, got 2: LifecycleVectorEnv takes them"):
        adapters()[1](ALL["kilns"](2, HORIZON))
