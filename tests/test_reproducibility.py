"""The same seed gives the same numbers: bit for bit in another process, and within a tolerance anywhere.

The tolerance lets another order of summation pass, but not another result. docs/trust.md says what depends
on the machine.
"""

import json

import pytest
from helpers import runs, short_runs

from minigam.models import MODELS

TOLERANCE = 1e-6  # relative; sums in another order change a loss by less than 1e-7
each_model = pytest.mark.parametrize("model_type", MODELS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of runs: two processes with one BLAS thread and other hash seeds, and one with two threads."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("first", "second", "two_threads")}
    short_runs.finish(
        short_runs.start(folders["first"], threads=1),
        short_runs.start(folders["second"], threads=1, hash_seed=1),
        short_runs.start(folders["two_threads"], threads=2),
    )
    return folders


@each_model
def test_the_same_seed_gives_the_same_bits_in_another_process(trained, model_type):
    runs.assert_same_run(trained["first"] / model_type, trained["second"] / model_type)


@pytest.mark.gpu
@each_model
def test_the_same_device_gives_the_same_bits(tmp_path, model_type):
    flags = [f.replace("--backend=numpy", "--backend=cupy") for f in short_runs.FLAGS]
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        short_runs.finish(short_runs.start(folder, threads=1, models=[model_type], flags=flags))
    runs.assert_same_run(*(folder / model_type for folder in folders))


@each_model
@pytest.mark.parametrize("folder", ["first", "two_threads"])
def test_losses_are_the_stored_ones(trained, folder, model_type):
    golden = json.loads(short_runs.GOLDEN.read_text(encoding="utf-8"))
    assert golden["flags"] == short_runs.FLAGS, "write the golden losses again"
    losses = short_runs.losses(trained[folder] / model_type)
    assert losses == pytest.approx(golden["losses"][model_type], rel=TOLERANCE, abs=0.0)
