"""Ctrl-C, SIGTERM and SIGHUP at every state, once and twice: what was trained is saved, which a line says."""

import os
import re
import signal
import subprocess
import sys

import pytest
from helpers import crashes
from helpers.campaigns import Campaign, campaign, pick
from helpers.children import Child, Orders, minigam, posix

pytestmark = posix

SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"]
STATES = {
    "reading the text": ("minigam.train:make_corpus", 1),
    "making the folder": ("minigam.training.run:Run.create", 1),
    "in the first step": ("minigam.training.loop:begin_step", 1),
    "in a later step": ("minigam.training.loop:begin_step", 2),
    "validating": ("minigam.training.loop:evaluate", 1),
    "validating at the end": ("minigam.training.loop:evaluate", 2),
    "saving": ("minigam.training.run:Run.save", 2),
    "plotting": ("minigam.training.run:Run.plot", 1),
    "sampling": ("minigam.train:continued", 1),
}


def message(child: Child, path, times: int) -> str:
    """Return what is wrong with how signals ended a training. A second one may cut the message short."""
    if child.code == 0:
        return ""
    if child.code not in (130, 143, 129) or "Traceback" in child.err or child.err.count("\n") > 6:
        return f"exit code {child.code}: {child.err}"
    metrics = path / "metrics.jsonl"
    training = metrics.exists() and metrics.stat().st_size > 0 and "Saved in" not in child.out
    told = re.search(r"[Ss]tep \d+ is saved", child.err) and "--resume" in child.err
    cut_short = times == 2 and child.err.count("\n") == 1
    if training and not told and not cut_short:
        return f"it does not say what is saved and how to continue: {child.err}"
    return "" if "interrupted" in child.err or "stopped" in child.err else f"it does not say why: {child.err}"


def interrupt(server, c: Campaign, path, run: crashes.Whole, orders: Orders, what: str) -> Child:
    """Train with a signal as ordered, then resume; count what is wrong under `what`."""
    child = server.run(minigam, "train", *run.flags, f"--out={path}", orders=orders)
    c.count("signals", min(orders.times, max(0, len(child.operations) - orders.at + 1)))
    if wrong := message(child, path, orders.times) or crashes.end(server, path, run):
        c.fault(f"{what}: {wrong}")
    return child


def signals(k: int) -> list[str]:
    """Return the signals for trial k: all of them in the long form, one in turn in the short one."""
    return pick([SIGNALS[k % 3]], SIGNALS)


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_a_signal_in_each_state(times, server, text, tmp_path):
    with campaign(f"signals_{['once', 'twice'][times - 1]}") as c:
        run = crashes.whole(server, tmp_path / "whole", crashes.flags_of(text, "--steps=4"))
        for k, (state, (call, at)) in enumerate(STATES.items()):
            for name in signals(k + times):
                path = tmp_path / f"{name}{k}"
                orders = Orders(path, call=call, at=at, does=signal.Signals[name], times=times)
                child = interrupt(server, c, path, run, orders, f"{name} {state}")
                assert len(child.operations) >= at, f"never {state}"


def test_a_signal_before_each_file_operation(server, text, tmp_path):
    with campaign("signals_at_operations") as c:
        run = crashes.whole(server, tmp_path / "whole", crashes.flags_of(text))
        for n in range(1, run.operations + 1, pick(8, 1)):
            for name in signals(n // 8):
                for times in pick((1 + n % 2,), (1, 2)):
                    path = tmp_path / f"{name}{times}-{n}"
                    orders = Orders(path, at=n, does=signal.Signals[name], times=times)
                    what = f"{name} {times} times before operation {n}"
                    interrupt(server, c, path, run, orders, what)


def test_a_signal_to_an_experiment(server, tmp_path):
    with campaign("signals_to_an_experiment") as c:
        whole = tmp_path / "whole"
        operations = len(server.run(crashes.table, whole, orders=Orders(whole)).operations)
        for n in range(1, operations + 1, pick(31, 3)):
            for name in signals(n // 31):
                path = tmp_path / f"{name}{n}"
                orders = Orders(path, at=n, does=signal.Signals[name])
                child = server.run(crashes.table, path, orders=orders)
                c.count("signals")
                wrong = f"exit code {child.code}: {child.err}" if "Traceback" in child.err else ""
                again = server.run(crashes.table, path, orders=Orders(path))
                wrong = wrong or (f"again: {again.err}" if again.code else "")
                if wrong := wrong or crashes.differing_tables(path, whole):
                    c.fault(f"{name} before {child.operations[n - 1]}: {wrong}")


AT_AN_IMPORT = """
import os, sys

def hook(event, args, count=[0]):
    if event == "import" and (count[0] or args[0] == "minigam.config"):
        count[0] += 1
        if count[0] == int(os.environ["AT"]):
            import signal
            signal.raise_signal(int(os.environ["SIGNAL"]))

sys.addaudithook(hook)
"""


def test_a_signal_while_python_imports(tmp_path):
    """In the command as a user starts it: from minigam's first module on, until its main runs."""
    (tmp_path / "sitecustomize.py").write_text(AT_AN_IMPORT, encoding="utf-8")
    command = [sys.executable, "-m", "minigam", "train", "--stories=0"]
    with campaign("signals_while_importing") as c:
        for at in pick((2, 150), range(1, 400, 10)):
            for name in signals(0):
                number = signal.Signals[name]
                settings = {"PYTHONPATH": str(tmp_path), "AT": str(at), "SIGNAL": str(int(number))}
                done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
                if done.returncode == 2:  # the flag is refused: no import was left
                    continue
                c.count("signals")
                silent = done.returncode == -number and not done.stderr and name != "SIGINT"
                told = done.returncode in (130, 128 + number) and done.stderr.count("\n") == 1
                if not silent and not told:
                    c.fault(f"{name} at import {at}: exit code {done.returncode}: {done.stderr}")
