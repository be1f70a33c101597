"""LangDC: captions by hand, states by a plain loop without a cache, the filling by leaving it out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minitok.attention import Cache
from minitok.nn import Shape
from minitok.optimizers import AdamW
from minitok.project.langdc import SMALL, STOP, Captioner, LangDC, caption_loss, packed, tell
from minitok.vlm import VLM, ManyVLM

TINY = Shape(width=8, layers=3, heads=2)


def talker(layer: int = 2, shape: Shape = TINY, frames: int = 2, seed: int = 0) -> Captioner:
    """An expert with random weights that says many things; its stop comes now and then."""
    torch.manual_seed(seed)
    captioner = Captioner(6, shape, layer, frames, vocabulary=12)
    for weight in captioner.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    captioner.head.weight.data[STOP] *= 2
    return captioner.eval().requires_grad_(False)


def pictures(b: int, count: int, c: int = 6) -> torch.Tensor:
    return torch.randn(b, 256 * count, c, generator=torch.Generator().manual_seed(b + count)) * 3


def test_four_words_by_hand():
    # What is said after the prompt (row 0) and after each word: 1 is the stop. Two rows: one says 3, 1; one 2, 3, 2, 3.
    after = torch.tensor([[3, 0, 0, 1], [2, 0, 3, 2]])
    heard = []

    def step(word):
        heard.append(None if word is None else word.tolist())
        at = torch.zeros(2, dtype=torch.long) if word is None else word
        said = after.gather(1, at[:, None])[:, 0]
        return torch.stack([at + 10.0 * len(heard), -at.float()], 1), F.one_hot(said, 4).float()

    told = tell(step, 4, stop=1)
    assert heard == [None, [3, 2], [1, 3], [0, 2]]
    assert told.words.tolist() == [[3, 1, 0, 0], [2, 3, 2, 3]]
    assert told.there.tolist() == [[True, True, False, False], [True] * 4]
    assert told.states[..., 0].tolist() == [[10, 23, 0, 0], [10, 22, 33, 42]]
    assert told.states[..., 1].tolist() == [[0, -3, 0, 0], [0, -2, -3, -2]]
    assert tell(step, 2, stop=1).words.tolist() == [[3, 1], [2, 3]]


def test_it_ends_when_all_have_stopped_and_takes_the_lower_of_equal_words():
    calls = []

    def step(word):
        calls.append(word)
        return torch.ones(2, 1), torch.tensor([[0.0, 5.0, 5.0]]).expand(2, -1)

    told = tell(step, 9, stop=1)
    assert told.words[:, 0].tolist() == [1, 1]
    assert (told.words.shape, told.states.shape, int(told.there.sum())) == ((2, 9), (2, 9, 1), 2)
    assert len(calls) == 1
    assert tell(step, 3, stop=7).there.all()


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_greedy_states_are_those_of_teacher_forcing_on_what_was_said(layer):
    captioner, x = talker(layer), pictures(5, 2)
    told = captioner.tell(x, 7)
    lengths = told.there.sum(1).tolist()
    assert len(set(lengths)) > 1
    states, logits = captioner(x, told.words)
    assert_close(told.states[told.there], states[told.there], atol=1e-4, rtol=1e-4)
    assert torch.equal(logits.argmax(-1)[told.there], told.words[told.there])
    assert not told.states[~told.there].any()
    for row, length in enumerate(lengths):
        stops = (told.words[row] == STOP).nonzero().flatten().tolist()
        assert length == (stops[0] + 1 if stops else 7)
    # One place later is another thing: the word that was just read, not the one about to be said.
    assert float((told.states[:, 0] - states[:, 1]).abs().max()) > 1e-2


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_states_are_a_plain_loop_without_a_cache(layer):
    captioner, x, kept = talker(layer), pictures(1, 2), {}
    captioner.head.bias.data[STOP] = -100  # this one never stops
    told, read = captioner.tell(x, 4), captioner.clip(x)
    hooks = [
        block.register_forward_hook(lambda module, given, out, i=i: kept.update({i: out}))
        for i, block in enumerate(captioner.lm.blocks, 1)
    ]
    for i in range(4):
        kept[0] = read
        last = captioner.lm(read)
        kept[3] = last
        assert_close(told.states[0, i], kept[layer][0, -1], atol=1e-4, rtol=1e-4)
        word = int((last[0, -1] @ captioner.head.weight.T + captioner.head.bias).argmax())
        assert word == int(told.words[0, i])
        read = torch.cat([read, captioner.word.weight[word][None, None]], 1)
    for hook in hooks:
        hook.remove()
    assert told.there.all()


def test_each_word_is_read_once():
    captioner, x, cache = talker(), pictures(2, 1), Cache()
    first, _ = captioner.run(captioner.clip(x), cache)
    assert (first.shape[1], len(cache)) == (65, 65)
    captioner.run(captioner.word(torch.tensor([[2], [3]])), cache)
    assert len(cache) == 66


def test_a_clip_is_squares_of_four_in_their_places_and_the_prompt():
    captioner, x = talker(frames=3), pictures(2, 2)
    read = captioner.clip(x)
    assert read.shape == (2, 129, 8)
    for frame, row, column in ((0, 0, 0), (0, 3, 6), (1, 7, 1), (1, 2, 7)):
        patches = [256 * frame + 16 * (2 * row + i) + 2 * column + j for i in (0, 1) for j in (0, 1)]
        mean = sum(captioner.see(x[:, patch]) for patch in patches) / 4
        place = captioner.place[frame] + captioner.place[3 + row] + captioner.place[11 + column]
        assert_close(read[:, 64 * frame + 8 * row + column], mean + place, atol=1e-5, rtol=1e-5)
    assert torch.equal(read[:, -1], captioner.prompt.expand(2, -1))


def test_untrained_all_words_are_equally_likely():
    captioner, words = Captioner(6, TINY, vocabulary=12), torch.tensor([[3, 5, STOP]])
    assert_close(caption_loss(captioner, pictures(1, 1), words).item(), math.log(12))
    assert captioner.tell(pictures(1, 1), 3).words.tolist() == [[0, 0, 0]]


def test_the_loss_is_that_of_the_words_and_the_stop():
    captioner, x = talker(), pictures(2, 1)
    words = torch.tensor([[4, 5, STOP, 0, 0], [6, 7, 8, 9, STOP]])
    _, logits = captioner(x, words)
    each = [-float(logits[r, i].log_softmax(-1)[words[r, i]]) for r, n in ((0, 3), (1, 5)) for i in range(n)]
    assert_close(caption_loss(captioner, x, words).item(), sum(each) / 8, rtol=1e-5, atol=0)
    assert caption_loss(captioner.bfloat16(), x.bfloat16(), words).dtype == torch.float32


def test_an_expert_learns_when_to_stop():
    torch.manual_seed(0)
    captioner = Captioner(6, Shape(width=16, layers=2, heads=2), layer=1, vocabulary=12)
    few, much = torch.zeros(1, 256, 6), torch.ones(1, 256, 6)
    x, words = torch.cat([few, much]), torch.tensor([[3, STOP, 0, 0, 0], [3, 4, 5, 4, STOP]])
    optimizer = AdamW(list(captioner.parameters()), lr=2e-2)
    for _ in range(16):
        optimizer.zero_grad()
        caption_loss(captioner, x, words).backward()
        optimizer.step()
    told = captioner.tell(x, 8)
    assert told.words[:, :5].tolist() == words.tolist()
    assert told.there.sum(1).tolist() == [2, 5]
    method = LangDC(captioner, d=4, most=8)
    assert method.tokens(x)[1].sum(1).tolist() == [2, 5]


def test_tokens_are_packed_in_time():
    tokens = torch.arange(1.0, 13).view(2, 2, 3, 1)
    there = torch.tensor([[[True, True, False], [True, False, False]], [[True] * 3, [False] * 3]])
    found, left = packed(tokens, there)
    assert found[..., 0].tolist() == [[1, 2, 4, 0, 0, 0], [7, 8, 9, 0, 0, 0]]
    assert left.tolist() == [[True] * 3 + [False] * 3] * 2


def test_no_clip_sees_another_and_they_follow_in_time():
    method, x = LangDC(talker(), d=4, most=5), pictures(3, 4)
    tokens, there = method.tokens(x)
    assert tokens.shape == (3, 10, 4)
    told = [method.held[0].tell(part, 5) for part in x.split(512, 1)]
    for row in range(3):
        states = torch.cat([part.states[row][part.there[row]] for part in told])
        assert there[row].tolist() == [True] * len(states) + [False] * (10 - len(states))
        assert_close(tokens[row, : len(states)], method.projector(states[None])[0], atol=1e-5, rtol=1e-5)
        assert not tokens[row, len(states) :].any()
    assert torch.equal(method(x), tokens)
    assert torch.equal(method(x, 10), tokens)
    changed = x.clone()
    changed[:, 512:] += 1
    first = int(told[0].there[0].sum())
    assert torch.equal(method.tokens(changed)[0][0, :first], tokens[0, :first])
    assert not torch.allclose(method(changed)[0], tokens[0])


def test_fewer_pictures_than_a_clip_are_a_clip_and_parts_are_refused():
    method = LangDC(talker(frames=3), d=4, most=5)
    assert method(pictures(1, 2)).shape == (1, 5, 4)
    assert method(pictures(1, 6)).shape == (1, 10, 4)


@pytest.mark.parametrize("kind", [VLM, ManyVLM])
@pytest.mark.parametrize("slots", [None, [0, 0, 1, 1, 1]])
def test_the_host_reads_what_is_there_and_nothing_else(kind, slots):
    torch.manual_seed(1)
    host = kind(Shape(width=12, layers=2, heads=2), vocabulary=20).eval().requires_grad_(False)
    for weight in host.lm.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    method, x = LangDC(talker(), d=12, most=6).requires_grad_(False), pictures(5, 4)
    words = torch.randint(1, 20, (5, 5))
    slots = slots and torch.tensor(slots)
    read = method.read(host, x, words, 12, slots=slots)
    tokens, there = method.tokens(x)
    counts = there.sum(1).tolist()
    assert len(set(counts)) > 1
    for row, count in enumerate(counts):
        visual, at = tokens[row : row + 1, :count], host.places(12, x.device)[:, :count]
        expected = host.read(visual, words[row : row + 1], at=at, slots=slots)
        assert_close(read[row : row + 1], expected, atol=1e-5, rtol=1e-4)
    whole = host.read(tokens, words, slots=slots)  # with the filling it is something else
    assert float((whole - read).abs().max()) > 1e-3


def test_the_expert_is_neither_trained_nor_saved_with_the_projector():
    method = LangDC()
    assert [name for name, _ in method.named_parameters()] == [
        f"projector.layers.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias")
    ]
    assert set(method.state_dict()) == {name for name, _ in method.named_parameters()}
    assert not any(weight.requires_grad for weight in method.held[0].parameters())
    assert (method.held[0].width, method.most, method.budgets) == (SMALL.width, 20, (20,))
    method(torch.randn(1, 256, 192)).sum().backward()
    assert all(weight.grad is not None for weight in method.parameters())
    assert sum(weight.numel() for weight in Captioner().parameters()) * 2 < 10**6  # bytes in half precision


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named():
    for layer in (-1, 4):
        with pytest.raises(ValueError, match=f"layer={layer} came, expected 0 to 3, the number of layers"):
            Captioner(shape=TINY, layer=layer)
    method = LangDC(talker(frames=2), d=4, most=5)
    for n in (0, 255, 257, 768):
        with pytest.raises(ValueError, match=f"{n} features came, expected 256 a picture and whole clips"):
            method(torch.zeros(1, n, 6))
    for call in (method, method.tokens):
        with pytest.raises(ValueError, match="k=9 came, expected 10: room for 5 words a clip"):
            call(pictures(1, 4), 9)
