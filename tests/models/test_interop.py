"""Weights of the authors' code, there and back, and what is refused on the way."""

import numpy as np
import pytest
from helpers import tiny
from hypothesis import given
from hypothesis import strategies as st

from minigam import GAMConfig, Transformer, TransformerConfig
from minigam.config import PAPER_MIXERS, WRITTEN
from minigam.engine.tensor import ShapeError
from minigam.models.interop import from_official, to_official

each_mixer = pytest.mark.parametrize("mixer", PAPER_MIXERS)


def published_shapes(V: int, T: int, C: int, block: dict[str, tuple]) -> dict[str, tuple]:
    """Return the names and shapes of a model of two blocks. block : what is of its mixer, and its norms"""
    block = block | {
        "ffn.0.weight": (4 * C, C),
        "ffn.0.bias": (4 * C,),
        "ffn.2.weight": (C, 4 * C),
        "ffn.2.bias": (C,),
    }
    return {
        "token_embedding.weight": (V, C),
        "pos_embedding.weight": (T, C),
        **{f"blocks.{i}.{name}": shape for i in range(2) for name, shape in block.items()},
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
        "head.weight": (V, C),
    }


def test_names_and_shapes_are_the_published_ones():
    V, T, C, S, K = 7, 6, 4, 3, 5
    block = {
        "causal_conv.weight": (C, 1, K),
        "causal_conv.bias": (C,),
        "memory_bank": (S, C),
        "gate.weight": (2 * C, C),
        "gate.bias": (2 * C,),
        **{f"{norm}.{kind}": (C,) for norm in ("ln1", "ln2") for kind in ("weight", "bias")},
    }
    arrays = to_official(tiny.gam(kernel_size=K))
    assert {name: a.shape for name, a in arrays.items()} == published_shapes(V, T, C, block)


@given(
    mixer=st.sampled_from(PAPER_MIXERS),
    dtype=st.sampled_from(["float32", "float64"]),
    sizes=st.fixed_dictionaries(  # sizes of 1 too, where an axis could be mistaken for another
        {name: st.integers(1, 4) for name in tiny.TINY}
    ),
)
def test_there_and_back_is_the_same_to_the_bit(mixer, dtype, sizes):
    model = tiny.gam(mixer, dtype=dtype, dropout=0.25, **sizes)
    back = from_official(to_official(model), dropout=0.25)
    hidden = {"local": "n_slots", "global": "kernel_size"}.get(mixer)  # no shape shows it
    default = {hidden: getattr(GAMConfig(), hidden)} if hidden else {}
    assert back.config == GAMConfig(**(sizes | default), mixer=mixer, dropout=0.25)
    for (name, p), (other, q) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert name == other and p.dtype == q.dtype == dtype
        np.testing.assert_array_equal(p.data, q.data, err_msg=name)


@given(sizes=st.fixed_dictionaries({name: st.integers(1, 4) for name in tiny.TINY}))
def test_a_published_gam_becomes_one_whose_text_writes_its_memory(sizes):
    model = tiny.gam(**sizes, dropout=0.25)
    arrays = to_official(model)
    written = from_official(arrays, dropout=0.25, written=True)
    assert written.config == GAMConfig(**sizes, mixer=WRITTEN, dropout=0.25)
    back = to_official(written)
    assert back.keys() == arrays.keys()
    for name, a in back.items():
        np.testing.assert_array_equal(a, arrays[name], err_msg=name)


@pytest.mark.parametrize("mixer", PAPER_MIXERS[1:])
def test_only_a_gated_gam_becomes_a_written_one(mixer):
    with pytest.raises(ValueError, match=f"weights of architecture '{mixer}', wanted 'gated'"):
        from_official(to_official(tiny.gam(mixer)), written=True)


def test_the_bits_of_unusual_numbers_are_kept():
    arrays = to_official(tiny.gam(dtype="float32"))
    unusual = np.array([-0.0, np.nan, np.inf, 1e-45], dtype=np.float32)
    arrays["ln_f.bias"] = unusual
    arrays["token_embedding.weight"][0] = unusual  # and so the head's
    back = to_official(from_official(arrays))
    assert {name: a.tobytes() for name, a in back.items()} == {n: a.tobytes() for n, a in arrays.items()}


def test_the_head_is_the_token_embedding():
    arrays = to_official(tiny.gam())
    assert np.shares_memory(arrays["head.weight"], arrays["token_embedding.weight"])
    arrays["head.weight"] = arrays["head.weight"] + 1e-12
    with pytest.raises(ValueError, match=r"head\.weight is not token_embedding\.weight"):
        from_official(arrays)


def test_nothing_is_shared_with_the_arrays_given():
    arrays = to_official(tiny.gam())
    model = from_official(arrays)
    before = model.state_dict()
    for a in arrays.values():
        a += 1.0
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)


def test_what_the_model_holds_elsewhere_is_brought_to_the_host(xp):
    here, there = to_official(tiny.gam()), to_official(tiny.gam().to(xp.__name__))
    for name, a in there.items():
        assert type(a) is np.ndarray
        np.testing.assert_array_equal(a, here[name], err_msg=name)


# ------------------------------------------------------------------------------------ refusals


def refused(error, arrays, *messages) -> None:
    with pytest.raises(error) as caught:
        from_official(arrays)
    for message in messages:
        assert message in str(caught.value)


@each_mixer
def test_missing_and_unknown_names_are_listed(mixer):
    arrays = to_official(tiny.gam(mixer))
    del arrays["blocks.1.ffn.2.bias"], arrays["head.weight"]
    arrays["blocks.0.zebra"] = arrays["lm_head.weight"] = np.zeros(3)
    refused(
        KeyError,
        arrays,
        "missing ['blocks.1.ffn.2.bias', 'head.weight']",
        "unknown ['blocks.0.zebra', 'lm_head.weight']",
        f"2 blocks of architecture '{mixer}'",
    )


@each_mixer
def test_each_single_name_is_needed(mixer):
    complete = to_official(tiny.gam(mixer))
    for name in complete:
        refused(KeyError, {n: a for n, a in complete.items() if n != name}, "missing", f"'{name}'")


def test_a_block_left_out_and_no_names_at_all_are_told():
    arrays = to_official(tiny.gam(n_layers=3))
    without = {name: a for name, a in arrays.items() if not name.startswith("blocks.1.")}
    refused(
        KeyError, without, "'blocks.1.causal_conv.bias'", "'blocks.2.causal_conv.bias'", " and 5 more, read"
    )
    refused(KeyError, {}, "'blocks.0.ffn.0.bias'", " and 6 more, unknown []")


def test_shapes_that_do_not_fit_are_listed():
    arrays = to_official(tiny.gam())
    arrays["blocks.0.ffn.0.weight"] = np.zeros((15, 4))
    arrays["blocks.1.causal_conv.weight"] = arrays["blocks.1.causal_conv.weight"][:, 0]
    arrays["blocks.1.memory_bank"] = np.zeros((2, 4))  # each block as many slots as the first
    arrays["head.weight"] = arrays["head.weight"].T
    refused(
        ShapeError,
        arrays,
        "blocks.0.ffn.0.weight (15, 4), wanted (4C, C)",
        "blocks.1.causal_conv.weight (4, 3), wanted (C, 1, K)",
        "blocks.1.memory_bank (2, 4), wanted (S, C)",
        "head.weight (4, 7), wanted (V, C)",
        "V 7, T 6, C 4, S 3, K 3",
    )


@each_mixer
def test_each_single_shape_is_checked(mixer):
    complete = to_official(tiny.gam(mixer, n_layers=3))  # two blocks agree, whichever is wrong
    for name, a in complete.items():
        refused(ShapeError, complete | {name: a[..., :-1]}, f"{name} {a[..., :-1].shape}, wanted")
        refused(ShapeError, complete | {name: a[..., None]}, f"{name} {(*a.shape, 1)}, wanted")


def test_dtypes_that_are_not_one_float_are_listed():
    arrays = to_official(tiny.gam())
    mixed = arrays | {"ln_f.bias": arrays["ln_f.bias"].astype(np.float32)}
    refused(TypeError, mixed, "ln_f.bias float32; wanted float32, or float64, for all")
    half = {name: a.astype(np.float16) for name, a in arrays.items()}
    refused(
        TypeError, half, "head.weight float16", "ln_f.bias float16", "wanted float32, or float64, for all"
    )


def test_what_is_no_numpy_array_is_refused():
    arrays = to_official(tiny.gam())
    refused(TypeError, arrays | {"ln_f.bias": [0.0] * 4}, "ln_f.bias list; wanted NumPy arrays")


def test_only_a_gam_has_published_names():
    with pytest.raises(TypeError, match="to_official: Linear, wanted a GAM"):
        to_official(tiny.gam().blocks[0].feed.expand)


def transformer_arrays() -> dict[str, np.ndarray]:
    """What the authors' code saves of their Transformer, the causal mask included."""
    config = TransformerConfig(vocab_size=7, block_size=6, d_model=6, n_layers=2, n_heads=3)
    arrays = to_official(tiny.randomise(Transformer(config, dtype="float64")))
    mask = np.tril(np.ones((1, 1, 6, 6)))
    return arrays | {f"blocks.{i}.attn.bias": mask for i in range(2)}


def test_names_and_shapes_of_a_transformer_are_the_published_ones():
    V, T, C = 7, 6, 6
    block = {
        "attn.c_attn.weight": (3 * C, C),
        "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C),
        "attn.c_proj.bias": (C,),
        **{f"{norm}.{kind}": (C,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")},
    }
    arrays = transformer_arrays()
    assert {
        name: a.shape for name, a in arrays.items() if not name.endswith(".attn.bias")
    } == published_shapes(V, T, C, block)


def test_a_written_memory_keeps_its_prior():
    model = tiny.gam(WRITTEN, prior=5.0)
    ids = tiny.draw_ids(model, 2, 5)
    back = from_official(to_official(model), written=True, prior=5.0).eval()
    np.testing.assert_array_equal(back(ids).data, model.eval()(ids).data)
    other = from_official(to_official(model), written=True).eval()
    assert (other(ids).data != model(ids).data).any()


def test_the_authors_transformer_is_recognised_and_its_mask_skipped():
    arrays = transformer_arrays()
    assert arrays["blocks.1.attn.c_attn.weight"].shape == (18, 6)
    model = from_official(arrays, dropout=0.2, n_heads=3)
    assert isinstance(model, Transformer)
    assert (model.config.n_heads, model.config.dropout, model.config.n_layers) == (3, 0.2, 2)
    again = to_official(model)
    assert again.keys() == {name for name in arrays if not name.endswith(".attn.bias")}
    for name, a in again.items():
        np.testing.assert_array_equal(a, arrays[name], err_msg=name)


def test_missing_names_of_a_transformer_are_listed():
    arrays = transformer_arrays()
    del arrays["blocks.0.attn.c_proj.bias"]
    refused(KeyError, arrays, "missing ['blocks.0.attn.c_proj.bias']", "architecture 'transformer'")
