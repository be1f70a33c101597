from types import SimpleNamespace

import pytest
import torch

from minitok.data import clothing
from minitok.house import Options
from minitok.house.byte_bpe import ByteBPE
from minitok.house.smollm2 import SmolLM2
from minitok.nn import Shape
from minitok.speculate import TokenRecycling, Tree, gsd, lantern, speculative
from minitok.speculate.speculative import induced
from minitok.stages import drawing, judged, judges, speculate, writing

FEW = {
    "plain": speculate.Way(speculative.accept, 0),
    "speculative, k = 2": speculate.Way(speculative.accept, 2, setting=0.5),
    "Jacobi, k = 8": speculate.Way(speculative.accept, 8, "jacobi"),
    "greedy": speculate.Way(lantern.greedy, 2, "likeliest"),
}


@pytest.fixture(scope="module")
def stage():
    """One picture, two places."""
    return drawing.stage.__wrapped__(1)


@pytest.fixture
def few(monkeypatch, stage):
    """Two classes, a few judges, and no text, so that no model of 135 million weights is loaded."""
    monkeypatch.setattr(speculate, "ways", lambda: {name: FEW[name] for name in list(FEW)[:3]})
    monkeypatch.setattr(speculate, "stage", lambda: stage)
    monkeypatch.setattr(speculate, "TEN", 2)
    monkeypatch.setattr(speculate, "text", lambda folder, options: [])


@pytest.mark.usefixtures("few")
def test_a_rehearsal_gives_all_rows_and_resumes(tmp_path, monkeypatch):
    threads, options = torch.get_num_threads(), Options(steps=6, progress=False)
    rows = speculate.measure(tmp_path, options)
    assert torch.get_num_threads() == threads
    assert [row["method"] for row in rows] == list(speculate.ways())
    assert (rows[0]["tokens a call"], rows[0]["calls"], rows[0]["time"]) == (1, 100, 100)
    assert rows[1]["tokens a call"] > 1
    assert rows[1]["setting"] == 0.5
    assert "Frechet distance" not in rows[0]
    monkeypatch.setattr(speculate, "ten", lambda *given: 1 / 0)
    assert speculate.measure(tmp_path, options) == rows


def test_quality_of_random_codes_is_poor(monkeypatch, stage):
    photographs = torch.rand(13, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(clothing, "load", lambda split: SimpleNamespace(images=photographs))
    monkeypatch.setattr(speculate, "stage", lambda: stage)
    found = speculate.quality(torch.randint(4096, (10, 256), generator=torch.Generator().manual_seed(0)))
    assert found["surprise"] > 1
    assert found["Frechet distance"] > 10
    assert found["right"] <= 50


def test_pictures_are_drawn_once_and_kept_in_the_cache(monkeypatch, tmp_path, stage):
    asked = []

    def sample(gpt, labels, seed):
        asked.append(labels.tolist())
        return torch.full((len(labels), 256), 7)

    monkeypatch.setattr(drawing, "sample", sample)
    monkeypatch.setenv("MINITOK_CACHE", str(tmp_path))
    first = drawing.drawn(stage.gpt, 12)
    assert torch.equal(drawing.drawn(stage.gpt, 12), first)
    assert asked == [[*range(10), 0, 1]]
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(kept.read_text()[:100])  # damaged: they are drawn again, and kept again
    assert torch.equal(drawing.drawn(stage.gpt, 12), first)
    assert torch.equal(drawing.drawn(stage.gpt, 12), first)
    assert len(asked) == 2
    monkeypatch.setattr(drawing.files, "write", lambda *given: (_ for _ in ()).throw(PermissionError()))
    assert drawing.drawn(stage.gpt, 2).shape == (2, 256)
    monkeypatch.setenv("MINITOK_CACHE", "~nobody-of-that-name/cache")
    assert drawing.drawn(stage.gpt, 3).shape == (3, 256)


def test_a_row_counts_its_pictures(stage):
    row = stage.measure(speculative.accept, 2, pictures=2, seed=3, n=9)
    assert row.codes.shape == row.bits.shape == row.spread.shape == (2, 9)
    assert row.calls == sum(run.calls for run in row.runs) / 2
    assert row.per_call == pytest.approx(9 / row.calls)
    assert row.seconds > 0
    assert not torch.equal(row.codes, stage.measure(speculative.accept, 2, pictures=2, seed=4, n=9).codes)
    first = stage.measure(speculative.accept, 0, seed=3, n=9)
    assert first.calls == 9
    with pytest.raises(ValueError, match="guesses='nobody' came, expected one of image_draft"):
        stage.measure(speculative.accept, guesses="nobody")


def test_greedy_guesses_are_the_likeliest(stage):
    codes = lantern.nearest(stage.vectors[:64], 3).repeat(64, 1)
    made = stage.measure(lambda *given: lantern.greedy(*given, neighbours=codes, delta=0), 3, "likeliest", n=5)
    tokens = torch.zeros(0, dtype=torch.long)
    with torch.no_grad():
        for _ in range(5):
            tokens = torch.cat([tokens, stage.gpt(tokens[None], torch.tensor([9]))[0, -1:].argmax(-1)])
    assert torch.equal(made.codes[0], tokens)
    guesses, q = stage.pair(torch.tensor([9]), "likeliest")[1](tokens, 2, None)
    assert q.amax(-1).tolist() == [1, 1]
    assert torch.equal(q.argmax(-1), guesses)


def test_surprise_is_that_of_a_plain_loop(stage):
    codes = stage.codes[:, :4]
    bits, spread = stage.surprise(codes, torch.tensor([0]))
    with torch.no_grad():
        p = stage.gpt(codes[:, :-1], torch.tensor([0])).double().softmax(-1)[0]
    for i, x in enumerate(codes[0].tolist()):
        log2 = -p[i].log2()
        expected = float((p[i] * log2).sum())
        assert float(bits[0, i]) == pytest.approx(float(log2[x]) - expected, abs=1e-6)
        assert float(spread[0, i]) == pytest.approx(float((p[i] * (log2 - expected) ** 2).sum().sqrt()), abs=1e-6)
    row = judged.Row((), torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 4.0]]), 0.0)
    assert (row.surprise, row.chance) == (2, 2.5)


def test_what_is_weighed_is_the_law_summed_over_all_drafts(stage):
    p, q = stage.places
    assert p.shape == (2, 4096)
    kept = judges.leniently(stage.places, 0.5)
    cost, laws = stage.weigh(kept), []
    for i in range(2):
        laws.append(induced(p[i], q[i], lambda p, q, x: min(1, float(2 * p[x] / q[x])), speculative.residual))
    moved = torch.stack(laws) - p
    assert cost.kept == pytest.approx(100 * float((q * kept).sum()) / 2)
    assert cost.variation == pytest.approx(float(moved.abs().sum()) / 4, abs=1e-9)
    assert cost.surprise == pytest.approx(float(-(moved * p.log2()).sum()) / 2, abs=1e-9)
    apart = torch.cdist(stage.vectors.double(), stage.vectors.double())
    assert cost.energy == pytest.approx(-500 * float(((moved @ apart) * moved).sum()), rel=1e-3)
    exact = stage.weigh(judges.leniently(stage.places))
    assert max(map(abs, exact[1:])) < 1e-9


def test_rules_are_those_of_the_methods(stage):
    (p, q), vectors, far = stage.places, stage.vectors, judges.strangers(4096, 5)
    loans, groups = judges.by_loans(stage.places, far, 0.01), judges.by_groups(stage.places, vectors, 3, 0.7)
    for x in q[1].topk(5).indices.tolist():
        kept = lantern.acceptance(p[1], q[1], x, far, delta=0.01)
        assert loans[1, x] == pytest.approx(kept)
        assert groups[1, x] == pytest.approx(gsd.acceptance(p[1], q[1], x, vectors, window=3, radius=0.7))
    assert far.shape == (4096, 5)
    assert not torch.equal(far, judges.strangers(4096, 5, seed=1))


@pytest.mark.usefixtures("unchecked")
def test_lenience_multiplies_q():
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    q, generator = torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.Generator().manual_seed(0)
    always = [judges.lenient(0.5)(p, q, torch.tensor([0]), generator)[0] for _ in range(50)]
    half = [judges.lenient(1.0)(p, q, torch.tensor([0]), generator)[0] for _ in range(50)]
    assert sum(always) == 50
    assert 5 < sum(half) < 45
    assert [judges.gullible(p, q, torch.tensor([0]), generator)[0] for _ in range(9)] == [1] * 9


def test_clusters_are_groups_of_near_vectors():
    vectors = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]])
    own = judges.clusters(vectors, 3, seed=1).tolist()
    assert own[0] == own[1]
    assert own[2] == own[3]
    assert len(set(own)) == 3
    assert judges.clusters(vectors, 5).unique().numel() == 5


def test_settings_and_levels_lie_between():
    assert judges.setting(lambda x: 100 / x, 20, 1, 100) == pytest.approx(5, rel=1e-4)
    costs = [judged.Cost(50, 0.0, 0.0, 0.0), judged.Cost(60, 0.2, 1.0, 5.0), judged.Cost(90, 0.5, 4.0, 8.0)]
    assert judged.level(costs, 75) == pytest.approx((75, 0.35, 2.5, 6.5))
    for kept in (40, 95):
        with pytest.raises(ValueError, match=f"kept={kept} came, between no two of"):
            judged.level(costs, kept)
    assert judged.table({"a": costs[1]}).splitlines()[1].split() == ["a", "60.0", "0.200", "+1.000", "5.0"]


@pytest.fixture
def text():
    """A small random model in place of SmolLM2."""
    model = SmolLM2(Shape(width=16, layers=2, heads=2), ByteBPE(list("abcdefghijklm"), [], []))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return writing.Stage(model.requires_grad_(False), {"a": torch.tensor([3, 1, 4, 1, 5])})


def test_texts_are_those_of_plain_decoding_however_they_are_drafted(text):
    plain = text.plain("a", 30)
    assert plain.run.calls == 30
    answers = text.answers("a", plain.run.tokens)
    for way, make in writing.CONTROLS.items():
        written = text.write("a", make(text, "a"), 30)
        assert torch.equal(written.run.tokens, plain.run.tokens), way
        # What learns nothing from rejected nodes can be replayed without the model.
        assert text.replay("a", make(text, "a"), plain.run.tokens, answers)[1:] == written.run[1:], way
        assert len(written.calls) == written.run.calls
    assert text.say(torch.tensor([1, 2])) == "bc"


def test_matrices_read_the_prompt_and_learn_as_they_should(text):
    memory, empty = text.recycling("a"), TokenRecycling(13)
    assert (memory.matrix[[3, 1, 4, 5]] >= 0).all()
    assert memory.matrix[1].tolist() == text.read("a")[3].topk(8).indices.tolist()
    assert (empty.matrix == -1).all()
    row, logits, path = torch.tensor([3, 7, 8]), torch.randn(3, 13), torch.tensor([0, 2])
    for kind, learnt in ((writing.Frozen, []), (writing.KeptOnly, [3, 8]), (TokenRecycling, [3, 7, 8])):
        memory = kind(13)
        memory.learn(row, logits, path)
        assert (memory.matrix[:, 0] >= 0).nonzero().flatten().tolist() == learnt


def test_lookup_proposes_what_followed_the_longest_match():
    lookup = writing.Lookup()
    tree = lookup.draft(torch.tensor([1, 2, 3, 9, 8, 3, 7, 1, 2, 3]), 2)
    assert (tree.tokens.tolist(), tree.parents.tolist()) == ([9, 8], [0, 1])
    assert lookup.draft(torch.tensor([5, 3, 7, 4, 3]), 9).tokens.tolist() == [7, 4, 3]
    assert isinstance(lookup.draft(torch.tensor([1]), 5), Tree)
    assert len(lookup.draft(torch.tensor([1, 2]), 5).tokens) == 0


def test_the_league_of_texts_has_a_row_for_each_way(text, tmp_path, monkeypatch):
    monkeypatch.setattr(
        speculate, "texts", lambda: writing.Stage(text.model, dict.fromkeys(writing.PASSAGES, text.prompts["a"]))
    )
    rows = {row["method"]: row for row in speculate.text(tmp_path, Options(steps=12, progress=False))}
    assert list(rows) == ["plain", "token_recycling", "from nothing", "from another text", *writing.CONTROLS]
    assert {row["exact"] for row in rows.values()} == {"yes"}
    assert rows["plain"]["tokens a call"] == 1
    assert rows["token_recycling"]["calls"] < 100
