"""Solutions to the exercises of notebooks/07_project/09_llava_mini.ipynb."""

import torch

from minitok.project import LLaVAMini
from minitok.vlm import slots_apart


class MyLLaVAMini(LLaVAMini):
    """Exercise 1: patches, compressed tokens and words in one causal row."""

    def fuse(self, x, text, asked):
        few = self.mlp(self.compressor(x))
        y, k = torch.cat([self.mlp(x), few, text], dim=1), few.shape[1]
        there = torch.cat([asked.new_ones(len(x), x.shape[1] + k), asked], dim=1)
        seen = torch.ones(y.shape[1], y.shape[1]).tril().bool() & there[:, None, None, :]
        for block in self.blocks:
            y = block(y, there.cumsum(1) - 1.0, seen)
        start = x.shape[1] + k
        return y[:, start - k : start], torch.where(asked[..., None], y[:, start:], text)


def fuse_all(x, questions):
    """Exercise 2: all questions in one row after the patches, none seeing another."""
    (q, t), start = questions.shape, x.shape[1] + 1
    text, asked = host.word(questions), questions > 0
    y = torch.cat([mini.mlp(x), mini.mlp(mini.compressor(x)), text.flatten(0, 1)[None]], dim=1)
    places = torch.cat([torch.arange(start), (start + asked.cumsum(1) - 1).flatten()]).float()[None]
    there = torch.cat([asked.new_ones(start), asked.flatten()])
    seen = slots_apart(start, torch.arange(q).repeat_interleave(t)) & there
    for block in mini.blocks:
        y = block(y, places, seen[None, None])
    return torch.where(asked[..., None], y[0, start:].unflatten(0, (q, t)), text)
