"""Tasks: their splits, how they are made, and what a machine without their packages says."""

import random
import sys

import numpy as np
import pytest
import torch

from esper_masks.rollout import Task
from esper_masks.rollout.networks import tasks as module
from esper_masks.rollout.networks.tasks import SPLITS, contrast, digits, find_tasks, mnist1d, spirals
from tests.rollout.networks.worlds import dots


def test_tasks_of_the_mixture_have_inputs_and_splits_of_one_size() -> None:
    pytest.importorskip("sklearn")
    tasks = find_tasks("mixture")
    assert [task.name for task in tasks] == ["digits", "contrast", "spirals"]
    for task in tasks:
        assert task.shape == (16,)
        assert task.sizes == (1078, 359, 360)
        assert task.classes == (3 if task.name == "spirals" else 10)
        assert sum(len(task.of(split)[1]) for split in SPLITS) == 1797
        for split, size in zip(SPLITS, task.sizes):
            counts = task.of(split)[1].bincount()
            assert (counts - task.labels.bincount() * size / 1797).abs().max() < 1.01  # stratified
        assert task.inputs.isfinite().all()


def test_no_sample_is_in_two_splits() -> None:
    pytest.importorskip("sklearn")
    for task in (digits(), spirals()):
        assert len(task.inputs.unique(dim=0)) > 1790  # a few images repeat in the data
        parts = [set(map(tuple, task.of(split)[0].tolist())) for split in SPLITS]
        if task.name == "spirals":  # drawn from generators of their own: no place is that of another with another blur
            first, second, third = (task.of(split)[0][:300, :2].norm(dim=1) for split in SPLITS)
            for one, other in ((first, second), (first, third), (second, third)):
                assert float((one - other).abs().mean()) > 0.8 * float((one - other.flip(0)).abs().mean())
        assert len(parts[0] & parts[1]) + len(parts[0] & parts[2]) + len(parts[1] & parts[2]) < 3


def test_components_are_fitted_on_the_training_split() -> None:
    """Centred and uncorrelated there, and not in all samples."""
    pytest.importorskip("sklearn")
    training, _ = digits().of("training")
    torch.testing.assert_close(training.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    products = training.double().T.cov()
    torch.testing.assert_close(products, products.diagonal().diag(), atol=1e-4, rtol=0)
    assert products.diagonal().diff().le(0).all()
    assert float(digits().inputs.mean(0).abs().max()) > 1e-3


def test_contrast_is_a_factor_of_each_image() -> None:
    pytest.importorskip("sklearn")
    factors = contrast().inputs / digits().inputs
    torch.testing.assert_close(factors, factors[:, :1].expand(-1, 16), rtol=1e-3, atol=1e-4)
    assert float(factors[:, 0].log().std()) == pytest.approx(module.SPREAD, rel=0.1)
    assert torch.equal(contrast().labels, digits().labels)


def test_mnist1d_is_made_and_leaves_all_generators_alone() -> None:
    pytest.importorskip("mnist1d")
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    wanted = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    task = mnist1d.__wrapped__()
    assert (random.random(), np.random.rand(), torch.rand(1)) == wanted
    assert task.shape == (1, 40)
    assert task.sizes == (3000, 1000, 1000)
    assert task.classes == 10
    assert task.of("validation")[1].bincount().float().std() < 15
    [flat] = find_tasks("mnist1d-flat")
    assert torch.equal(flat.inputs, task.inputs.flatten(1))


@pytest.mark.parametrize(("name", "package", "make"), [("digits", "sklearn", digits), ("mnist1d", "mnist1d", mnist1d)])
def test_a_task_that_is_not_installed_names_the_extra(monkeypatch, name, package, make) -> None:
    for module_name in [loaded for loaded in sys.modules if loaded.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module_name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"rollout.networks needs {package}: pip install 'esper-masks\[networks\]'"):
        make.__wrapped__()


def test_tasks_of_one_s_own() -> None:
    with pytest.raises(
        ValueError, match=r"the task 'b' has inputs \(6,\) and splits of \(60, 20, 26\), 'a' \(6,\) and"
    ):
        find_tasks([dots("a"), dots("b", sizes=(60, 20, 26))])
    inputs, labels = torch.zeros(6, 2), torch.zeros(6, dtype=torch.int64)
    for wrong, reason in (
        ((inputs.double(), labels, (3, 2, 1)), "inputs of the task 'own': torch.float64"),
        ((inputs, labels[:5], (3, 2, 1)), r"labels of the task 'own': torch.int64 \(5,\); wanted torch.int64 of 6"),
        ((inputs, labels, (3, 3, 0)), "no empty split"),
        ((inputs[:, 0], labels, (3, 2, 1)), r"has inputs \(6,\)"),
    ):
        with pytest.raises(ValueError, match=reason):
            Task("own", *wrong)
