"""Weights of the published Mamba: what the model computes with them, there and back, and refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import published_mamba, tiny
from helpers.parity import assert_close
from helpers.safetensors_files import write
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from minigam import AdamW, Mamba, MambaConfig, Stream, from_mamba, read_weights, to_mamba, train_step
from minigam.config import InputError
from minigam.engine import memory
from minigam.engine.tensor import ShapeError

EMBEDDING, HEAD, OF_TRANSFORMERS = "backbone.embedding.weight", "lm_head.weight", "backbone.embeddings.weight"
FIRST = "backbone.layers.0.mixer"


def random_arrays(**changes) -> dict[str, np.ndarray]:
    """Return random weights by published name; `changes` to the sizes of `published`."""
    return to_mamba(published(**changes))


def published(dtype: str = "float64", **changes) -> Mamba:
    sizes = {"vocab_size": 16, "block_size": 9, "d_model": 20, "n_layers": 2, "d_state": 3, "expand": 2}
    config = MambaConfig(**(sizes | changes), norm="rms", positions=False, dropout=0.0)
    return tiny.randomise(Mamba(config, dtype=dtype)).eval()


def test_names_and_shapes_are_the_published_ones():
    assert {name: a.shape for name, a in random_arrays().items()} == published_mamba.shapes()


@pytest.mark.parametrize(("B", "T"), [(2, 7), (1, 1), (3, 2)])
def test_logits_and_gradients_equal_pytorch(B, T):
    torch = pytest.importorskip("torch", reason="compares with PyTorch itself")
    from helpers import reference_mamba

    arrays = published_mamba.random_arrays()
    model = from_mamba(arrays, block_size=9)
    ids, targets = tiny.draw_ids(model, B, T), tiny.draw_ids(model, B, T, seed=2)
    w = reference_mamba.leaves(arrays)
    logits = reference_mamba.logits(w, torch.tensor(ids))
    np.testing.assert_allclose(model(ids).data, logits.detach().numpy(), rtol=0, atol=1e-9)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten()).backward()
    model.loss(ids, targets).backward()
    gradients = published(block_size=9)
    gradients.load_state_dict({name: p.grad for name, p in model.named_parameters()})
    found = to_mamba(gradients)
    assert found.keys() == w.keys() | {HEAD}
    for name, t in w.items():
        wanted = t.grad.numpy()
        atol = 1e-9 * max(np.abs(wanted).max(), 1e-3)
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=atol, err_msg=name)


def test_logits_loss_and_gradients_are_the_stored_ones():
    """What PyTorch answered (tests/helpers/make_golden.py), where PyTorch is not installed."""
    stored = load_file(Path(__file__).parents[1] / "helpers" / "golden" / "mamba.safetensors")
    arrays, wanted = (
        {n.removeprefix(prefix): a for n, a in stored.items() if n.startswith(prefix)}
        for prefix in ("weight.", "gradient.")
    )
    model = from_mamba(arrays, block_size=9)
    np.testing.assert_allclose(model(stored["ids"]).data, stored["logits"], rtol=0, atol=1e-9)
    loss = model.loss(stored["ids"], stored["targets"])
    assert loss.item() == pytest.approx(stored["loss"], abs=1e-9)
    loss.backward()
    carrier = published(block_size=9)
    carrier.load_state_dict({name: p.grad for name, p in model.named_parameters()})
    assert wanted.keys() == arrays.keys() - {HEAD}
    assert_close(to_mamba(carrier), wanted, rtol=1e-9)


@given(
    sizes=st.fixed_dictionaries(
        {name: st.integers(1, 4) for name in ("vocab_size", "n_layers", "d_state", "d_conv", "expand")}
    ),
    d_model=st.sampled_from([1, 2, 16, 17, 33]),
    dtype=st.sampled_from(["float32", "float64"]),
    transformers=st.booleans(),
)
def test_there_and_back_is_the_same_to_the_bit(sizes, d_model, dtype, transformers):
    arrays = to_mamba(published(dtype, d_model=d_model, **sizes), transformers)
    model = from_mamba(arrays, block_size=9)
    assert model.config == MambaConfig(
        **sizes, d_model=d_model, block_size=9, norm="rms", positions=False, dropout=0.0
    )
    back = to_mamba(model, transformers)
    assert {n: (a.tobytes(), a.shape, a.dtype) for n, a in back.items()} == {
        n: (a.tobytes(), a.shape, a.dtype) for n, a in arrays.items()
    }


def test_the_library_transformers_calls_the_embedding_otherwise():
    ours, theirs = random_arrays(), to_mamba(published(), transformers=True)
    assert theirs.keys() ^ ours.keys() == {EMBEDDING, OF_TRANSFORMERS}
    np.testing.assert_array_equal(theirs[OF_TRANSFORMERS], ours[EMBEDDING])


def test_weights_of_mamba_2_are_refused():
    arrays = random_arrays()
    for i in range(2):
        mixer = f"backbone.layers.{i}.mixer"
        for name in ("x_proj.weight", "dt_proj.weight", "dt_proj.bias"):
            del arrays[f"{mixer}.{name}"]
        arrays |= {f"{mixer}.dt_bias": np.ones(4), f"{mixer}.norm.weight": np.ones(40)}
    refused(
        KeyError, arrays, f"missing ['{FIRST}.dt_proj.bias', '{FIRST}.dt_proj.weight'", f"'{FIRST}.dt_bias'"
    )


def test_names_under_a_prefix_are_listed_shortly():
    arrays = {f"module.{name}": a for name, a in random_arrays().items()}
    refused(KeyError, arrays, "'module.backbone.embedding.weight'", " and 15 more, read as")


def test_half_precision_in_several_files_is_read_to_the_bit(tmp_path):
    """From files as the hub has them to the model, and back."""
    arrays = {
        name: (np.ascontiguousarray(a).view("u4") >> 16 << 16).view("f4")  # numbers that bfloat16 has
        for name, a in random_arrays(dtype="float32").items()
        if name != HEAD
    }
    files: dict[str, dict] = {"model-1.safetensors": {}, "model-2.safetensors": {}}
    for k, (name, a) in enumerate(arrays.items()):
        files[[*files][k % 2]][name] = ("BF16", list(a.shape), (a.view("u4") >> 16).astype("<u2").tobytes())
    for file, entries in files.items():
        write(tmp_path / file, entries)
    where = {name: file for file, entries in files.items() for name in entries}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    back = to_mamba(from_mamba(read_weights(tmp_path, dtype="float32")))
    for name, a in arrays.items():
        assert back[name].tobytes() == a.tobytes(), name
    np.testing.assert_array_equal(back[HEAD], arrays[EMBEDDING])


def test_a_model_that_memory_cannot_hold_next_to_its_arrays_is_refused(monkeypatch):
    arrays = random_arrays(dtype="float32")
    n = sum(a.size for name, a in arrays.items() if name != HEAD)
    monkeypatch.setattr(
        memory, "physical_memory", lambda name="numpy": 10 * n + 2 * 5_000
    )  # 12 bytes are needed
    with pytest.raises(InputError, match="of memory needed"):
        from_mamba(arrays)


def test_a_head_stored_once_is_the_embedding():
    arrays = random_arrays()
    once = {name: a for name, a in arrays.items() if name != HEAD}
    ids = tiny.draw_ids(published(), 2, 5)
    np.testing.assert_array_equal(from_mamba(once)(ids).data, from_mamba(arrays)(ids).data)


def test_it_writes_on_and_learns_on():
    model = from_mamba(random_arrays(vocab_size=7, dtype="float32"), block_size=6)
    tokens, stream = tiny.draw_ids(model, 2, 20), Stream(model.eval(), 2)
    for t in range(20):
        got = stream.feed(tokens[:, t : t + 1])
        want = model(tiny.window(tokens[:, : t + 1], 6)).data[:, -1]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    optimizer = AdamW(model.parameters(), lr=1e-2)
    ids = tokens[:, :6]
    losses = [train_step(model, optimizer, ids, (ids + 1) % 7) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_nothing_is_shared_with_the_arrays_given():
    arrays = random_arrays()
    model = from_mamba(arrays)
    before = model.state_dict()
    for a in arrays.values():
        a += 1.0
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)


def test_what_the_model_holds_elsewhere_is_brought_to_the_host(xp):
    here, there = random_arrays(), to_mamba(published().to(xp.__name__))
    for name, a in there.items():
        assert type(a) is np.ndarray
        np.testing.assert_array_equal(a, here[name], err_msg=name)


# ------------------------------------------------------------------------------------ refusals


def refused(error, arrays, *messages) -> None:
    with pytest.raises(error) as caught:
        from_mamba(arrays)
    assert "\n" not in str(caught.value)
    for message in ("from_mamba: ", *messages):
        assert message in str(caught.value)


def test_missing_and_unknown_names_are_listed():
    arrays = random_arrays()
    del arrays[f"{FIRST}.D"], arrays["backbone.norm_f.weight"]
    arrays["backbone.layers.1.mixer.in_proj.bias"] = arrays["zebra"] = np.zeros(3)
    refused(
        KeyError,
        arrays,
        f"missing ['{FIRST}.D', 'backbone.norm_f.weight']",
        "unknown ['backbone.layers.1.mixer.in_proj.bias', 'zebra']",
        "2 blocks",
    )


def test_each_single_name_but_the_heads_is_needed():
    complete = random_arrays()
    for name in complete.keys() - {HEAD}:
        refused(KeyError, {n: a for n, a in complete.items() if n != name}, f"missing ['{name}'], unknown []")


def test_no_names_a_block_left_out_and_two_embeddings_are_told():
    refused(KeyError, {}, f"'{EMBEDDING}'", f"'{FIRST}.A_log'")
    arrays = random_arrays(n_layers=3)
    without = {name: a for name, a in arrays.items() if ".layers.1." not in name}
    refused(KeyError, without, "'backbone.layers.1.mixer.D'", "'backbone.layers.2.mixer.D'")
    refused(KeyError, arrays | {OF_TRANSFORMERS: arrays[EMBEDDING]}, f"unknown ['{OF_TRANSFORMERS}']")


def test_shapes_that_do_not_fit_are_listed():
    arrays = random_arrays()
    arrays[f"{FIRST}.in_proj.weight"] = np.zeros((79, 20))
    arrays[f"{FIRST}.x_proj.weight"] = np.zeros((9, 40))
    arrays[f"{FIRST}.conv1d.weight"] = arrays[f"{FIRST}.conv1d.weight"][:, 0]
    refused(
        ShapeError,
        arrays,
        f"{FIRST}.in_proj.weight (79, 20), wanted (2E, C)",
        f"{FIRST}.x_proj.weight (9, 40), wanted (R+2N, E)",
        f"{FIRST}.conv1d.weight (40, 4), wanted (E, 1, K)",
        "with V 16, C 20, N 3, K 4, E 40, R 2",
    )


def test_each_single_shape_is_checked():
    complete = random_arrays(n_layers=3)  # two blocks agree, whichever is wrong
    for name, a in complete.items():
        refused(ShapeError, complete | {name: a[..., :-1]}, f"{name} {a[..., :-1].shape}, wanted")
        refused(ShapeError, complete | {name: a[..., None]}, f"{name} {(*a.shape, 1)}, wanted")


def resized(arrays: dict, **sizes: int) -> dict[str, np.ndarray]:
    """Return zeros in the shapes of the arrays, with other lengths for E and R, which are 40 and 2."""
    E, R = sizes.get("E", 40), sizes.get("R", 2)
    new = {40: E, 80: 2 * E, 2: R, 8: R + 6}
    return {
        name: np.zeros([new.get(n, n) if "mixer" in name else n for n in a.shape])
        for name, a in arrays.items()
    }


@pytest.mark.parametrize("sizes", [{"E": 50}, {"R": 1}, {"R": 5}], ids=str)
def test_sizes_that_the_model_cannot_have_are_refused(sizes):
    assert from_mamba(resized(random_arrays())).config.expand == 2
    told = ", ".join(f"{letter} {n}" for letter, n in ({"C": 20, "E": 40, "R": 2} | sizes).items())
    refused(
        ShapeError, resized(random_arrays(), **sizes), f"{told}; wanted E a multiple of C, and R = C / 16"
    )


def test_dtypes_that_do_not_fit_are_listed():
    arrays = random_arrays()
    arrays["backbone.norm_f.weight"] = arrays["backbone.norm_f.weight"].astype("float32")
    refused(TypeError, arrays, "backbone.norm_f.weight float32; wanted float32, or float64, for all")
    halves = {name: a.astype("float16") for name, a in arrays.items()}
    refused(TypeError, halves, f"{EMBEDDING} float16", f"{FIRST}.D float16")
    refused(TypeError, arrays | {f"{FIRST}.D": [0.0]}, f"{FIRST}.D list; wanted NumPy arrays")


def test_an_untied_head_is_refused():
    arrays = random_arrays()
    refused(ValueError, arrays | {HEAD: arrays[HEAD] + 1e-12}, f"{HEAD} is not {EMBEDDING}")


@pytest.mark.parametrize("change", [{"norm": "layer"}, {"positions": True}, {"residual": False}], ids=str)
def test_a_mamba_built_otherwise_has_no_published_names(change):
    config = {"vocab_size": 5, "d_model": 4, "n_layers": 1, "norm": "rms", "positions": False} | change
    (setting, value), *_ = change.items()
    with pytest.raises(ValueError, match=re.escape(f"{setting} {value!r}") + ".*as published"):
        to_mamba(Mamba(MambaConfig(**config)))


def test_another_model_has_no_names_of_mamba():
    with pytest.raises(TypeError, match="to_mamba: GAM, wanted a Mamba"):
        to_mamba(tiny.gam())
