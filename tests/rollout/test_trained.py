"""A policy after its training: what it decides, for any number of environments, and how good it is."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import esper_masks as em
from esper_masks.cli.entry import main
from esper_masks.rollout import CalibratedDynamics, Calibration, LifecycleEnv, PPOConfig, TrainedPolicy, load_policy
from esper_masks.rollout.env.baselines import BASELINES
from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.train import TrainSettings, build
from esper_masks.rollout.training.trained import learned, returns_of

RULES = em.ruleset("esper-2025-12")


@pytest.fixture(scope="module", params=["mlp", "lstm"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a short training of 16 environments with a seed limit."""
    settings = TrainSettings(envs=16, width=8, policy=kind, max_seeds=5, seed=3)
    ppo = build(RULES, settings, PPOConfig(steps=10))
    for _ in range(3):
        ppo.iterate()
    place = tmp_path_factory.mktemp(kind)
    checkpoint.save(ppo, {"rules": RULES.name, **settings.to_dict()}, place)
    return place


def changed(folder: Path, to: Path, **parts: Any) -> Path:
    """A checkpoint with other contents."""
    content = checkpoint.read_any(folder)
    torch.save({**content, **parts}, to)
    return to


@pytest.mark.parametrize("envs", [1, 16, 37])
def test_it_decides_by_what_was_learned(folder: Path, kind: str, envs: int) -> None:
    """Against the numbers in the file: (obs - mean) / spread, the layers one after another, in double precision."""
    policy = load_policy(folder)
    assert (policy.env_steps, policy.settings["policy"], policy.engine.max_seeds) == (480, kind, 5)
    env, torch_noise = policy.env(envs, seed=4), torch.Generator().manual_seed(1)
    training = checkpoint.read_any(folder)["training"]
    weights = {name: value.double() for name, value in training["policy"].items() if "extra" not in name}
    seen = training["obs_moments"]
    variance = seen["square"] / seen["count"]
    spread = torch.where(variance > 1e-8, variance, 1.0).sqrt()
    hidden = None
    state = torch.zeros(envs, 8, dtype=torch.float64), torch.zeros(envs, 8, dtype=torch.float64)
    for _ in range(30):  # an episode ends on the way
        x = ((env.obs.double() - seen["mean"]) / spread).clamp(-10, 10)
        x = (x @ weights["features.0.weight"].T + weights["features.0.bias"]).tanh()
        if kind == "mlp":
            x = (x @ weights["features.2.weight"].T + weights["features.2.bias"]).tanh()
        else:
            if bool((env.state.epoch == 0).all()):
                state = torch.zeros_like(state[0]), torch.zeros_like(state[1])
            gates = x @ weights["cell.weight_ih"].T + weights["cell.bias_ih"]
            gates = gates + state[0] @ weights["cell.weight_hh"].T + weights["cell.bias_hh"]
            enters, forgets, cell, leaves = gates.chunk(4, -1)
            kept = forgets.sigmoid() * state[1] + enters.sigmoid() * cell.tanh()
            state = leaves.sigmoid() * kept.tanh(), kept
            x = state[0]
        made = x @ weights["output.weight"].T + weights["output.bias"]
        noise = torch.rand(envs, 4, generator=torch_noise)
        starts = env.state.epoch == 0
        logits, values, _ = policy(env.obs, hidden, starts)
        torch.testing.assert_close(torch.cat([logits, values[:, None]], -1).double(), made, rtol=1e-4, atol=1e-5)
        acted = policy.act(env.obs, env.states, env.total_seeds, hidden=hidden, starts=starts, noise=noise)
        there = policy.act_in(env, hidden, noise)
        expected = em.FactoredCategorical(logits.detach(), env.masks())
        assert torch.equal(acted.decision.actions, expected.sample(noise=noise))
        assert torch.equal(there.decision.actions, acted.decision.actions)
        hidden = acted.hidden
        env.step(acted.decision.actions)
    assert env.illegal_actions.sum() == 0
    assert (hidden is None) == (kind == "mlp")


def test_it_disturbs_nobodys_noise(folder: Path) -> None:
    before = torch.get_rng_state()
    load_policy(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_part_of_several_is_enough(folder: Path, tmp_path: Path) -> None:
    """Each process has the whole policy."""
    part = changed(folder, tmp_path / "checkpoint-000000000480-1-of-2.pt", processes=2)
    assert load_policy(part).env_steps == 480
    with pytest.raises(checkpoint.CheckpointError, match="one of 2 parts, of as many processes; the others are not"):
        checkpoint.load(part)


def test_rules_in_code_are_given(folder: Path, tmp_path: Path) -> None:
    settings = {**checkpoint.read_any(folder)["settings"], "rules": "mine:RULES"}
    path = changed(folder, tmp_path / "mine.pt", settings=settings)
    with pytest.raises(checkpoint.CheckpointError, match=r"'mine:RULES': give rules, too \(rules=, or --rules\)"):
        load_policy(path)
    assert load_policy(path, rules=RULES).engine.rules == RULES
    with pytest.raises(checkpoint.CheckpointError, match="of other rules than esper-2025-11"):
        load_policy(path, rules=em.ruleset("esper-2025-11"))


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    content = checkpoint.read_any(folder)
    settings = content["settings"]
    for given, reason in (
        ({"settings": {"rules": RULES.name, "nonsense": 1}}, "its settings are not those of esper-masks train"),
        ({"settings": {}}, "do not ship with the package, None"),
        ({"settings": {**settings, "max_seeds": 6}}, "of an environment that its settings do not describe"),
        (
            {"settings": {**settings, "max_seeds": -1}},
            r"odd.pt: no environment can be made .* max_seeds must be an int",
        ),
        ({"settings": {**settings, "calibration": "{}"}}, r"odd.pt: no environment can be made by its settings: "),
        ({"settings": {**settings, "width": 9}}, "does not fit: Error.* in loading state_dict"),
    ):
        with pytest.raises(checkpoint.CheckpointError, match=reason):
            load_policy(changed(folder, tmp_path / "odd.pt", **given))
    calibrated = {**settings, "calibration": Calibration.default().to_json()}
    path = changed(folder, tmp_path / "calibrated.pt", settings=calibrated)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"calibrated.pt: no environment .* dynamics= together with cal"
    ):
        load_policy(path, dynamics=CalibratedDynamics)
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint in this folder"):
        load_policy(tmp_path)
    policy = load_policy(folder)
    with pytest.raises(ValueError, match=r"obs have shape \(4, 52\); the policy was trained on \[\.\.\., 53\]"):
        policy(torch.zeros(4, 52))
    for env, reason in (
        (LifecycleEnv(RULES, 4), "max_seeds of the environments: 0; the policy was trained with 5"),
        (LifecycleEnv(RULES, 4, ["a"], max_seeds=5), "slots of the environments: 1; the policy was trained with 3"),
        (LifecycleEnv(RULES, 4, max_seeds=5, episode_length=9), "episode_length of the environments: 9;"),
        (LifecycleEnv(em.ruleset("esper-2025-11"), 4, max_seeds=5), "rules of the environments"),
    ):
        with pytest.raises(ValueError, match=reason):
            policy.act_in(env)
    policy.act_in(LifecycleEnv(RULES, 4, ["a", "b", "c"], max_seeds=5))  # names of slots mean nothing to it


def test_the_learner_is_the_policy_of_its_checkpoint(tmp_path: Path) -> None:
    ppo = build(RULES, TrainSettings(envs=16, width=8, policy="lstm"), PPOConfig(steps=10))
    ppo.iterate()
    policy = TrainedPolicy(ppo.policy, ppo.obs_moments, ppo.env)
    results = []
    for one in (ppo, policy):
        torch.manual_seed(5)
        results.append(returns_of(learned(one), ppo.env, 6, 100))
    assert results[0] == results[1]
    assert results[0][1] > 0


# -- the command ------------------------------------------------------------------------------------------------------


def test_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [(path,)] = checkpoint.found(folder)
    before = path.read_bytes()
    assert main(["evaluate", str(folder), "--episodes", "300", "--seed", "7", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    policy = load_policy(path)
    torch.manual_seed(7)
    players = {"learned": learned(policy), **BASELINES}
    expected = {name: returns_of(play, policy.task, 7, 300) for name, play in players.items()}
    assert summary == {
        "checkpoint": str(folder),
        "env_steps": 480,
        "episodes": 300,
        "return_mean": expected["learned"][0],
        "baselines": {name: expected[name][0] for name in BASELINES},
        "standard_errors": {name: error for name, (_, error, _) in expected.items()},
        "illegal_actions": 0,
    }
    assert main(["evaluate", str(path), "--episodes", "300", "--seed", "7"]) == 0
    out = capsys.readouterr().out
    assert f"{expected['learned'][0]:.2f} ± {expected['learned'][1]:.2f}" in out
    assert "300 episodes each, after 480 environment steps of training\n0 actions were illegal\n" in out
    assert path.read_bytes() == before
    assert list(folder.iterdir()) == [path]


def test_evaluate_says_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**checkpoint.read_any(folder)["settings"], "rules": "esper_mine:RULES"}
    mine = str(changed(folder, tmp_path / "mine.pt", settings=settings))
    (tmp_path / "esper_mine.py").write_text(
        "import esper_masks\nopen('was-run', 'w')\nRULES = esper_masks.ruleset('esper-2025-12')\n", encoding="utf-8"
    )
    (tmp_path / "cut.pt").write_bytes(Path(mine).read_bytes()[:999])
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    for arguments, reason in (
        (
            [mine],
            "of rules that do not ship with the package, 'esper_mine:RULES': give rules, too (rules=, or --rules)",
        ),
        (["cut.pt"], "damaged"),
        (["none"], "none: No such file or directory"),
        ([str(folder), "--rules", "esper-2025-11"], "of other rules than esper-2025-11"),
        ([str(folder), "--episodes", "1"], "--episodes 1: a standard error needs at least 2"),
        ([str(folder), "--seed", str(1 << 70)], "verflow"),
        ([str(folder), "--device", "nonsense"], "device"),
        *([([str(folder), "--device", "cuda"], "no CUDA device")] if not torch.cuda.is_available() else []),
    ):
        assert main(["evaluate", "--threads", "3", *arguments]) == 2, arguments
        err = capsys.readouterr().err
        assert reason in err, err
        assert err.startswith("esper-masks evaluate: ")
        assert len(err.splitlines()) == 1
    assert not Path("was-run").exists()
    assert main(["evaluate", mine, "--rules", "esper_mine:RULES", "--episodes", "9", "--json"]) == 0
    assert Path("was-run").exists()
    assert torch.get_num_threads() == threads
    sys.modules.pop("esper_mine")
