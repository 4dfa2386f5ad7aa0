import json
import os
import resource
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.errors import UserError
from xtc_jax.parallel import make_mesh, put_replicated
from xtc_jax.train import OptimizerSpec, init_state, make_optimizer
from xtc_jax.train.checkpoints import Best, Progress, open_checkpoints
from xtc_jax.train.seals import SEAL, damage
from xtc_jax.train.state import TrainState

IDENTITY = {"seed": 3, "config": {"model": "toy", "bits": 1}}


def state_at(step: int) -> TrainState:
    """A state whose every array tells its step."""
    state = init_state({"w": jnp.full(1000, float(step))}, make_optimizer(OptimizerSpec(0.1, 9, 0)), jax.random.key(step))
    return put_replicated(TrainState(jnp.asarray(step, jnp.int32), state.params, state.opt_state, state.key), make_mesh())


def best_at(step: int) -> Best:
    return Best(step, {"accuracy": step / 8}, state_at(step).params)


def open_here(directory, notes=None, keep=2, minutes=0.0, identity=IDENTITY):
    return open_checkpoints(directory, identity, keep, minutes, (notes if notes is not None else []).append)


def saved(directory, *steps, best=None, **options):
    with open_here(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(Progress(state_at(step), best, 10.0 * step))


def restored(directory, **options):
    with open_here(directory, **options) as checkpoints:
        return checkpoints.restore(state_at(0))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_an_empty_directory_has_nothing_to_restore(tmp_path):
    assert restored(tmp_path / "new") is None


def test_the_newest_comes_back_whole_to_the_bit_and_in_place(tmp_path):
    saved(tmp_path, 1, 2)
    progress, expected = restored(tmp_path), state_at(2)
    assert int(progress.state.step) == 2
    assert (progress.best, progress.seconds) == (None, 20.0)
    assert jax.random.key_data(progress.state.key).tolist() == jax.random.key_data(expected.key).tolist()
    jax.tree.map(np.testing.assert_array_equal, progress.state.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, progress.state.opt_state, expected.opt_state)
    assert progress.state.params["w"].sharding == expected.params["w"].sharding


def test_it_is_placed_as_the_given_state_is_on_other_devices_than_it_was_saved_from(tmp_path):
    saved(tmp_path, 1)
    two = put_replicated(state_at(0), make_mesh(devices=jax.devices()[:2]))
    with open_here(tmp_path) as checkpoints:
        state = checkpoints.restore(two).state
    assert state.params["w"].sharding == two.params["w"].sharding
    np.testing.assert_array_equal(state.params["w"], state_at(1).params["w"])


@pytest.mark.parametrize("best", [1, 2])
def test_the_best_parameters_come_back_from_any_checkpoint_once_stored_if_they_are_the_states_own(tmp_path, best):
    saved(tmp_path, 2, best=best_at(best))
    assert (tmp_path / "2" / "best").exists() == (best == 1)
    progress = restored(tmp_path)
    assert (progress.best.step, progress.best.metrics) == (best, {"accuracy": best / 8})
    np.testing.assert_array_equal(progress.best.params["w"], state_at(best).params["w"])


@pytest.mark.parametrize("keep", [2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    saved(tmp_path, 1, 2, 3, 4, keep=keep)
    assert names(tmp_path) == ["2", "3", "4"][-keep:]


def test_a_save_is_due_when_so_many_minutes_have_passed_since_the_last(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("xtc_jax.train.checkpoints.time.monotonic", lambda: now[0])
    with open_here(tmp_path, minutes=2.0) as checkpoints:
        seen = []
        for now[0] in (100.0, 219.0, 220.0):
            seen.append(checkpoints.due())
        checkpoints.save(Progress(state_at(1)))
        for now[0] in (230.0, 341.0):
            seen.append(checkpoints.due())
    assert seen == [False, False, True, False, True]


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path):
    saved(tmp_path, 1)
    with pytest.raises(UserError, match=r"1 was made by another run \(config.bits: 1 then, 2 now\); use another --workdir"):
        restored(tmp_path, identity={"seed": 3, "config": {"model": "toy", "bits": 2}})


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


DAMAGES = {"truncated": cut, "missing": lambda path: path.unlink(), "flipped": flip}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_to_any_file_is_recognised_and_the_file_named(tmp_path, how):
    saved(tmp_path, 1)
    files = [path for path in (tmp_path / "1").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 8
    assert damage(tmp_path / "1") == ""
    for path in files:
        before = path.read_bytes()
        DAMAGES[how](path)
        if path.name == SEAL:
            assert how == "missing" or damage(tmp_path / "1") != ""
        else:
            problem = "is missing" if how == "missing" else "has changed since it was written"
            assert damage(tmp_path / "1") == f"{path.relative_to(tmp_path / '1')} {problem}"
        path.write_bytes(before)
    (tmp_path / "1" / "more").touch()
    assert damage(tmp_path / "1") == f"more is not in {SEAL}"


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_put_aside_and_the_one_before_it_used(tmp_path, how):
    saved(tmp_path, 1, 2)
    file = max((tmp_path / "2" / "state").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    DAMAGES[how](file)
    notes = []
    progress = restored(tmp_path, notes=notes)
    assert int(progress.state.step) == 1
    np.testing.assert_array_equal(progress.state.params["w"], state_at(1).params["w"])
    problem = "is missing" if how == "missing" else "has changed since it was written"
    named = file.relative_to(tmp_path / "2")
    assert notes == [f"{tmp_path / '2'} is damaged ({named} {problem}); moved to 2.damaged, the one before it is used"]
    assert names(tmp_path) == ["1", "2.damaged"]
    saved(tmp_path, 2)
    assert int(restored(tmp_path).state.step) == 2


def test_a_half_written_checkpoint_is_named_and_deleted(tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / "2" / SEAL).unlink()
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    notes = []
    assert int(restored(tmp_path, notes=notes).state.step) == 1
    assert notes == [f"{tmp_path / name} is half-written; deleted" for name in ("2", "3.orbax-checkpoint-tmp")]
    assert names(tmp_path) == ["1"]


@contextmanager
def small_files_only():
    """A disk with space for 2,000 bytes in a file. It is the same failed write as on a full disk, and needs no disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_the_disk_is_full_the_error_says_so_and_the_checkpoint_before_is_intact(tmp_path):
    saved(tmp_path / "here", 1)
    rng = np.random.default_rng(0)
    state = state_at(2)
    noise = put_replicated({"w": jnp.asarray(rng.normal(size=1000), jnp.float32)}, make_mesh())
    progress = Progress(TrainState(state.step, noise, state.opt_state, state.key))
    with open_here(tmp_path / "elsewhere") as checkpoints:
        checkpoints.save(progress)  # compiles what it needs, so that the limit cuts no file of JAX's cache
    message = rf"{tmp_path}/here: a checkpoint could not be written \(File too large\); the one of step 1 is intact"
    with open_here(tmp_path / "here") as checkpoints, small_files_only():
        checkpoints.save(progress)
        with pytest.raises(UserError, match=message):
            checkpoints.wait()
    assert int(restored(tmp_path / "here").state.step) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Gloo all-reduce failed: Connection closed by peer"),
        TimeoutError("Timeout waiting at barrier 'create_directory:post'. The original error raised was: Barrier failed"),
    ],
)
def test_where_another_process_was_lost_the_error_is_not_said_to_be_the_disks(tmp_path, monkeypatch, error):
    def lost(*_):
        raise error

    monkeypatch.setattr("xtc_jax.train.checkpoints.ocp.save_checkpointables_async", lost)
    with pytest.raises(type(error)) as found, open_here(tmp_path) as checkpoints:
        checkpoints.save(Progress(state_at(1)))
    assert found.value is error


@contextmanager
def unprivileged():
    """Permissions bind: root, as which containers run, is put aside."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_an_unwritable_directory_is_an_error_before_training(tmp_path):
    saved(tmp_path / "checkpoints", 1)
    (tmp_path / "checkpoints").chmod(0o555)
    message = f"{tmp_path / 'checkpoints'}: no checkpoint can be written there \\(Permission denied\\)"
    with unprivileged(), pytest.raises(UserError, match=message), open_here(tmp_path / "checkpoints"):
        pass
    (tmp_path / "checkpoints").chmod(0o755)
    assert int(restored(tmp_path / "checkpoints").state.step) == 1


def test_the_record_holds_what_are_no_arrays(tmp_path):
    saved(tmp_path, 2, best=best_at(1))
    assert json.loads((tmp_path / "2" / "run.json").read_text()) == {
        "step": 2,
        "seconds": 20.0,
        "best": {"step": 1, "metrics": {"accuracy": 0.125}},
        "identity": IDENTITY,
    }
