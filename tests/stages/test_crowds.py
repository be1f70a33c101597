"""Clips by their objects: the figures on made-up answers, and the whole on a host that has learnt nothing."""

import json

import pytest
import torch

from minitok import house
from minitok.house import Options
from minitok.nn import Shape
from minitok.project.langdc import Captioner, LangDC
from minitok.stages import crowds, project
from minitok.vlm import ManyVLM


def test_figures_by_objects():
    objects = torch.tensor([1, 2, 3, 4, 4])
    ours, other = torch.tensor([100.0, 80, 60, 40, 20]), torch.tensor([100.0, 60, 60, 20, 10])
    found = crowds.summed(ours, objects)
    assert (found["right"], found["crowded"]) == (60, 40)
    assert found["by objects"] == [100, 80, 60, 30]
    apart = crowds.gaps(ours, other, objects)
    assert apart["all"][0] == 10
    assert apart["all"][1] == pytest.approx(2 * 10 / 5**0.5)
    assert apart["crowded"] == pytest.approx([10, 2 * 10 / 3**0.5])


def test_the_whole_on_a_host_that_knows_nothing(tmp_path, monkeypatch):
    torch.manual_seed(0)
    host = ManyVLM(Shape(width=12, layers=1, heads=2), len(house.recipe("vlm_many").WORDS)).eval().requires_grad_(False)
    monkeypatch.setattr(house, "load", lambda name: host)
    expert = Captioner(12, Shape(width=8, layers=1, heads=2), layer=1)
    torch.nn.init.normal_(expert.head.weight)
    methods = {k: LangDC(expert, d=12, most=k // 2).requires_grad_(False) for k in (40, 22)}
    monkeypatch.setattr(project, "trained", lambda name, k, folder: methods[k])
    monkeypatch.setattr(crowds, "TRIED", (("langdc", 40), ("langdc", 22)))
    facts = crowds.measure(tmp_path, Options(device="cpu"), clips=6)
    assert json.loads((tmp_path / crowds.NAME).read_text())["clips"] == facts["clips"] == 6
    rows = {row["method"]: row for row in facts["rows"]}
    assert list(rows) == ["the host itself", "langdc, 40", "langdc, 22"]
    assert rows["the host itself"]["tokens"] == 512
    held = project.stage(6, "clips")
    assert rows["the host itself"]["cost"] == pytest.approx(1 + held.full.own)
    few = held.cost(round(rows["langdc, 22"]["tokens"])) / held.cost(512)
    assert rows["langdc, 22"]["cost"] == pytest.approx(few + held.measure(methods[22], 22).own)
    assert facts["questions"] == int(held.which.sum())
    assert rows["langdc, 22"]["tokens"] == methods[22].tokens(held.features)[1].sum(1).float().mean()
    assert facts["gaps"]["langdc, 40"]["all"] == [0, 0]
    right = held.measure(methods[40], 40).correct.float()
    first = 100 * float(right[held.asked.scene[held.which] == 0].mean())
    assert crowds.by_clip(right, held.asked.scene[held.which], 6)[0] == pytest.approx(first)
