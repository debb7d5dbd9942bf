"""The benchmark of the published size: what it measures, and the table it writes."""

import json

import numpy as np
import pytest
from helpers.commands import assert_refused

from benchmarks import environment, measure, published, train_step
from minigam.config import GAMConfig, MambaConfig, TransformerConfig
from minigam.training.profile import flops


@pytest.mark.parametrize("model_type", ["transformer", "mamba"])
def test_a_worker_times_any_model(model_type):
    Config = {"transformer": TransformerConfig, "mamba": MambaConfig}[model_type]
    config = Config(vocab_size=9, block_size=4, d_model=8, n_layers=1).to_dict()
    result = train_step.work("minigam", config, batch=2, warm_up=1, steps=2, model_type=model_type)
    assert len(result["times"]) == 2
    assert 0.0 < result["first_loss"] < 10.0


@pytest.mark.parametrize(("kind", "library"), [("products", "numpy"), ("torch_products", "torch")])
def test_the_products_alone_are_those_of_a_step_in_the_library_named(kind, library, monkeypatch):
    module = pytest.importorskip(library, reason="measures PyTorch")
    config = GAMConfig(vocab_size=9, block_size=4, d_model=8, n_layers=1, n_slots=2)
    products = train_step.products_of_a_step(config, *np.zeros((2, 2, 4), int))
    real, outputs = module.matmul, []

    def matmul(a, b, out):
        outputs.append(type(out))
        return real(a, b, out=out)

    monkeypatch.setattr(train_step, "products_of_a_step", lambda *args: products)
    monkeypatch.setattr(module, "matmul", matmul)
    result = train_step.work(kind, config.to_dict(), batch=2, warm_up=1, steps=2)
    assert len(result["times"]) == 2
    assert result["flops"] == flops(products) > 0
    assert outputs == [type(module.ones(1))] * 3 * products.total()


def test_every_model_is_measured_here_and_the_authors_two_in_pytorch():
    labels = {name: [*published.competitors(name, 1)] for name in published.NAMES}
    assert labels == {
        "gam": [
            "minigam GAM", "PyTorch GAM", "products alone, NumPy: GAM", "products alone, PyTorch: GAM"
        ],
        "transformer": [
            "minigam Transformer", "PyTorch Transformer", "products alone, NumPy: Transformer",
            "products alone, PyTorch: Transformer",
        ],
        "mamba": ["minigam Mamba"],
        "written": ["minigam GAM, written memory (ours)"],
    }  # fmt: skip


def test_the_table_has_the_ratios_of_each_model(monkeypatch, tmp_path):
    jobs = []

    def fresh(module, label, job):
        jobs.append(job)
        return {"seconds": 2.0 if job["kind"] == "minigam" else 3.0, "peak_mib": 100.0, "first_loss": 1.0}

    monkeypatch.setattr(measure, "fresh", fresh)
    monkeypatch.setattr(measure, "require", lambda *packages: None)
    monkeypatch.setattr(environment, "line", lambda: "a machine")
    assert published.main(["--pairs=2", "--steps=1", f"--out={tmp_path}"]) == 0
    assert [(job["model_type"], job["kind"], job["model"].get("mixer")) for job in jobs[:10]] == [
        ("gam", "minigam", "gated"), ("gam", "torch", "gated"), ("gam", "products", "gated"),
        ("gam", "torch_products", "gated"), ("transformer", "minigam", None), ("transformer", "torch", None),
        ("transformer", "products", None), ("transformer", "torch_products", None),
        ("mamba", "minigam", None), ("gam", "minigam", "written"),
    ]  # fmt: skip
    assert GAMConfig.from_dict(jobs[0]["model"]) == GAMConfig()
    assert sorted(map(str, jobs[10:])) == sorted(map(str, jobs[:10])), "two rounds"
    text = (tmp_path / "published.md").read_text()
    assert "4,096" not in "".join(x for x in text.splitlines() if x.startswith("| products"))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "2.00 |      4,096 |" in lines["minigam Transformer"]
    assert "1.50 (1.50 to 1.50)" in lines["PyTorch Transformer"]
    assert json.loads((tmp_path / "published.json").read_text())["models"].keys() == {*published.NAMES}


def test_wrong_input_is_one_line(capsys):
    assert_refused(published.main, ["--models", "rnn"], capsys, "'rnn'", "transformer")
    assert_refused(published.main, ["--pairs=0"], capsys, "--pairs is 0, wanted at least 1")
