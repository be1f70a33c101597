import pytest
import torch

from minitok.reduce.corematching import activations, core, corematching, fired, sparse
from minitok.stages import reduce_vlm
from minitok.stages.reduce_neurons import decoded


@pytest.fixture(scope="module")
def stage():
    return reduce_vlm.stage(3)


def test_with_all_neurons_nothing_changes(stage):
    row = decoded(stage, {"all": lambda before, there, last: torch.ones_like(last, dtype=torch.bool)})["all"]
    assert row.bits.abs().max() < 1e-5
    assert (row.right, row.flops) == (stage.full.right, 1)


def test_a_core_of_the_prompt_is_computed_for_the_last_word_alone(stage):
    def choose(before, there, last):
        assert before.shape[1] == there.shape[1] == 256 + stage.asked.words.shape[2] - 1
        return core(fired(before) & there[..., None], 0.4)

    rows = decoded(stage, {"core": choose, "none": lambda before, there, last: torch.zeros_like(last).bool()})
    row, few = rows["core"], rows["none"]
    assert row.flops == pytest.approx(0.4, abs=0.01)
    assert 0.001 < row.bits.mean() < few.bits.mean()
    # One question by the sparse part itself.
    at = stage.start.alone(stage.rows[:1], ["asked"])
    there = torch.cat([torch.ones(1, 256, dtype=torch.bool), at.signals["asked"]], 1)[:, :-1]
    x, blocks = at.begun()
    for block in blocks:
        x = x + block.attention(block.norm1(x), at.places, at.seen)
        z = block.norm2(x)
        last = sparse(block.mlp, z[:, -1:], choose(activations(block.mlp, z)[:, :-1], there, None))
        x = x + torch.cat([block.mlp(z[:, :-1]), last], 1)
    logits = at.host.head(at.host.lm.norm(x[:, -1]))
    p, q = stage.before[:1].log_softmax(-1), logits.log_softmax(-1)
    expected = (p.exp() * (p - q)).sum() / torch.tensor(2.0).log()
    torch.testing.assert_close(row.bits[0], expected, atol=1e-4, rtol=1e-3)


def test_a_method_gets_the_neurons_of_its_layer(stage):
    at = stage.cut(2).alone(stage.rows, ["neurons", "word_neurons", "asked"])
    block = stage.host.lm.blocks[2]
    both = torch.cat([at.signals["neurons"], at.signals["word_neurons"]], 1)
    torch.testing.assert_close(block.mlp.out(both), block.mlp(block.norm2(at.hidden)), atol=1e-4, rtol=1e-4)
    names = ("neurons", "word_neurons", "asked")
    made = corematching(at.visual, 30, **{name: at.signals[name] for name in names})
    row = stage.measure(corematching, 30, 2)
    assert row.needs == "neurons, text"
    assert "neurons" not in at.left(made).signals
    assert row.found > 0
    with pytest.raises(TypeError):
        stage.measure(corematching, 30)
