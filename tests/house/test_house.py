"""The shipped models: each is whole, is what its card says, and has at least one figure of its card right now."""

import json
import pathlib

import pytest
import torch

from minitok import files, house, stages
from minitok.data import clothing, mnist
from minitok.house import _common
from minitok.house.image_gpt import ImageGPT
from minitok.house.sampling import sample
from minitok.metrics import flops
from minitok.nn import Cache, Shape
from minitok.train import Plan, fit

# A model of one lesson may have its recipe before it is trained: it counts from its card on.
SHIPPED = (*house.NAMES, *(n for n in house.OF_LESSONS if files.shipped("checkpoints", f"{n}.json").exists()))


def at_hand(name: str) -> bool:
    """Whether the data that a model's quick figure needs can be had here."""
    if name.startswith("vlm"):
        return True
    if name != "digits":
        return clothing.at_hand()
    try:
        return len(mnist.load("test").labels) == 1000
    except ConnectionError:
        return False


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_loads_frozen_and_in_eval_mode(name):
    model = house.load(name)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(v.dtype == torch.float32 for v in model.state_dict().values() if v.is_floating_point())
    facts = house.card(name)
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["sha256"] == files.sha256(files.shipped("checkpoints", f"{name}.safetensors"))
    assert {"recipe", "data", "seed", "steps", "figures", "trained"} <= facts.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_figure_of_the_card_is_found_again(name):
    if not at_hand(name):
        pytest.skip("the data are neither in the cache nor in the folder MINITOK_DATA")
    for figure, value in house.recipe(name).quick(house.load(name)).items():
        # half a hundredth for rounding between processors; one image more or less right is 0.1 of digits' 1,000
        assert value == pytest.approx(house.card(name)["figures"][figure], abs=0.11 if name == "digits" else 0.02)


def test_what_the_house_models_must_reach():
    figures = {name: house.card(name)["figures"] for name in house.NAMES}
    assert figures["digits"]["accuracy on 1,000 held-out digits (%)"] >= 97.5
    assert figures["vit"]["accuracy on the 372 test photographs (%)"] >= 75
    tokenizer = figures["tokenizer"]
    assert tokenizer["PSNR from codes (dB)"] >= 27.5
    assert tokenizer["codebook use (%)"] >= 95
    for other in ("JPEG", "WEBP"):
        assert tokenizer["Frechet distance from codes"] < tokenizer[f"Frechet distance from {other}"]
    assert figures["image_draft"]["cost of image_gpt a step over its own"] >= 6


def test_what_the_models_of_lessons_must_reach():
    figures = {name: house.card(name)["figures"] for name in ("titok", "one_d_piece")}
    assert figures["titok"]["PSNR from 64 tokens (dB)"] >= 23
    lengths = [figures["one_d_piece"][f"PSNR from {k} tokens (dB)"] for k in (1, 2, 4, 8, 16, 32, 64)]
    assert lengths == sorted(lengths)
    assert lengths[0] >= 13


def copied(folder: pathlib.Path) -> pathlib.Path:
    for end in ("json", "safetensors"):
        (folder / f"digits.{end}").write_bytes(files.shipped("checkpoints", f"digits.{end}").read_bytes())
    return folder


@pytest.mark.parametrize("end", ["json", "safetensors"])
@pytest.mark.parametrize("length", [0, -2, None])
def test_a_damaged_or_missing_checkpoint_is_refused_with_its_file_and_the_way_out(tmp_path, end, length):
    path = copied(tmp_path) / f"digits.{end}"
    content = path.read_bytes()[:length]
    path.unlink()
    if length is not None:
        path.write_bytes(content)
    error, told = (FileNotFoundError, "there is no") if length is None else (ValueError, "damaged")
    with pytest.raises(error, match=rf"digits\.{end}.*`minitok train digits --folder") as caught:
        house.load("digits", tmp_path)
    assert told in str(caught.value)


@pytest.mark.parametrize(("clone", "way"), [(True, "`git checkout -- .*` brings it back"), (False, "install minitok")])
def test_a_damaged_shipped_checkpoint_names_the_way_out(tmp_path, monkeypatch, clone, way):
    path = copied(tmp_path) / "digits.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(files, "shipped", lambda *parts: tmp_path.joinpath(*parts[1:]))
    monkeypatch.setattr(files, "in_checkout", lambda: clone)
    with pytest.raises(ValueError, match=f"SHA-256 .*{way}"):
        house.load("digits")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="no house model is called 'vti'; there are digits"):
        house.load("vti")


def test_a_recipe_writes_checkpoint_and_card_and_goes_on(tiny, tmp_path):
    facts = trained(tmp_path)
    assert json.loads((tmp_path / "tiny.json").read_text()) == facts
    assert (facts["steps"], facts["seed"], facts["figures"]) == (5, 3, {"weight": facts["figures"]["weight"]})
    loaded = house.load("tiny", tmp_path)
    # measured after the rounding to half precision: what is shipped is what was measured
    assert float(loaded.weight) == pytest.approx(facts["figures"]["weight"], abs=5e-5)
    again = trained(tmp_path)
    assert again["sha256"] == facts["sha256"]
    assert again["trained"]["seconds"] == facts["trained"]["seconds"]


class Tiny:
    """A recipe of a few weights, trained in two parts, of which the second begins where the first has ended."""

    PLAN = Plan(steps=100, lr=0.1, warmup=1, save_every=2)
    DATA = "none"
    fails_at: int | None = None

    @staticmethod
    def build() -> torch.nn.Module:
        return torch.nn.Linear(1, 1, bias=False)

    @classmethod
    def train(cls, folder: pathlib.Path, options: house.Options) -> torch.nn.Module:
        def loss(model: torch.nn.Module, step: int) -> torch.Tensor:
            if step == cls.fails_at:
                raise OSError("the power fails")
            return model(torch.rand(4, 1)).pow(2).mean()

        teacher = fit(cls.build(), loss, options.apply(cls.PLAN), folder / "teacher", **options.where())
        student = torch.nn.Sequential(cls.build(), teacher.requires_grad_(False))
        return fit(student, loss, options.apply(cls.PLAN), folder, **options.where())[0]

    @staticmethod
    def measure(model: torch.nn.Module) -> dict[str, float]:
        return {"weight": float(model.weight)}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "NAMES", ("tiny",))
    monkeypatch.setattr(house, "recipe", lambda name: Tiny)


def trained(folder: pathlib.Path, seed: int = 3, **how: object) -> dict:
    return house.train("tiny", folder, house.Options(steps=5, seed=seed, device="cpu", progress=False), **how)


def test_the_seed_decides_the_weights_bit_by_bit_however_often_a_run_is_interrupted(tiny, tmp_path, monkeypatch):
    first = trained(tmp_path / "a")
    assert first["seeded"] == "initial weights, batches and dropout"
    torch.rand(7)  # what was drawn before does not matter
    assert trained(tmp_path / "b")["sha256"] == first["sha256"]
    for step in (3, 4):
        monkeypatch.setattr(Tiny, "fails_at", step)
        with pytest.raises(OSError, match="power"):
            trained(tmp_path / "c")
        torch.rand(step)
    # The first part is finished by itself, so that the second begins in a run that has made no step of the first.
    monkeypatch.setattr(Tiny, "fails_at", None)
    (tmp_path / "c" / "state.safetensors").unlink(missing_ok=True)
    assert trained(tmp_path / "c")["sha256"] == first["sha256"]
    (tmp_path / "c" / "state.safetensors").unlink()
    assert trained(tmp_path / "c")["sha256"] == first["sha256"]
    assert trained(tmp_path / "d", seed=4)["sha256"] != first["sha256"]


@pytest.mark.parametrize(
    ("clone", "steps", "told"), [(False, None, "only a clone"), (True, 5, "steps=5 makes a rehearsal")]
)
def test_only_a_whole_run_in_a_clone_is_shipped(tiny, tmp_path, monkeypatch, clone, steps, told):
    monkeypatch.setattr(files, "in_checkout", lambda: clone)
    monkeypatch.setattr(files, "shipped", lambda *parts: tmp_path.joinpath("shipped", *parts))
    for job in (house.train, stages.compute):
        with pytest.raises(ValueError, match=f"ship: .*{told}"):
            job("tiny" if job is house.train else "quantize", tmp_path, house.Options(steps=steps), ship=True)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_run_in_a_clone_is_shipped(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "shipped", lambda *parts: tmp_path.joinpath("shipped", *parts))
    monkeypatch.setattr(Tiny, "PLAN", Plan(steps=2))
    facts = house.train("tiny", tmp_path, house.Options(device="cpu", progress=False), ship=True)
    assert house.card("tiny") == facts


def test_weights_beyond_half_precision_are_named():
    model = Tiny.build()
    with torch.no_grad():
        model.weight.fill_(7e4)
    with pytest.raises(ArithmeticError, match=r"weight holds numbers beyond 65,504"):
        house.keep_half(model)


def test_options_keep_or_replace_the_steps_of_a_plan():
    assert house.Options(steps=None, seed=2).apply(Tiny.PLAN).steps == 100
    assert house.Options(steps=7).apply(Tiny.PLAN).steps == 7
    assert house.Options(seed=2).apply(Tiny.PLAN).seed == 2


def test_chunks_cover_all_rows_in_order():
    x = torch.arange(10.0)[:, None]
    assert torch.equal(_common.in_chunks(lambda part: part * 2, x, size=3), x * 2)


@pytest.fixture
def tiny_draft() -> torch.nn.Module:
    """image_draft in small, with weights that know nothing and yet prefer some codes and heed the class."""
    model = ImageGPT(Shape(width=24, layers=1, heads=3)).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_()
    return model


@pytest.mark.usefixtures("unchecked")
def test_sampling_is_decided_by_its_seed_and_keeps_to_the_vocabulary(tiny_draft):
    model, labels = tiny_draft, torch.tensor([4])
    seen = []
    first = sample(model, labels, seed=1, watch=lambda codes: seen.append(codes.shape[1]))
    assert first.shape == (1, 256)
    assert 0 <= int(first.min()) <= int(first.max()) < 4096
    assert seen == list(range(1, 257))
    assert torch.equal(first, sample(model, labels, seed=1))
    assert not torch.equal(first, sample(model, labels, seed=2))


@pytest.mark.usefixtures("unchecked")
def test_sampling_without_guidance_draws_from_the_model_itself(tiny_draft):
    model, labels = tiny_draft, torch.tensor([0, 7])
    cold = sample(model, labels, guidance=1.0, temperature=1e-4)
    with torch.no_grad():
        logits = model(cold[:, :-1], labels)
    assert (logits.argmax(-1) == cold).float().mean() > 0.99  # near zero temperature the likeliest code is drawn
    guided = sample(model, labels, guidance=3.0, temperature=1e-4)
    assert not torch.equal(cold, guided)


@pytest.mark.parametrize(
    ("labels", "temperature", "message"),
    [([10], 1.0, "labels from 10"), ([-1], 1.0, "labels"), ([1], 0.0, "temperature")],
)
def test_bad_orders_for_samples_are_refused(labels, temperature, message):
    with pytest.raises(ValueError, match=message):
        sample(house.load("image_draft"), torch.tensor(labels), temperature=temperature)


def test_a_cache_gives_the_logits_of_the_whole_sequence():
    model, labels = house.load("image_gpt"), torch.tensor([3])
    codes = torch.randint(4096, (1, 20))
    cache = Cache()
    with torch.no_grad():
        parts = [model(codes[:, a:b], labels, cache) for a, b in ((0, 5), (5, 6), (6, 20))]
        torch.testing.assert_close(torch.cat(parts, 1), model(codes, labels), atol=1e-4, rtol=1e-4)


def test_the_draft_is_a_sixth_of_the_cost():
    codes, labels = torch.zeros(1, 255, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    large, small = (flops(house.load(name), codes, labels) for name in ("image_gpt", "image_draft"))
    assert large / small >= 6


def test_the_tokenizer_rebuilds_a_photograph_better_than_its_mean_colour():
    from minitok.data import picture
    from minitok.metrics import psnr

    tokenizer, image = house.load("tokenizer"), picture.load()[None]
    codes = tokenizer.encode(image)
    assert codes.shape == (1, 256, 1)
    rebuilt = tokenizer.decode(codes)
    assert float(psnr(rebuilt, image)) > float(psnr(image.mean((2, 3), keepdim=True).expand_as(image), image)) + 8
    torch.testing.assert_close(tokenizer(image)[0].clamp(0, 1), rebuilt)
