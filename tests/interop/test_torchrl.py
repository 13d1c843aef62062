"""The environment and the distribution for TorchRL: its checker, its collectors and its loss, and nothing illegal."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

import esper_masks as em
from esper_masks import reference
from tests.helpers import as_bools

pytest.importorskip("torchrl")

from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.envs import GymEnv, GymWrapper, ParallelEnv, TransformedEnv, check_env_specs
from torchrl.envs.transforms import ActionMask
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MaskedCategorical as TheirMaskedCategorical
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from esper_masks.interop.torchrl import FactoredCategorical, LifecycleEnv, MaskedCategorical

FORMS = ("joint", "factored")


def factored() -> LifecycleEnv:
    return LifecycleEnv(16, action="factored")


def whole() -> LifecycleEnv:
    return LifecycleEnv(16)


def actor_of(env: LifecycleEnv) -> ProbabilisticActor:
    torch.manual_seed(0)
    columns = sum(head.size for head in env.layout.heads)
    network = nn.Sequential(nn.Linear(53, 32), nn.Tanh(), nn.Linear(32, columns))
    return ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["logits"]),
        in_keys=["logits", "slot_words", "op_words"],
        out_keys=["action"],
        distribution_class=FactoredCategorical,
        distribution_kwargs={"layout": env.layout},
        return_log_prob=True,
        spec=env.action_spec,
    )


def whole_actor_of(env: LifecycleEnv) -> ProbabilisticActor:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(53, 32), nn.Tanh(), nn.Linear(32, env.form.sizes[0]))
    return ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        out_keys=["action"],
        distribution_class=MaskedCategorical,
        return_log_prob=True,
        spec=env.action_spec,
    )


@pytest.mark.parametrize("action", FORMS)
@pytest.mark.parametrize("batch", [1, 5])
def test_the_checker_passes(action: Any, batch: int) -> None:
    check_env_specs(LifecycleEnv(batch, action=action, episode_length=3), break_when_any_done="both", seed=0)


def test_steps_are_those_of_the_environment() -> None:
    env, twin = (
        LifecycleEnv(6, episode_length=5),
        em.rollout.LifecycleEnv(em.ruleset("esper-2025-12"), 6, episode_length=5),
    )
    env.set_seed(4)
    twin.reset(seed=4)
    row = env.reset()
    assert torch.equal(row["observation"], twin.obs)
    for step in range(1, 12):
        masks = twin.masks()
        assert torch.equal(row["action_mask"], masks.joint())
        words = em.ActionMasks.from_words(env.layout, row["slot_words"], row["op_words"])
        assert torch.equal(words.slot_by_op, masks.slot_by_op)
        assert torch.equal(words.joint(), masks.joint())
        actions = em.FactoredCategorical(torch.zeros(6, 15), masks).sample()
        row["action"] = twin.engine.joint_actions.encode(actions)
        made, row = env.step_and_maybe_reset(row)
        obs, reward, terminated, _, info = twin.step(actions)
        following = made["next"]
        assert torch.equal(following["observation"], info["final_obs"] if step % 5 == 0 else obs)
        assert torch.equal(row["observation"], obs)
        assert torch.equal(following["reward"].squeeze(-1), reward)
        assert following["done"].squeeze(-1).tolist() == terminated.tolist() == [step % 5 == 0] * 6
    assert env.illegal_actions.tolist() == [0] * 6


def test_some_environments_begin_anew() -> None:
    env = TransformedEnv(LifecycleEnv(4), ActionMask())
    row = env.rollout(3)[:, -1]["next"]
    where, before = torch.tensor([[True], [False], [False], [True]]), env.base_env.lifecycles.state
    row = env.reset(row.exclude("reward").set("_reset", where))
    after = (
        env.base_env.lifecycles.state
    )  # TorchRL itself would keep what is seen, of environments that begin anew as well
    assert after.epoch.tolist() == [0, 3, 3, 0]
    assert torch.equal(after.states[1:3], before.states[1:3])
    fresh = env.reset()
    same = (row["observation"] == fresh["observation"]).all(-1)
    assert same.tolist() == [True, False, False, True]


def test_to_seed_it_changes_no_state() -> None:
    env, noise = TransformedEnv(whole(), ActionMask()), []
    row = env.rollout(6, break_when_any_done=False)[:, -1]["next"].exclude("reward")
    states = env.base_env.lifecycles.states
    for _ in range(2):
        env.set_seed(5)
        assert torch.equal(env.base_env.lifecycles.states, states)
        made = env.rand_step(row.clone())
        noise.append(env.base_env.lifecycles.state_dict()["generator"])
        assert made["action_mask"].gather(-1, made["action"].unsqueeze(-1)).all()
        states = env.base_env.lifecycles.states
        row = made["next"].exclude("reward")
    assert torch.equal(*noise)
    assert env.base_env.illegal_actions.sum() == 0


def test_memory_that_the_next_step_writes_over_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a CUDA graph."""
    env, twin = LifecycleEnv(8, seed=3), LifecycleEnv(8, seed=3)
    step, kept = env.lifecycles.step, []

    def overwriting(actions: torch.Tensor) -> Any:
        made = step(actions)
        kept.append([each.clone() for each in made[:4]] if not kept else kept[0])
        for place, each in zip(kept[0], made[:4]):
            place.copy_(each)
        return *kept[0], made[4]

    monkeypatch.setattr(env.lifecycles, "step", overwriting)
    monkeypatch.setattr(env.lifecycles, "mode", "cuda-graph")
    made = []
    for each in (env, twin):
        torch.manual_seed(0)
        made.append(TransformedEnv(each, ActionMask()).rollout(8))
    assert torch.equal(made[0]["next", "reward"], made[1]["next", "reward"])
    assert torch.equal(made[0]["next", "observation"], made[1]["next", "observation"])


def test_nothing_is_illegal_under_its_own_mask() -> None:
    env = TransformedEnv(whole(), ActionMask())
    data = env.rollout(60, break_when_any_done=False)
    assert data.shape == (16, 60)
    assert data["next", "done"].sum() == 2 * 16
    assert env.illegal_actions.sum() == 0
    columns = env.base_env.form.sizes[0]
    actor = ProbabilisticActor(
        TensorDictModule(nn.Linear(53, columns), ["observation"], ["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=TheirMaskedCategorical,
        return_log_prob=True,
    )
    collector = Collector(LifecycleEnv(16), actor, frames_per_batch=16 * 25, total_frames=16 * 50)
    assert [len(data) for data in collector] == [16, 16]
    assert collector.env.illegal_actions.sum() == 0
    collector.shutdown()


def test_the_distribution_is_the_librarys() -> None:
    env = factored()
    row = env.reset()
    words = {name: row[name] for name in ("slot_words", "op_words")}
    logits = torch.randn(16, 15)
    ours, theirs = (
        FactoredCategorical(logits, **words, layout=env.layout),
        em.FactoredCategorical(logits, env.lifecycles.masks()),
    )
    assert torch.equal(ours.entropy(), theirs.raw_entropy())  # nats, as a loss takes it for
    assert torch.equal(ours.normalized_entropy(), theirs.entropy())
    assert torch.equal(ours.deterministic_sample, theirs.mode)
    actions = theirs.sample()
    assert torch.equal(ours.log_prob(actions), theirs.log_prob(actions))
    actor = actor_of(env)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        made = actor(row)
    assert torch.equal(made["action"], actor.get_dist(row).mode)
    torch.testing.assert_close(made["action_log_prob"], actor.get_dist(row).log_prob(made["action"]))
    logits[3] = torch.nan
    with pytest.raises(em.InvalidStateMachineError, match="1 of 16 rows are faulty: row 3"):
        FactoredCategorical(logits, **words, layout=env.layout)
    faults = FactoredCategorical(logits, **words, layout=env.layout, validate="flag").faults
    assert faults.nonzero().flatten().tolist() == [3]
    with pytest.raises(ValueError, match="slot_words"):
        FactoredCategorical(logits, words["slot_words"][:, :2], words["op_words"], env.layout)


def nats(env: LifecycleEnv, row: Any, logits: Tensor) -> list[float]:
    """Entropy of each row by the oracle, from a batch of the environment."""
    masks = em.ActionMasks.from_words(env.layout, row["slot_words"], row["op_words"])
    if not env.form.row:
        rows = zip(logits.double().tolist(), row["action_mask"].tolist(), strict=True)
        return [reference.raw_entropy(reference.probabilities(*each)) for each in rows]
    bools, found = as_bools(masks), []
    for at in range(len(row)):
        each = {name: mask[at].tolist() for name, mask in bools.items() if name != "joint"}
        heads = dict(zip(env.layout.head_names, logits[at].double().split(list(env.form.sizes))))
        given = {name: head.tolist() for name, head in heads.items()}
        found.append(reference.Joint(env.lifecycles.engine.rules, each, given).raw_entropy())
    return found


def varied(env: LifecycleEnv) -> Any:
    """One row of each environment, after some steps of its own."""
    actor = actor_of(env) if env.form.row else whole_actor_of(env)
    return env.rollout(9, actor).reshape(-1)[:: env.batch_size[0] // 2]


def both(env: LifecycleEnv, row: Any, logits: Tensor) -> tuple[Any, Any]:
    """The distribution for the library, and that of the package."""
    if not env.form.row:
        return MaskedCategorical(logits, row["action_mask"]), em.MaskedCategorical(logits, row["action_mask"])
    words = row["slot_words"], row["op_words"]
    masks = em.ActionMasks.from_words(env.layout, *words)
    return FactoredCategorical(logits, *words, env.layout), em.FactoredCategorical(logits, masks)


@pytest.mark.parametrize("make", [factored, whole])
def test_entropy_is_in_nats_and_stays_so(make: Any) -> None:
    env = make()
    row = varied(env)
    logits = torch.randn(len(row), sum(env.form.sizes), dtype=torch.float64)
    wanted = torch.tensor(nats(env, row, logits), dtype=torch.float64)
    assert wanted.max() > 2  # which no normalized one is
    ours, plain = both(env, row, logits)
    torch.testing.assert_close(ours.entropy(), wanted)
    torch.testing.assert_close(ours.normalized_entropy(), plain.entropy())
    torch.testing.assert_close(ours.expand((2, len(row))).entropy(), wanted.expand(2, -1))
    torch.testing.assert_close(ours[2:5].entropy(), wanted[2:5])
    torch.testing.assert_close(ours[2:5].normalized_entropy(), plain.entropy()[2:5])
    others = both(env, row, logits.flip(0))
    assert torch.equal(kl_divergence(ours, others[0]), kl_divergence(plain, others[1]))
    assert torch.equal(kl_divergence(plain, others[0]), kl_divergence(plain, others[1]))


@pytest.mark.parametrize("make", [factored, whole])
def test_the_librarys_loss_takes_entropy_in_nats(make: Any) -> None:
    env = make()
    actor = actor_of(env) if env.form.row else whole_actor_of(env)
    critic = ValueOperator(nn.Linear(53, 1), in_keys=["observation"])
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*deterministic_sample.*")
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            assert torch.equal(actor(env.reset())["action"], actor.get_dist(env.reset()).mode)
    with torch.no_grad():
        rows = env.rollout(20, actor)
        GAE(gamma=1.0, lmbda=0.95, value_network=critic)(rows)
    assert env.illegal_actions.sum() == 0
    rows = rows.reshape(-1)
    made = loss(rows)
    wanted = sum(nats(env, rows, rows["logits"].detach())) / len(rows)
    assert wanted > 1
    assert made["entropy"].item() == pytest.approx(wanted, rel=1e-5)
    assert made["loss_entropy"].item() == pytest.approx(-0.5 * wanted, rel=1e-5)
    assert abs(float(made["kl_approx"])) < 1e-6  # scored as it was drawn


def test_it_learns_by_the_librarys_loss_and_nothing_is_illegal() -> None:
    env = LifecycleEnv(64, action="factored")
    actor = actor_of(env)
    critic = ValueOperator(nn.Sequential(nn.Linear(53, 32), nn.Tanh(), nn.Linear(32, 1)), in_keys=["observation"])
    loss, gae = ClipPPOLoss(actor, critic, entropy_coeff=0.01), GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), 5e-3)
    collector = Collector(env, actor, frames_per_batch=64 * 25, total_frames=64 * 25 * 12)
    returns = []
    for number, data in enumerate(collector):
        returns.append(float(data["next", "reward"].sum(1).mean()))
        with torch.no_grad():
            gae(data)
        rows = data.reshape(-1)
        for epoch in range(2):
            for index in torch.randperm(len(rows)).chunk(8):
                made = loss(rows[index])
                if number == epoch == 0 and optimizer.state == {}:
                    assert abs(float(made["kl_approx"])) < 1e-6  # scored as it was drawn
                total = made["loss_objective"] + made["loss_critic"] + made["loss_entropy"]
                optimizer.zero_grad()
                total.backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
    collector.shutdown()
    assert returns[-1] > returns[0] + 1.5
    assert env.illegal_actions.sum() == 0


def test_the_share_of_illegal_pairs() -> None:
    """Heads that are drawn by themselves, as the library's own sampler does, whatever their masks are."""
    env = TransformedEnv(factored(), ActionMask())
    env.rollout(25)
    share = float(env.illegal_actions.sum()) / (16 * 25)
    print(f"torchrl: {share:.1%} of factored actions illegal by its own sampler")
    assert 0.1 < share < 0.6


def test_two_processes_collect() -> None:
    env = factored()
    actor = actor_of(env)
    collector = MultiSyncCollector([factored, factored], actor, frames_per_batch=2 * 16 * 25, total_frames=2 * 16 * 50)
    batches = list(collector)
    collector.shutdown()
    assert len(batches) == 2
    for data in batches:
        one, other = data["observation"].view(2, -1).unbind()
        assert not torch.equal(one, other)  # noise of its own in each
        rows = data.reshape(-1)
        assert len(rows) == 2 * 16 * 25
        words = em.ActionMasks.from_words(env.layout, rows["slot_words"], rows["op_words"])
        assert em.FactoredCategorical(torch.zeros(len(rows), 15), words).legal(rows["action"]).all()


def test_environments_in_parallel_processes() -> None:
    env = TransformedEnv(ParallelEnv(2, whole), ActionMask())  # masks are of this process, where actions are drawn
    try:
        data = env.rollout(30, break_when_any_done=False)
        assert data.shape == (2, 16, 30)
        assert data["action_mask"].gather(-1, data["action"].unsqueeze(-1)).all()
    finally:
        env.close()


def test_workers_of_ray_collect() -> None:
    pytest.importorskip("ray", reason="ray is large; TorchRL's way past one machine is tested where it is installed")
    from torchrl.collectors.distributed import RayCollector

    env = factored()
    collector = RayCollector([factored, factored], actor_of(env), frames_per_batch=16 * 25, total_frames=16 * 100)
    try:
        for data in collector:
            rows = data.reshape(-1)
            words = em.ActionMasks.from_words(env.layout, rows["slot_words"], rows["op_words"])
            assert em.FactoredCategorical(torch.zeros(len(rows), 15), words).legal(rows["action"]).all()
    finally:
        collector.shutdown()


@pytest.mark.parametrize("frame_skip", [1, 2])
def test_the_library_makes_an_environment_by_its_name(frame_skip: int) -> None:
    """By trying arguments, and leaving out those that are refused in Python's words."""
    env = GymEnv(
        "esper_masks.interop.gymnasium:esper/Lifecycle-v0",
        categorical_action_encoding=True,
        frame_skip=frame_skip,
        episode_length=10,
    )
    env = TransformedEnv(env.auto_register_info_dict(), ActionMask())
    before = env.base_env._env.unwrapped.vector.illegal_actions[0]  # of a rollout of the library's own, without masks
    data = env.rollout(25, break_when_any_done=False)
    assert data["next", "done"].sum() == 25 * frame_skip // 10
    assert data["action_mask"].gather(-1, data["action"].unsqueeze(-1)).all()
    if frame_skip == 1:  # a repeated action need not be legal the second time
        assert (data["next", "illegal_actions"] == before).all()


@pytest.mark.parametrize("settings", [{"max_seed": 3}, {"max_seed": 3, "frame_skip": 2}])
def test_the_library_passes_on_what_is_misspelt(settings: Any) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'max_seed' \(did you mean max_seeds\?\)"):
        GymEnv("esper_masks.interop.gymnasium:esper/Lifecycle-v0", **settings)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_the_library_wraps_a_vector_environment(mode: str) -> None:
    from esper_masks.interop.gymnasium import LifecycleVectorEnv

    vector = LifecycleVectorEnv(3, episode_length=10, autoreset_mode=mode)
    wrapped = GymWrapper(vector, categorical_action_encoding=True)
    if mode == "Disabled":  # else the library looks for masks by itself
        wrapped = wrapped.auto_register_info_dict()
    check_env_specs(wrapped, seed=0)
    env = TransformedEnv(wrapped, ActionMask())
    before = torch.as_tensor(vector.illegal_actions)  # of rollouts of the library's own, without masks
    data = env.rollout(25, break_when_any_done=False)
    ends = data["next", "done"].squeeze(-1)
    assert data.shape == (3, 25)
    assert ends.nonzero()[:, 1].tolist() == [9, 19] * 3
    assert data["action_mask"].gather(-1, data["action"].unsqueeze(-1)).all()
    assert torch.equal(torch.as_tensor(vector.illegal_actions), before)
    assert data["next", "action_mask"].any(-1).all()  # at an end, too
    fresh = torch.as_tensor(LifecycleVectorEnv(1).reset(seed=0)[0])
    assert (data["observation"][:, [0, 10, 20]] == fresh).all()
    assert (data["next", "observation"][ends] != fresh).any(-1).all()  # the last of the old one


def test_what_does_not_fit_is_named() -> None:
    env = LifecycleEnv(4)
    row = env.reset()
    with pytest.raises(ValueError, match=r"actions have shape \(4, 4\); wanted \(4,\), the joint form"):
        env.step(row.clone().set("action", torch.zeros(4, 4, dtype=torch.int64)))
    with pytest.raises(ValueError, match="actions must be an integer tensor, got torch"):
        env.step(row.clone().set("action", torch.zeros(4)))
    assert env.to("cpu") is env
    with pytest.raises(RuntimeError, match="is on cpu and stays there; make it with device='meta'"):
        env.to("meta")
    with pytest.raises(ValueError, match="action='pair' is not one of"):
        LifecycleEnv(4, action="pair")  # type: ignore[arg-type]
