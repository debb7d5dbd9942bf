"""The study of memory designs: right gradients, no look ahead, honest tasks; the cost of the written one."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny
from helpers.bench import needs_torch
from helpers.commands import assert_refused

from benchmarks import memory_designs, memory_study, written_memory
from minigam import GAMConfig, Tensor, gradcheck
from minigam.config import WRITTEN
from minigam.data.corpus import IGNORE
from minigam.data.mqar import BLANK, from_mqar
from minigam.engine.tensor import OPS
from minigam.training.step import NonFinite

SIZES = tiny.TINY | {"d_model": 8, "block_size": 9, "mixer": WRITTEN, "dropout": 0.0}
each_design = pytest.mark.parametrize("design", memory_designs.DESIGNS)


def made(design: str):
    return tiny.randomise(memory_designs.model_of(design)(GAMConfig(**SIZES), dtype="float64")).eval()


@each_design
def test_the_gradients_of_a_design_are_right(design):
    model = made(design)
    ids, targets = tiny.draw_ids(model, 2, 9, seed=1), tiny.draw_ids(model, 2, 9, seed=2)
    assert gradcheck(lambda *_: model.loss(ids, targets), *model.parameters(), directions=4) < 1e-6


@each_design
def test_no_design_looks_ahead_and_each_sees_all(design):
    model = made(design)
    ids = tiny.draw_ids(model, 1, 9)
    before = model(ids).data
    for t in range(9):
        changed = ids.copy()
        changed[0, t] = (changed[0, t] + 1) % model.config.vocab_size
        moved = np.abs(model(changed).data - before).max(axis=-1)[0]
        assert (moved[:t] <= 1e-12).all() and (moved[t:] > 1e-12).all()


@each_design
def test_a_design_has_the_parameters_it_counts(design):
    model = made(design)
    assert model.num_parameters() == type(model).count_parameters(model.config)


def test_the_solver_is_no_operation_of_the_package():
    assert "solve" not in OPS


def recurrence(design: str, block, u, local) -> np.ndarray:
    """Return what the docstring of a design says, one token after the other; u, local (T, C)."""
    M, prior = block.memory.data, block.prior

    def both(z, local_z, slots):
        return (memory_designs.addresses(Tensor(x[None]), Tensor(slots)).data[0] for x in (z, local_z))

    def sigmoid(z):
        return 1.0 / (1.0 + np.exp(-z))

    def means(a, w, values, slots, kept):  # X2-X5, of which `kept` is left at every token
        n, N, y = np.full(len(slots), prior), prior * slots, []
        for t in range(len(values)):
            n, N = kept[t] * n + w[t], kept[t] * N + np.outer(w[t], values[t])
            y.append(a[t] @ (N / n[:, None]))
        return np.array(y)

    a, w = both(u, u if design == "under-u" else local, M)
    q, k, T = a**0.5, w**0.5, len(u)
    if design == "sum":
        return np.array([sum((q[t] @ k[j]) * u[j] for j in range(t + 1)) for t in range(T)])
    if design == "mean":
        total = [prior + sum(q[t] @ k[j] for j in range(t + 1)) for t in range(T)]
        read = [prior * (a[t] @ M) + sum((q[t] @ k[j]) * u[j] for j in range(t + 1)) for t in range(T)]
        return np.array(read) / np.array(total)[:, None]
    if design == "delta":
        beta, W, y = sigmoid(local @ block.strength.data[0]), np.zeros(M.shape), []
        for t in range(T):
            W = W + beta[t] * np.outer(k[t], u[t] - k[t] @ W)
            y.append(q[t] @ W)
        return np.array(y)
    if design == "heads":
        parts = np.split(np.arange(u.shape[1]), memory_designs.HEADS)
        heads = [means(*both(u[:, c], local[:, c], M[:, c]), u[:, c], M[:, c], np.ones(T)) for c in parts]
        return np.concatenate(heads, axis=1)
    kept = np.ones(T)
    if design == "forget":
        kept = sigmoid(local @ block.forget.data[0] + block.forget_bias.data)
    y = means(a, w, u, M, kept)
    return block.norm3(Tensor(y[None])).data[0] if design == "norm" else y


@each_design
def test_a_design_is_its_recurrence(design, rng):
    block = made(design).blocks[0]
    u, local = rng.standard_normal((2, 9, 8))
    got = block.recall(Tensor(u[None]), Tensor(local[None]), None).data[0]
    np.testing.assert_allclose(got, recurrence(design, block, u, local), rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------------- the tasks


def test_updated_keys_ask_for_the_value_they_were_given_last():
    rows, updates, asked_again = from_mqar(64, 200, 8, 8).train, 0, 0
    for tokens, targets in memory_study.updated(rows, seed=0):
        value_of, written_at, new = {}, {}, set()
        for t in range(0, 64, 2):
            key = tokens[t]
            if key == BLANK:
                continue
            if targets[t] != IGNORE:
                assert targets[t] == value_of[key]
                asked_again += key in new
                continue
            if key in value_of:
                assert t - written_at[key] >= memory_study.FAR
                updates += 1
                new.add(key)
            value_of[key], written_at[key] = tokens[t + 1], t
    assert updates > 100
    assert asked_again >= updates  # each new value is asked for


def test_the_study_measures_each_cell_once_and_reports_all(tmp_path, monkeypatch, capsys):
    small = {"d_model": 8, "n_layers": 1, "dropout": 0.0}
    for name, task in memory_study.TASKS.items():
        model = small | {k: v for k, v in task.model.items() if k in ("block_size", "position_std")}
        changed = replace(task, model=model, gam={"n_slots": 4, "kernel_size": 3}, steps=2, batch=2)
        monkeypatch.setitem(memory_study.TASKS, name, changed)
    monkeypatch.setattr(
        memory_study, "_recall_corpus", lambda seed: from_mqar(64, 50, 8, 8, seed, n_valid=200)
    )
    for name in ("recall", "longer"):
        task = replace(
            memory_study.TASKS[name], corpus=lambda seed: from_mqar(64, 50, 8, 8, seed, n_valid=200)
        )
        monkeypatch.setitem(memory_study.TASKS, name, task)
    monkeypatch.setattr(memory_study.environment, "line", lambda: "here")
    tasks = ["recall", "updated", "longer"]
    arguments = [
        "--tasks",
        *tasks,
        "--models",
        "transformer",
        "written",
        "--seeds",
        "0",
        "--out",
        str(tmp_path),
    ]
    assert memory_study.main(arguments) == 0
    first = json.loads((tmp_path / "memory_study.json").read_text())["tasks"]
    assert {t: set(by_model) for t, by_model in first.items()} == {
        "recall": {"written"}, "updated": {"transformer", "written"}, "longer": {"transformer", "written"}
    }  # fmt: skip
    text = (tmp_path / "memory_study.md").read_text()
    for t in tasks:
        cell = first[t]["written"]["0"]
        numbers = [v for k, v in cell.items() if k not in ("parameters", "measured")]
        assert all(f"{v:.1%}" in text for v in numbers)
    monkeypatch.setattr(memory_study, "measured", lambda *cell: pytest.fail(f"{cell} is measured again"))
    assert memory_study.main(arguments) == 0
    assert json.loads((tmp_path / "memory_study.json").read_text())["tasks"] == first
    assert memory_study.main([*arguments, "--models", "transformer", "written", "sum", "--stored"]) == 0
    assert json.loads((tmp_path / "memory_study.json").read_text())["tasks"] == first
    capsys.readouterr()


def test_models_that_a_task_lacks_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory_study.environment, "line", lambda: "here")
    arguments = ["--tasks", "recall", "--models", "mamba", "--out", tmp_path]
    assert_refused(memory_study.main, arguments, capsys, "none of the models mamba is in the tasks recall")
    assert not (tmp_path / "memory_study.json").exists()


def test_a_step_that_is_not_finite_ends_the_training():
    task = replace(memory_study.TASKS["recall"], steps=3, batch=2, corpus=None)
    model, corpus = made("written"), from_mqar(9, 20, 2, 3, n_valid=5)
    model.blocks[0].memory.data[0, 0] = np.inf
    with np.errstate(invalid="ignore"), pytest.raises(NonFinite, match="written, step 1: loss nan"):
        memory_study.train(model, corpus, task, 1e-3, 0, "written")


def test_every_position_is_trained_about_equally_often(monkeypatch):
    starts, task = [], replace(memory_study.TASKS["longer"], steps=2000, batch=1)
    model, corpus = made("written"), from_mqar(4, 20, 1, 1, n_valid=5)  # rows of 4 in 9 positions
    monkeypatch.setattr(
        type(model), "loss", lambda *a, start: starts.append(start) or Tensor(np.ones(()), True)
    )
    monkeypatch.setattr(memory_study.AdamW, "step", lambda *a: np.zeros(()))
    memory_study.train(model, corpus, task, 1e-3, 0, "")
    covered = np.bincount((np.array(starts)[:, None] + np.arange(4)).reshape(-1), minlength=9)
    assert covered.min() > 0.5 * covered.mean()


@needs_torch
def test_the_cost_is_measured_for_both_memories(tmp_path, monkeypatch):
    small = written_memory.Size(8, 4, 2, 16, 1)
    monkeypatch.setattr(written_memory, "SIZES", {"small": small})
    monkeypatch.setattr(written_memory, "LENGTHS", {f"T {T}": replace(small, T=T) for T in (16, 32)})
    monkeypatch.setattr(
        written_memory.measure,
        "fresh",
        lambda prog, name, job: written_memory.work(**job) | {"peak_mib": 1.0},
    )
    monkeypatch.setattr(written_memory.environment, "line", lambda: "here")
    written_memory.compare(1, tmp_path)
    content = json.loads((tmp_path / "written_memory.json").read_text())
    assert set(content["summary"]) == {"small", "T 16", "T 32"}
    ratio = content["summary"]["small"]["written"]["time_ratio"]["median"]
    assert f"{ratio:.2f} (" in (tmp_path / "written_memory.md").read_text()
