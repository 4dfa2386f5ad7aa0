"""A run that goes on with other devices than it began with."""

import jax
import numpy as np
import pytest
import toy
import training

from xtc_jax.compress import DistillSpec, layer_map
from xtc_jax.parallel import make_mesh
from xtc_jax.train import Objective, OptimizerSpec, Run, Upkeep, loop, train
from xtc_jax.train.metrics import read_metrics

SHAPE, STEPS = toy.shape(1), 30


class KilledError(Exception):
    pass


def run(directory, mesh, devices, evaluations, monkeypatch):
    """Train on so many devices, until the evaluation of that number has been saved."""
    directory.mkdir(exist_ok=True)
    counted = iter([loop.evaluate] * evaluations)

    def evaluate(*arguments):
        try:
            return next(counted)(*arguments)
        except StopIteration:
            raise KilledError from None

    work = Run(
        label="toy",
        objective=Objective(SHAPE, None, None, layer_map((), 1), DistillSpec()),
        optimizer=OptimizerSpec(2e-3, STEPS, 5),
        train_set=training.one_shape(),
        eval_sets={"validation": training.one_shape()},
        task=toy.SENTIMENT,
        directory=directory,
        seed=3,
        eval_every=10,
        upkeep=Upkeep(save_minutes=0, log_every=5),
        mesh=mesh,
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", evaluate)
        patch.setattr(loop, "make_mesh", lambda shape: make_mesh(shape, jax.devices()[:devices]))
        return train(work, toy.params(SHAPE, seed=2), None)


@pytest.mark.slow
@pytest.mark.parametrize("last", [(1, 4, 1), (1, 1, 4)], ids=["fsdp", "tensor"])
def test_four_devices_then_two_then_four_train_as_four(tmp_path, monkeypatch, last):
    """The state is split in two, two and four: what is read lies elsewhere than what was written."""
    expected = run(tmp_path / "whole", (4, 1, 1), 4, 3, monkeypatch)
    for mesh, devices in (((2, 2, 1), 4), ((1, 2, 1), 2)):
        with pytest.raises(KilledError):
            run(tmp_path / "moved", mesh, devices, 1, monkeypatch)
    result = run(tmp_path / "moved", last, 4, 1, monkeypatch)
    records = [[r for r in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in r] for name in ("moved", "whole")]
    assert [record["step"] for record in records[0]] == [5, 10, 15, 20, 25, 30]
    np.testing.assert_allclose([r["loss"] for r in records[0]], [r["loss"] for r in records[1]], rtol=2e-6)
    assert result.metrics == expected.metrics
