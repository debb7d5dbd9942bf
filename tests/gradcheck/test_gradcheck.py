"""Does the checker catch what it is there to catch? And its command."""

import re
import sys

import numpy as np
import pytest

from minigam import Tensor, backend, cli, gradcheck, ops
from minigam.engine.dispatch import op
from minigam.engine.tensor import OPS
from minigam.gradcheck import __main__ as command
from minigam.gradcheck.cases import CASES, LAYERS, MODELS


def leaf(rng, *shape) -> Tensor:
    return Tensor(rng.standard_normal(shape), requires_grad=True)


@pytest.fixture
def cube():
    """Make an operation x^3 with the backward rule that is given."""
    before = dict(OPS)

    def make(gradient):
        @op
        def cubed(xp, x):
            return x * x * x, lambda dy: (gradient(x, dy),)

        return cubed

    yield make
    OPS.clear()
    OPS.update(before)


# ---------------------------------------------------------------------------- what it catches


def right(x, dy):
    return dy * 3.0 * x * x


def test_a_right_rule_passes(cube, rng):
    assert gradcheck(cube(right), leaf(rng, 3, 4)) < 1e-7
    assert gradcheck(cube(right), leaf(rng, 3, 4), directions=3) < 1e-6


def one_entry_off(x, dy):
    dx = right(x, dy)
    dx[-1, -1] *= 1.001
    return dx


WRONG = {
    "a thousandth off": lambda x, dy: 1.001 * right(x, dy),
    "one entry a thousandth off": one_entry_off,
    "zero": lambda x, dy: 0.0 * dy,
    "the sign": lambda x, dy: -right(x, dy),
    "dy forgotten": lambda x, dy: 3.0 * x * x,
    "in the wrong place": lambda x, dy: right(x, dy)[::-1],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("directions", [None, 3], ids=["entries", "directions"])
def test_a_wrong_rule_fails(cube, wrong, directions):
    x = Tensor(np.random.default_rng(0).uniform(1.0, 2.0, (3, 4)), requires_grad=True)
    with pytest.raises(AssertionError, match=r"gradcheck: .* backward .*, numeric .*, error .*, allowed"):
        gradcheck(cube(wrong), x, directions=directions)


def test_the_worst_entry_is_named(cube):
    x = Tensor(np.full((3, 4), 2.0), requires_grad=True)
    with pytest.raises(AssertionError, match=r"input 0 \(3, 4\), entry \(2, 3\)"):
        gradcheck(cube(one_entry_off), x)


def test_why_the_loss_is_no_plain_sum(monkeypatch, rng):
    """The sum of a softmax is 1 whatever x is: a backward of zeros passes a check that sums."""
    rule = ops.softmax.rule
    monkeypatch.setattr(ops.softmax, "rule", lambda xp, x: (rule(xp, x)[0], lambda dy: (0.0 * dy,)))
    monkeypatch.setattr(ops.softmax, "fast", {})
    x = leaf(rng, 3, 5)
    assert gradcheck(lambda x: ops.softmax(x).sum(), x) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(AssertionError, match="gradcheck"):
        gradcheck(ops.softmax, x)


def test_a_rule_that_writes_into_dy_fails(cube, rng):
    def careless(x, dy):
        dy *= 3.0 * x * x
        return dy

    with pytest.raises(ValueError, match="read-only"):
        gradcheck(cube(careless), leaf(rng, 3))


# ---------------------------------------------------------------------------- what it refuses


def test_float32_is_refused():
    with pytest.raises(TypeError, match=r"input 1 \(2,\) is float32, wanted float64"):
        gradcheck(ops.add, Tensor(np.ones(2), True), Tensor(np.ones(2, np.float32), True))


def test_only_leaves_that_require_a_gradient_are_taken(rng):
    for x in (Tensor(np.ones(2)), ops.exp(leaf(rng, 2))):
        with pytest.raises(TypeError, match=r"input 0 \(2,\) must be a leaf that requires a gradient"):
            gradcheck(ops.exp, x)


def test_an_input_without_gradient_is_named(rng):
    with pytest.raises(AssertionError, match=r"input 1 \(4,\) received no gradient"):
        gradcheck(lambda a, b: ops.exp(a), leaf(rng, 3), leaf(rng, 4))


@pytest.mark.parametrize("directions", [None, 1])
def test_nan_fails(cube, rng, directions):
    with pytest.raises(AssertionError, match="backward nan"):
        gradcheck(cube(lambda x, dy: np.nan * dy), leaf(rng, 3), directions=directions)


# --------------------------------------------------------------------------- what it leaves be


@pytest.mark.parametrize("directions", [None, 2])
def test_inputs_are_put_back_bit_for_bit(rng, directions):
    x = Tensor(rng.standard_normal((3, 4)) * 1e-3 ** np.arange(4), requires_grad=True)
    before, array = x.data.copy(), x.data
    gradcheck(ops.neg, x, directions=directions)
    assert x.data is array
    np.testing.assert_array_equal(x.data, before)


def test_inputs_are_put_back_after_an_error(rng):
    x, calls = leaf(rng, 3), []

    def fails_later(x):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        return ops.exp(x)

    array, before = x.data, x.data.copy()
    with pytest.raises(ZeroDivisionError):
        gradcheck(fails_later, x, directions=1)
    assert x.data is array
    np.testing.assert_array_equal(x.data, before)


def test_an_earlier_gradient_does_not_count(rng):
    x = leaf(rng, 3)
    ops.exp(x).backward(np.ones(3))
    assert gradcheck(ops.exp, x) < 1e-7


def test_it_runs_where_its_inputs_are(xp, rng):
    x = Tensor(xp.asarray(rng.standard_normal((2, 3))), requires_grad=True)
    assert gradcheck(ops.gelu, x) < 1e-7
    assert gradcheck(ops.gelu, x, directions=2) < 1e-6


# ------------------------------------------------------------------------------- the command


def test_the_command_lists_every_case_and_succeeds(capsys):
    assert command.main([]) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^  (\S.*?)  .*?(\S+)  1e-0[67]  ok$", out, re.MULTILINE)
    assert [name for name, _ in rows] == [str(case) for case in [*CASES, *LAYERS, *MODELS]]
    assert all(float(error) < 1e-6 for _, error in rows)
    assert f"{len(rows)} checks, 0 failed" in out


def test_the_command_names_what_is_wrong_and_fails(capsys, monkeypatch):
    monkeypatch.setattr(command, "LAYERS", [])
    monkeypatch.setattr(command, "MODELS", [])
    monkeypatch.setattr(command, "CASES", [c for c in CASES if c.name in ("tanh", "exp")])
    rule = ops.tanh.rule

    def wrong(xp, x):
        y, backward = rule(xp, x)
        return y, lambda dy: (backward(dy)[0] * 1.001,)

    monkeypatch.setattr(ops.tanh, "rule", wrong)
    monkeypatch.setattr(ops.tanh, "fast", {})
    assert command.main([]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^  tanh .* 1\.0e-03  1e-07  FAIL$", out, re.MULTILINE)
    assert re.search(r"^  exp .* ok$", out, re.MULTILINE)
    assert "FAIL op tanh: gradcheck: input 0" in out
    assert "2 checks, 1 failed" in out


def test_the_command_survives_nan(capsys, monkeypatch):
    monkeypatch.setattr(command, "LAYERS", [])
    monkeypatch.setattr(command, "MODELS", [])
    monkeypatch.setattr(command, "CASES", [c for c in CASES if c.name == "tanh"])
    monkeypatch.setattr(ops.tanh, "rule", lambda xp, x: (xp.tanh(x), lambda dy: (dy * np.nan,)))
    monkeypatch.setattr(ops.tanh, "fast", {})
    assert command.main([]) == 1
    assert re.search(r"^  tanh .* nan  1e-07  FAIL$", capsys.readouterr().out, re.MULTILINE)


def test_the_worst_errors_make_a_u():
    (axes,) = command.plot_eps_sweep(0, "numpy").axes
    curves = {line.get_label(): line.get_data() for line in axes.lines if line.get_label() in command.SWEPT}
    assert list(curves) == list(command.SWEPT)
    for name, (eps, error) in curves.items():
        assert (eps[0], eps[-1]) == pytest.approx((1e-1, 1e-12))
        bottom = error.argmin()
        assert error[bottom] < 1e-9
        assert error[-1] > 1e4 * error[bottom], "rounding, left"
        if name == "causal_conv1d":  # linear in each entry: no truncation
            assert bottom < 5
        else:
            assert 1e-7 < eps[bottom] < 1e-3
            assert error[0] > 1e4 * error[bottom], "truncation, right"
    assert axes.get_xlabel()
    assert axes.get_ylabel()


@pytest.fixture
def few_cases(monkeypatch):
    monkeypatch.setattr(command, "CASES", [c for c in CASES if c.name in command.SWEPT])
    monkeypatch.setattr(command, "LAYERS", [])
    monkeypatch.setattr(command, "MODELS", [])


@pytest.mark.parametrize(("name", "start"), [("u.png", b"\x89PNG"), ("u.pdf", b"%PDF"), ("u.svg", b"<?xml")])
def test_the_plot_is_written_whole(few_cases, name, start, tmp_path):
    path = tmp_path / name
    assert command.main(["--eps-sweep", "--out", str(path)]) == 0
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary is left


def test_the_seed_decides_every_number(few_cases, capsys):
    outs = []
    for seed in ("0", "0", "1"):
        assert command.main(["--seed", seed]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] != outs[2]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sed", "1"], "unknown argument --sed, did you mean --seed"),
        (["--seed", "x"], "--seed: invalid int value"),
        (["--seed", "-1"], "--seed is -1, wanted"),
        (["--backend", "jax"], "--backend: invalid choice"),
        (["--backend", "cupy"], "CuPy cannot be imported"),
        (["-o", "u.txt"], "--out is u.txt, wanted a name that ends in"),
        (["-o", "no/such/u.png"], "--out is no/such/u.png, wanted a name in a folder that exists"),
    ],
)
def test_wrong_input_ends_with_one_line_and_code_2(argv, message, capsys, monkeypatch):
    backend._cupy.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit) as e:
        cli.run(lambda: command.main(argv), command.PROG)
    out, err = capsys.readouterr()
    assert (e.value.code, out, err.count("\n")) == (2, "", 1)
    assert message in err
