import contextlib
import importlib.util
import math
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minitok import devices
from minitok.checkpoints import NAME, held_back, read
from minitok.train import Plan, fit, pick_device, seconds_spent

SCRIPT = pathlib.Path(__file__).with_name("training_run.py")
RUN = runpy.run_path(str(SCRIPT))
PLAN, build, loss = RUN["PLAN"], RUN["build"], RUN["loss"]
QUIET = {"device": "cpu", "progress": False}


def copied(job, printed):
    """Runs a job in a copy of this process, which has torch already; it ends with the job. Returns its number."""
    with warnings.catch_warnings(action="ignore"):  # of the threads that a copy lacks: it needs none
        child = os.fork()
    if child == 0:
        signal.alarm(300)  # kills it
        warnings.simplefilter("ignore")  # as in a process of its own: Lightning warns of its own parts
        with open(printed, "a") as sys.stdout:
            try:
                job()
            except BaseException:
                traceback.print_exc(file=sys.stdout)
                sys.stdout.flush()
                os._exit(1)
        os._exit(0)
    return child


class Copied:
    """What stands for `subprocess.Popen` where Lightning starts its other processes: copies, not scripts begun anew."""

    def __init__(self, job, printed, command, env):
        assert command[-3:] == sys.argv[1:]
        self.pid, self.returncode = copied(lambda: (os.environ.update(env), job()), printed), None

    def poll(self):
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])

    def send_signal(self, number):
        os.kill(self.pid, number)


def forked(folder, end, devices):
    """Runs the script's `main` in copies of this process; returns exit status and output."""
    folder.mkdir(parents=True, exist_ok=True)
    printed = folder.with_suffix(".txt")
    printed.write_text("")

    def job():
        RUN["main"](folder, end, devices)

    def first():
        others = []
        if devices > 1:
            from lightning.fabric.strategies.launchers import subprocess_script

            sys.argv = [str(SCRIPT), str(folder), end, str(devices)]

            def popen(command, env, cwd):
                others.append(Copied(job, printed, command, env))
                return others[-1]

            subprocess_script.subprocess = SimpleNamespace(Popen=popen)
        job()
        for other in others:
            with contextlib.suppress(ChildProcessError):  # Lightning has seen its end
                os.waitpid(other.pid, 0)

    _, status = os.waitpid(copied(first, printed), 0)
    return os.waitstatus_to_exitcode(status), printed.read_text(), printed.read_text()


def start(folder, end="none", devices=1):
    """Runs the script to its end and returns its exit status and what it printed."""
    if hasattr(os, "fork"):
        return forked(folder, end, devices)
    root = str(SCRIPT.parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(SCRIPT), str(folder), end, str(devices)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    return done.returncode, done.stdout, done.stderr


def by_hand(plan, model, ranks=1):
    """What `fit` should do, written as a plain loop without its parts; returns the average of the weights."""
    weights = dict(model.named_parameters())
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
    for step in range(plan.steps):
        model.zero_grad()
        for rank in range(ranks):
            torch.manual_seed(plan.seed * 1_000_003 + step * 1009 + rank)
            (loss(model, step) / ranks).backward()
        if step < plan.warmup:
            rate = plan.lr * (step + 1) / plan.warmup
        else:
            turn = math.pi * (step - plan.warmup) / (plan.steps - plan.warmup)
            rate = plan.lr * (0.01 + 0.99 * (1 + math.cos(turn)) / 2)
        length = math.sqrt(sum(float(w.grad.square().sum()) for w in weights.values()))
        decay = min(plan.ema, (step + 1) / (step + 10))
        for name, w in weights.items():
            first, second = moments[name]
            gradient = w.grad * min(1.0, plan.clip / (length + 1e-6))
            first.mul_(plan.betas[0]).add_(gradient * (1 - plan.betas[0]))
            second.mul_(plan.betas[1]).add_(gradient.square() * (1 - plan.betas[1]))
            upright = [m / (1 - beta ** (step + 1)) for m, beta in zip((first, second), plan.betas, strict=True)]
            shrink = 1 - rate * plan.weight_decay * (w.dim() >= 2)
            w.data = w.data * shrink - rate * upright[0] / (upright[1].sqrt() + 1e-8)
            average[name] = decay * average[name] + (1 - decay) * w.data
    return average


def plain(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))


BASE = Plan(steps=12, lr=0.05, warmup=3, clip=0.5, ema=0.8, seed=1)
CHANGES = [
    {},
    {"steps": 15},
    {"lr": 0.01},
    {"warmup": 0},
    {"warmup": 40},
    {"weight_decay": 3.0},
    {"betas": (0.5, 0.99)},
    {"clip": 0.01},
    {"clip": 100.0},
    {"ema": 0.0},
    {"ema": 0.3},
    {"seed": 2},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_fit_is_a_plain_loop(change):
    plan = replace(BASE, **change)
    expected, trained = by_hand(plan, plain()), fit(plain(), loss, plan, **QUIET)
    torch.testing.assert_close(dict(trained.named_parameters()), expected, rtol=1e-4, atol=1e-5)
    if change:
        base = fit(plain(), loss, BASE, **QUIET)
        assert max((a - b).abs().max() for a, b in zip(base.parameters(), expected.values(), strict=True)) > 1e-4


def test_the_rate_climbs_a_line_then_falls_along_a_cosine():
    plan = Plan(steps=110, lr=2.0, warmup=10)
    expected = {0: 0.2, 4: 1.0, 9: 2.0, 10: 2.0, 60: 2 * 0.505, 35: 2 * (0.01 + 0.99 * 0.8535534), 109: 0.0204885}
    assert {step: plan.rate(step) for step in expected} == pytest.approx(expected, rel=1e-5)
    assert Plan(steps=1, warmup=0).rate(0) == 1e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"save_every": 0}, "save_every=0"),
        ({"seed": -1}, "seed=-1 came"),
        ({"lr": math.nan}, "lr=nan came, expected a finite number"),
        ({"clip": math.inf}, "clip=inf came"),
        ({"weight_decay": math.nan}, "weight_decay=nan"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]=1.0 is not in \[0, 1\)"),
        ({"betas": (math.nan, 0.9)}, r"betas\[0\]=nan"),
        ({"ema": math.nan}, "ema=nan"),
        ({"ema": 1.0}, r"ema=1.0 is not in \[0, 1\)"),
        ({"ema": -0.1}, "ema=-0.1"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"warmup": -1}, "warmup=-1"),
    ],
)
def test_wrong_plans_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Plan(**{"steps": 5} | wrong)


def test_statistics_are_averaged_and_counters_copied():
    model = fit(build(), loss, replace(PLAN, steps=9), **QUIET)
    assert int(model[1].num_batches_tracked) == 9
    assert 0 < model[1].running_mean.abs().max() < 10
    assert not model.training


def test_frozen_weights_stay():
    model = plain()
    model[0].requires_grad_(False)
    frozen, free = model[0].weight.clone(), model[4].weight.clone()
    fit(model, loss, BASE, **QUIET)
    assert torch.equal(model[0].weight, frozen)
    assert (model[4].weight - free).abs().max() > 1e-3


def test_dropout_acts_and_the_loss_learns_the_steps():
    steps, modes = [], []

    def watched(model, step):
        steps.append(step)
        modes.append(model.training)
        return loss(model, step)

    fit(plain().eval(), watched, BASE, **QUIET)
    assert steps == list(range(12))
    assert all(modes)


def test_a_killed_run_goes_on_to_bit_equal_weights(tmp_path):
    killed = -signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM
    whole = fit(build(), loss, PLAN, tmp_path / "whole", **QUIET).state_dict()
    runs = [start(tmp_path / "killed", end) for end in ("loss", "write", "none")]
    assert [run[0] for run in runs] == [killed, killed, 0], runs[-1][2]
    # Checkpoints come every 7 steps: the second run dies while it writes that of step 28, so that of step 21 stays.
    assert [run[1].splitlines()[0] for run in runs] == ["first step 0", "first step 21", "first step 21"]
    assert runs[-1][1].splitlines()[1] == "lightning False"
    states = [load_file(tmp_path / name / "state.safetensors") for name in ("killed", "whole")]
    assert states[0].keys() == states[1].keys()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []
    assert all(torch.equal(states[0][f"average.{name}"], weight) for name, weight in whole.items())


class Clock:
    """A clock that goes on by a second at each step: `monkeypatch.setattr(time, "perf_counter", clock)`."""

    now = 1000.0

    def __call__(self):
        return self.now

    def timed(self, loss):
        def step_of_a_second(model, step):
            self.now += 1
            return loss(model, step)

        return step_of_a_second


def stopping_at(step, how):
    """The loss, which at one step does something."""

    def watched(model, at):
        if at == step:
            how()
        return loss(model, at)

    return watched


def facts(folder):
    return read(folder / NAME, "")[0]


def interrupt():
    raise KeyboardInterrupt


def test_an_interrupted_run_adds_up_its_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", clock := Clock())
    with pytest.raises(KeyboardInterrupt):
        fit(build(), clock.timed(stopping_at(10, interrupt)), PLAN, tmp_path / "a", **QUIET)
    assert seconds_spent(tmp_path) == 11
    fit(build(), clock.timed(loss), PLAN, tmp_path / "a", **QUIET)
    assert seconds_spent(tmp_path) == 11 + 50
    fit(build(), clock.timed(loss), PLAN, tmp_path / "b" / "c", **QUIET)
    assert seconds_spent(str(tmp_path)) == 11 + 50 + 60
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["state.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_signal_ends_the_run_after_its_step_and_says_how_to_go_on(tmp_path, capsys, number):
    came, before = [], signal.signal(number, lambda *_: came.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(build(), stopping_at(10, lambda: signal.raise_signal(number)), PLAN, str(tmp_path), **QUIET)
    finally:
        signal.signal(number, before)
    assert came == [number]  # it came through at the end, to whom it was meant for
    assert "stopped after 11 of 60 steps; the same call goes on from" in capsys.readouterr().err
    assert facts(tmp_path)["step"] == "11"
    resumed, whole = (fit(build(), loss, PLAN, folder, **QUIET) for folder in (tmp_path, None))
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_a_second_signal_comes_through_at_once(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one was held back")

    with pytest.raises(KeyboardInterrupt):
        fit(build(), stopping_at(10, twice), PLAN, tmp_path, **QUIET)
    assert facts(tmp_path)["step"] == "10"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_folder_nothing_is_held_back():
    def stop():
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it was held back")

    with pytest.raises(KeyboardInterrupt):
        fit(build(), stopping_at(10, stop), PLAN, **QUIET)


def test_signals_that_are_ignored_stay_so_and_other_threads_hold_nothing_back():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back(True) as came:
            signal.raise_signal(signal.SIGINT)
        assert came == []
    finally:
        signal.signal(signal.SIGINT, before)
    kept = []
    thread = threading.Thread(target=lambda: kept.append(signal.getsignal(signal.SIGTERM)))
    with held_back(False):
        assert signal.getsignal(signal.SIGINT) is before
    worker = threading.Thread(target=lambda: fit(build(), loss, replace(PLAN, steps=2), **QUIET))
    for one in (thread, worker):
        one.start()
        one.join()
    assert kept == [signal.getsignal(signal.SIGTERM)]


def test_the_state_is_saved_every_half_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", clock := Clock())
    kill = stopping_at(45, lambda: (_ for _ in ()).throw(OSError("the power fails")))
    with pytest.raises(OSError, match="power"):
        fit(build(), clock.timed(kill), replace(PLAN, save_every=1000), tmp_path, **QUIET)
    assert facts(tmp_path)["step"] == "30"


class Others:
    """What several processes agree on, seen from one: so many signals came to all of them together."""

    device = torch.device("cpu")

    def __init__(self, signals):
        self.signals = signals

    def all_reduce(self, mine, reduce_op):
        assert reduce_op == "sum"
        return mine + self.signals


@pytest.mark.parametrize(("mine", "others", "expected"), [(0, 0, False), (1, 0, True), (0, 1, True), (0, None, False)])
def test_processes_stop_together(mine, others, expected):
    came = [signal.SIGINT] * mine
    assert devices.stopped(None if others is None else Others(others), came) is expected
    assert bool(came) is expected


def never(model, step):
    raise AssertionError("a finished folder was trained again")


def test_a_finished_folder_is_loaded(tmp_path):
    first = fit(build(), loss, PLAN, tmp_path, **QUIET)
    second = fit(build(seed=9), never, PLAN, tmp_path, **QUIET)
    for name, weight in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], weight), name


@pytest.mark.parametrize("change", [{"steps": 61}, {"lr": 0.02}, {"seed": 4}, {"betas": (0.8, 0.9)}])
def test_a_folder_of_another_plan_is_refused(tmp_path, change):
    fit(build(), loss, PLAN, tmp_path, **QUIET)
    with pytest.raises(ValueError, match="was trained by another plan"):
        fit(build(), never, replace(PLAN, **change), tmp_path, **QUIET)
    fit(build(), never, replace(PLAN, save_every=2, compile=True), tmp_path, **QUIET)


@pytest.mark.parametrize(("bad_at", "value"), [(0, math.nan), (3, math.inf), (26, math.nan), (59, math.inf)])
def test_a_loss_that_is_no_number_ends_the_run_at_its_step(tmp_path, bad_at, value):
    def broken(model, step):
        return loss(model, step) * (value if step == bad_at else 1.0)

    model = build()
    with pytest.raises(ArithmeticError, match=rf"the loss is \w+ at step {bad_at}:"):
        fit(model, broken, PLAN, tmp_path, **QUIET)
    assert facts(tmp_path)["step"] == str(bad_at)
    # What is kept is the state before that step, so a run whose loss was mended goes on as if nothing had been.
    mended, whole = (fit(build(), loss, PLAN, folder, **QUIET) for folder in (tmp_path, None))
    assert all(torch.equal(a, b) for a, b in zip(mended.buffers(), whole.buffers(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(mended.parameters(), whole.parameters(), strict=True))


def test_a_gradient_that_is_no_number_ends_the_run_before_its_step(tmp_path):
    def root_of_zero(model, step):
        return loss(model, step) + (model[0].weight * (step != 8)).square().sum().sqrt()

    model = build()
    with pytest.raises(ArithmeticError, match=r"the gradient's norm is nan at step 8, where the loss is \d"):
        fit(model, root_of_zero, PLAN, tmp_path, **QUIET)
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert all(weight.grad is None for weight in model.parameters())
    assert facts(tmp_path)["step"] == "8"


def test_data_that_ruin_running_statistics_leave_them_as_they_were():
    def poisoned(model, step):
        if step == 5:
            return model(torch.full((16, 4), math.nan)).mean()
        return loss(model, step)

    model = build()
    with pytest.raises(ArithmeticError, match="at step 5"):
        fit(model, poisoned, PLAN, **QUIET)
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    assert int(model[1].num_batches_tracked) == 5


@pytest.mark.parametrize("folder", [True, False])
def test_weights_that_are_no_numbers_are_neither_saved_nor_returned(tmp_path, folder):
    def far(model, step):
        model[1](torch.randn(16, 8) * 1e30)  # its variance is no float32: the loss is fine, the statistics are not
        return loss(model, step)

    with pytest.raises(ArithmeticError, match=r"model\.1\.running_var holds NaN or infinity after step 2:"):
        fit(build(), far, replace(PLAN, steps=3), tmp_path if folder else None, **QUIET)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_poisoned_folder_names_its_file_and_the_way_out(tmp_path):
    fit(build(), loss, replace(PLAN, steps=2), tmp_path, **QUIET)
    path = tmp_path / NAME
    content = path.read_bytes()
    for damaged in (content[:-100], content[:5], b""):
        path.write_bytes(damaged)
        for job in (
            lambda: fit(build(), never, replace(PLAN, steps=2), tmp_path, **QUIET),
            lambda: seconds_spent(tmp_path),
        ):
            with pytest.raises(
                ValueError, match=r"state\.safetensors is damaged \(.+\): delete it, and the run begins"
            ):
                job()
    path.write_bytes(content)
    known, state = read(path, "")
    save_file(state | {"model.4.weight": state["model.4.weight"] * math.nan}, path, metadata=known)
    with pytest.raises(ValueError, match=r"state\.safetensors holds NaN or infinity in model\.4\.weight: delete it"):
        fit(build(), never, replace(PLAN, steps=2), tmp_path, **QUIET)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"state\.safetensors cannot be written"):
            fit(build(), never, PLAN, folder, **QUIET)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_below_home_may_be_given_as_a_shell_writes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    fit(build(), loss, replace(PLAN, steps=1), "~/run", **QUIET)
    assert (tmp_path / "run" / NAME).is_file()


def test_a_folder_of_another_model_is_refused(tmp_path):
    fit(build(), loss, replace(PLAN, steps=2), tmp_path, **QUIET)
    with pytest.raises(
        ValueError, match=r"state\.safetensors holds another model .*: give another folder, or delete it"
    ):
        fit(plain(), never, replace(PLAN, steps=2), tmp_path, **QUIET)


def test_the_random_numbers_after_a_run_do_not_depend_on_how_often_it_was_interrupted(tmp_path):
    drawn = []
    for _ in range(2):  # the second time the folder is finished, and no step is made
        fit(build(), loss, PLAN, tmp_path, **QUIET)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_one_line_that_can_be_turned_off(capsys, progress):
    fit(build(), loss, replace(PLAN, steps=3), device="cpu", progress=progress)
    written = capsys.readouterr().err
    assert ("loss" in written and "3/3" in written) == progress
    assert progress or not written


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("cuda", 0, "torch sees no GPU"),
        ("cuda:0", 0, "torch sees no GPU"),
        ("cuda:2", 2, "torch sees 2 GPU"),
        ("gpu", 2, "device='gpu' came"),
    ],
)
def test_wrong_devices_are_refused(monkeypatch, name, gpus, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=message):
        pick_device(name)
    with pytest.raises(ValueError, match=message):
        fit(build(), never, PLAN, device=name)


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 1, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_devices_by_name(monkeypatch, name, gpus, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert pick_device(name) == torch.device(expected)


@pytest.mark.parametrize(("number", "message"), [(0, "devices=0 came"), (-1, "devices=-1"), (3, "torch sees 2 GPU")])
def test_wrong_numbers_of_devices_are_refused(monkeypatch, number, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=message):
        fit(build(), never, PLAN, device="cuda", devices=number)


def test_a_missing_lightning_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    with pytest.raises(ImportError, match=r"pip install 'minitok\[train\]'"):
        fit(build(), never, PLAN, device="cpu", devices=2)


@pytest.mark.parametrize("asked", [True, False])
def test_a_gpu_runs_in_bfloat16_and_compiled_where_that_is_asked_for(monkeypatch, asked):
    model = build()
    monkeypatch.setattr(torch, "compile", lambda model: "compiled")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is no GPU
        runner, precision = devices.faster(model, torch.device("cuda"), asked)
    assert runner == "compiled" if asked else runner is model
    assert (precision.device, precision.fast_dtype) == ("cuda", torch.bfloat16)
    runner, precision = devices.faster(model, torch.device("cpu"), asked)
    assert runner is model
    with precision:
        assert model(torch.zeros(2, 4)).dtype == torch.float32


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="Lightning is not installed")
def test_two_processes_take_the_mean_of_their_gradients(tmp_path):
    status, printed, errors = start(tmp_path, devices=2)
    assert status == 0, errors
    assert "lightning True" in printed
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    expected = by_hand(replace(PLAN, steps=5), build(), ranks=2)
    torch.testing.assert_close({name: ranks[0][name] for name in expected}, expected, rtol=1e-4, atol=1e-5)
    alone = fit(build(), loss, replace(PLAN, steps=5), **QUIET)
    assert (alone[0].weight - ranks[0]["0.weight"]).abs().max() > 1e-4
    finished = fit(build(), never, replace(PLAN, steps=5), tmp_path, **QUIET)
    assert torch.equal(finished[0].weight, ranks[0]["0.weight"])
