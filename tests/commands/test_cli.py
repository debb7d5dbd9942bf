"""The commands as a user meets them: wrong input is one line and exit code 2, never a traceback."""

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from helpers.commands import ON_TEXT, SMALL, assert_refused, call

from minigam import __main__ as listing
from minigam import backend, cli, evaluate, generate, train
from minigam.data import __main__ as data
from minigam.experiments import __main__ as experiments
from minigam.explain import __main__ as explain
from minigam.gradcheck import __main__ as gradcheck
from minigam.training import loop, profile
from minigam.training.run import Run


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "t.txt"
    path.write_text("Some text, long enough for a few blocks.\n" * 40)
    return path


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--stepz=3"], ["--stepz=3", "did you mean --steps"]),
        (["stray"], ["unknown argument stray"]),
        (["--steps=many"], ["--steps", "'many'"]),
        (["--steps"], ["--steps", "expected one argument"]),
        (["--backend=tpu"], ["--backend", "'tpu'", "numpy"]),
        (["--model=transformer", "--kernel-size=4"], ["--kernel-size does not belong", "transformer"]),
        (["--model=transformer", "--n-heads=3"], ["n_heads is 3", "divisor of d_model 8"]),
        (["--mixer=none"], ["--mixer", "gated"]),
        (["--d-model=0"], ["d_model is 0", "at least 1"]),
        (["--d-model=-8"], ["d_model is -8", "at least 1"]),
        (["--kernel-size=0"], ["kernel_size is 0", "at least 1"]),
        (["--kernel-size=-1"], ["kernel_size is -1", "at least 1"]),
        (["--n-slots=0"], ["n_slots is 0"]),
        (["--n-layers=0"], ["n_layers is 0"]),
        (["--block-size=0"], ["block_size is 0"]),
        (["--block-size=20"], ["block_size is 20", "one whole story"]),
        (["--dropout=1.0"], ["dropout is 1.0", "< 1"]),
        (["--dropout=nan"], ["dropout is nan"]),
        (["--lr=0"], ["lr is 0.0", "above 0"]),
        (["--lr=inf"], ["lr is inf"]),
        (["--batch-size=0"], ["batch_size is 0"]),
        (["--micro-batch=-1"], ["micro_batch is -1"]),
        (["--steps=0"], ["steps is 0"]),
        (["--seed=-1"], ["seed is -1"]),
        (["--precision=tf32"], ["precision tf32 on numpy", "choose --precision float32"]),
        (["--beta2=1"], ["beta2 is 1.0"]),
        (["--valid=v.txt"], ["valid is", "--text"]),
        (["--resume=missing"], ["missing", "not a folder"]),
        (["--prompt=Once upon a zebra"], ["unknown words 'zebra'"]),
    ],
)
def test_train_refuses(flags, wanted, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(train.main, [*SMALL, *flags], capsys, *wanted)
    assert not [p for p in tmp_path.rglob("*.safetensors") if p.stat().st_size == 0]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\0\0", "binary"),
        (b"caf\xe9 au lait" * 99, "not UTF-8"),
        (b"short", "block"),
        (None, "No such file"),
    ],
)
def test_train_refuses_a_text_it_cannot_use(content, wanted, capsys, tmp_path):
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    out = tmp_path / "run"
    argv = [*ON_TEXT, f"--text={tmp_path / 't.txt'}", f"--out={out}"]
    assert_refused(train.main, argv, capsys, "t.txt", wanted)
    assert not out.exists()


def test_train_refuses_a_block_longer_than_the_data(capsys, text, tmp_path):
    argv = [*ON_TEXT, f"--text={text}", "--block-size=5000", f"--out={tmp_path / 'run'}"]
    assert_refused(train.main, argv, capsys, "5001", "--block-size")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--bpe-size=300"], ["--bpe-size has no effect on PocketStories", "omit it"]),
        (["--tokenizer=char"], ["--tokenizer has no effect on PocketStories"]),
        (["--text=t.txt", "--stories=9"], ["--stories has no effect with --text"]),
        (["--text=t.txt", "--valid-stories=9"], ["--valid-stories has no effect with --text"]),
        (["--text=t.txt", "--data-seed=0"], ["--data-seed has no effect with --text"]),
        (["--text=t.txt", "--bpe-size=300"], ["--bpe-size has no effect with --tokenizer char"]),
    ],
)
def test_train_refuses_what_decides_nothing_about_the_data(
    flags, wanted, capsys, text, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert_refused(train.main, [*ON_TEXT, *flags], capsys, *wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["t.txt"]


def test_what_decides_something_about_the_data_is_taken(text, tmp_path):
    pytest.importorskip("tokenizers", reason="the extra `data` is not installed")
    flags = [*ON_TEXT, f"--text={text}", "--block-size=8", "--tokenizer=bpe", "--bpe-size=300"]
    assert train.main([*flags, f"--out={tmp_path / 'run'}"]) == 0
    assert Run(tmp_path / "run").config.data.bpe_size == 300


def test_train_refuses_a_folder_it_cannot_write(capsys, text, tmp_path):
    argv = [*ON_TEXT, f"--text={text}", "--block-size=32"]
    assert_refused(train.main, [*argv, f"--out={text / 'run'}"], capsys, "t.txt", "--out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    assert_refused(train.main, [*argv, f"--out={tmp_path / 'full'}"], capsys, "not empty", "--resume")
    assert (tmp_path / "full" / "mine").read_text() == "precious"


def test_auto_is_one_friendly_line(capsys, monkeypatch):
    monkeypatch.setattr(backend, "choose", lambda name: ("numpy", "CuPy is not installed"))
    assert cli.choose_backend("auto") == "numpy"
    assert capsys.readouterr().err == "backend numpy (auto: CuPy is not installed)\n"
    cli.choose_backend("numpy")
    assert capsys.readouterr().err == ""


def test_cupy_that_is_not_there_is_one_line(capsys, monkeypatch):
    backend._cupy.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert_refused(train.main, [*SMALL[1:], "--backend=cupy"], capsys, "CuPy cannot be imported", "numpy")
    backend._cupy.cache_clear()


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--prompt=Once upon a zebra"], ["unknown words 'zebra'"]),
        (["--temperature=-1"], ["--temperature is -1.0"]),
        (["--temperature=nan"], ["--temperature is nan"]),
        (["--top-k=0"], ["--top-k is 0"]),
        (["--tokens=-1"], ["--tokens is -1"]),
        (["--seed=-1"], ["--seed is -1"]),
        (["--promt=x"], ["did you mean --prompt"]),
    ],
)
def test_generate_refuses(flags, wanted, capsys, run_folder):
    assert_refused(generate.main, [run_folder, "--backend=numpy", *flags], capsys, *wanted)


def test_generate_refuses_a_folder_that_is_no_run(capsys, tmp_path):
    assert_refused(generate.main, [tmp_path / "nowhere"], capsys, "nowhere", "not a folder")
    assert_refused(generate.main, [tmp_path], capsys, "config.json")


def test_weights_are_refused_beside_another_tokenizer_or_config(capsys, run_folder, tmp_path):
    for name, old, new in (("tokenizer.json", "Lily", "Lila"), ("config.json", '"lr": 0.003', '"lr": 0.004')):
        copy = Path(shutil.copytree(run_folder, tmp_path / name))
        text = (copy / name).read_text()
        assert old in text
        (copy / name).write_text(text.replace(old, new))
        wanted = f"model.safetensors: belongs to another {name}"
        for main in (generate.main, evaluate.main):
            assert_refused(main, [copy, "--backend=numpy"], capsys, wanted)
        wanted = "data of this run has changed" if name == "tokenizer.json" else wanted[5:]
        assert_refused(
            train.main, ["--resume", copy, "--backend=numpy"], capsys, wanted.replace("model", "optimizer")
        )


EMPTY = {
    train: [
        [*SMALL, *flags]
        for flags in (["--out="], ["--out", ""], ["--resume="], ["--text="], ["--text=t.txt", "--valid="])
    ],
    generate: ([""],),
    evaluate: ([""], ["run", "--json="]),
    explain: ([""], ["run", "--out="]),
    data: (
        ["list", "--data-root="],
        *(["prepare", "wikitext-2", flag] for flag in ("--from=", "--train=", "--valid=", "--out=")),
    ),
    experiments: (["table1", "--out="], ["reach", ""]),
    gradcheck: (["--out="],),
}


@pytest.mark.parametrize(
    ("main", "argv"), [(command.main, argv) for command, given in EMPTY.items() for argv in given]
)
def test_an_empty_path_is_not_the_current_folder(main, argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(main, argv, capsys, "an empty name, wanted the name of a file or folder")
    assert not list(tmp_path.iterdir())


OUT_OF_MEMORY = [MemoryError("Unable to allocate 9.5 GiB"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_memory_that_ends_is_one_line_naming_the_flags_and_the_folder(error, capsys, tmp_path, monkeypatch):
    def step(model, optimizer, *args):
        if optimizer.steps == steps_that_fit:
            raise error
        return real_step(model, optimizer, *args)

    real_step = loop.begin_step
    monkeypatch.setattr(loop, "begin_step", step)
    for steps_that_fit in (0, 1):
        path = tmp_path / f"run{steps_that_fit}"
        flags = [*SMALL, "--checkpoint-every=1", f"--out={path}"]
        code, _, err = call(train.main, flags, capsys)
        assert code == 1
        assert err.splitlines()[-1] == (
            f"minigam train: out of memory ({error}). "
            f"Step {steps_that_fit} is saved in {path}. "
            "Start again with --micro-batch 1, or a smaller --batch-size."
        )
        assert Run(path).saved_step() == steps_that_fit


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_memory_that_ends_elsewhere_is_one_line_too(error, capsys, monkeypatch):
    def measure(*args):
        raise error

    monkeypatch.setattr(profile, "measure", measure)
    code, _, err = call(train.main, [*SMALL, "--profile"], capsys)
    assert (code, err) == (1, f"command: out of memory ({error}); choose a smaller model or batch\n")


def test_an_error_that_is_not_about_memory_is_shown_whole(monkeypatch):
    def fail():
        raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")

    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        cli.run(fail, "command")


def test_underscores_do_as_well_as_hyphens(tmp_path, capsys):
    flags = [f.replace("--", "\0").replace("-", "_").replace("\0", "--") for f in SMALL]
    code, _, err = call(train.main, [*flags, f"--out={tmp_path / 'run'}"], capsys)
    assert code == 0, err
    assert Run(tmp_path / "run").config.model.d_model == 8


def test_default_folders_are_numbered_and_never_overwritten(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    for n in (1, 2):
        assert train.main([*ON_TEXT, f"--text={text}", "--block-size=32"]) == 0
        assert (tmp_path / "runs" / f"t-{n}" / "model.safetensors").is_file()


def test_training_ends_with_a_table_and_a_sample(run_folder, capsys):
    assert train.main([f"--resume={run_folder}", "--backend=numpy"]) == 0
    out = capsys.readouterr().out
    for word in ("syntax", "choice", "recall", "syntax+choice", "floor", "A sample"):
        assert word in out


@pytest.mark.parametrize("preset", train.PRESETS)
def test_presets_name_only_fields_that_exist(preset):
    assert set(train.PRESETS[preset]) <= train._FLAGS


PARTS = {"experiments": ("table1", "table2", "table3", "recall", "reach"), "data": ("prepare", "fetch"),
         "course": ("build", "exercises", "status", "class", "grade")}  # fmt: skip


@pytest.mark.parametrize(
    "command", [f"{c} {part}".strip() for c in listing.COMMANDS for part in PARTS.get(c, ("",))]
)
def test_every_command_has_help_with_defaults(command):
    """Through the real interpreter: this is what `python -m` does."""
    argv = [sys.executable, "-W", "error", "-m", *f"minigam.{command} --help".split()]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "default" in done.stdout
    if not command.startswith(("data", "course")):  # which draws nothing and computes nothing
        assert "--seed" in done.stdout
        assert "--backend" in done.stdout


def test_errors_leave_through_the_real_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "minigam.train", "--d-model", "0"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("minigam train: d_model is 0")
    assert "Traceback" not in done.stderr


def test_the_list_of_commands(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["minigam"])
    listing.main()
    out = capsys.readouterr().out
    for command in listing.COMMANDS:
        assert f"  minigam {command}" in out
        module = import_module(f"minigam.{command}")
        assert module.__doc__
