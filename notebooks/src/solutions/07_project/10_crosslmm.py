"""Solutions to the exercises of notebooks/07_project/10_crosslmm.ipynb."""

import torch

from minitok.project import CrossLMM


class MyCrossLMM(CrossLMM):
    """Exercise 1: each part of the row through its own look, where its layer has one."""

    def look(self, i, x, k, memory):
        visual, words, name = x[:, :k], x[:, k:], str(i)
        if name in self.v2v:
            visual = self.v2v[name](visual, memory)
        if name in self.t2v:
            words = self.t2v[name](words, memory)
        return torch.cat([visual, words], 1)


def own_frame(frames, m, n):
    """Exercise 2: the frame of each row is the frame of each column."""
    token, patch = torch.arange(frames).repeat_interleave(m), torch.arange(frames).repeat_interleave(n)
    return token[:, None] == patch
