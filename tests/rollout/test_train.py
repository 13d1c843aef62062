"""A training: it goes on to the last bit, and ends where a signal says so."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from esper_masks.rollout.training import checkpoint
from esper_masks.rollout.training.processes import Processes
from esper_masks.rollout.training.train import SIGNALS, Stopping, train
from tests.rollout.begun import SMALL, begin, nothing


@pytest.mark.parametrize(
    ("policy", "compile"), [("mlp", False), ("lstm", False), pytest.param("mlp", True, marks=pytest.mark.slow)]
)
def test_a_training_goes_on_to_the_last_bit(tmp_path: Path, policy: str, compile: bool) -> None:
    whole = begin(policy=policy, compile=compile)
    path = train(whole, 16 * 10 * 3, SMALL.to_dict(), tmp_path / "part", report=nothing)
    train(whole, 16 * 10 * 6, SMALL.to_dict(), tmp_path / "whole", report=nothing)
    torch.rand(7)  # something else draws in between
    other = begin(policy=policy, compile=compile, seed=9)
    checkpoint.restore(other, checkpoint.load(path))
    train(other, 16 * 10 * 6, SMALL.to_dict(), tmp_path / "part", report=nothing)
    for mine, its in zip(other.policy.parameters(), whole.policy.parameters()):
        assert torch.equal(mine, its)
    assert other.env_steps == whole.env_steps == 960
    assert torch.equal(other.env.states, whole.env.states)
    assert torch.equal(other.state.obs, whole.state.obs)
    assert torch.equal(other.obs_moments.square, whole.obs_moments.square)
    assert other.learning_rate == whole.learning_rate == pytest.approx(2e-4)  # beyond the horizon


def test_what_was_learned_goes_on_in_any_number_of_environments(tmp_path: Path) -> None:
    begun = begin(policy="lstm")
    path = train(begun, 16 * 10 * 3, SMALL.to_dict(), tmp_path, report=nothing)
    content = checkpoint.load(path)
    other = begin(policy="lstm", envs=5, seed=9)
    weights, states = [p.clone() for p in other.policy.parameters()], other.env.states.clone()
    wrong = r"the state is of 16 environments, and there are 5 here: make as many, or load it with environments=False"
    with pytest.raises(ValueError, match=wrong):
        other.load_state_dict(content["training"])
    with pytest.raises(checkpoint.CheckpointError, match="does not fit: " + wrong):
        checkpoint.restore(other, content)
    assert all(torch.equal(p, before) for p, before in zip(other.policy.parameters(), weights))  # nothing was changed
    drawn = torch.get_rng_state()
    checkpoint.restore(other, content, environments=False)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(other.env.states, states)
    assert all(torch.equal(p, its) for p, its in zip(other.policy.parameters(), begun.policy.parameters()))
    for mine, its in ((other.obs_moments, begun.obs_moments), (other.return_moments, begun.return_moments)):
        assert torch.equal(mine.mean, its.mean)
        assert torch.equal(mine.square, its.square)
    mine, its = (one.optimizer.state_dict()["state"] for one in (other, begun))
    assert all(torch.equal(mine[at]["exp_avg"], its[at]["exp_avg"]) for at in its)
    assert other.env_steps == 480
    assert other.iterate()["learning_rate"] == other.learning_rate < begun.learning_rate
    assert other.env_steps == 480 + 5 * 10


def test_a_seed_is_of_its_own_for_actions_and_environment() -> None:
    one, again, other = (begin(seed=seed).env.state_dict()["generator"] for seed in (3, 3, 4))
    actions = torch.Generator().manual_seed(torch.initial_seed()).get_state()
    assert torch.equal(one, again)
    assert torch.equal(other, torch.Generator().manual_seed(Processes().seed(4, "environment")).get_state())
    assert not torch.equal(one, other)
    assert not torch.equal(other, actions)


@pytest.mark.parametrize("within_a_write", [False, True])
def test_a_second_signal_quits_and_loses_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within_a_write: bool
) -> None:
    ppo, fsync, told = begin(), os.fsync, [0]

    def interrupt(*given: Any) -> None:
        told.append(len(told))
        os.kill(os.getpid(), signal.SIGINT)
        if not within_a_write:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted(descriptor: int) -> None:
        if len(told) > 1:
            os.kill(os.getpid(), signal.SIGINT)
        fsync(descriptor)

    if within_a_write:
        monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(ppo, 100_000, SMALL.to_dict(), tmp_path, report=interrupt)
    assert ppo.env_steps == 160
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000000000.pt"]
    assert checkpoint.load(tmp_path)["env_steps"] == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_may_be_another_one() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGINT)
        assert [signal.getsignal(number) for number in SIGNALS] == before
    assert stopping.caught == signal.SIGINT


def test_what_is_ignored_is_still_ignored() -> None:
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.caught == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_training_that_reaches_its_end_was_not_interrupted(tmp_path: Path) -> None:
    stopping = Stopping()
    late = lambda figures: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    train(begin(), 160, SMALL.to_dict(), tmp_path, report=late, stopping=stopping)
    assert (stopping.caught, stopping.number) == (signal.SIGINT, 0)
