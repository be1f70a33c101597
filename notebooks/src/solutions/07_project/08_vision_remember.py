"""Solutions to the exercises of notebooks/07_project/08_vision_remember.ipynb."""

import torch

from minitok.project import VisionRemember


class MyVisionRemember(VisionRemember):
    """Exercise 1: after the chosen layers the visual tokens, which stand first, are refreshed."""

    def read(self, host, x, words, k=None, *, slots=None, levels):
        visual, features = self(x, k), self.features(levels)
        first = visual.shape[1]

        def refresh(i, y):
            for layer, module in zip(self.after, self.remember, strict=True):
                if layer == i:
                    y = torch.cat([module(y[:, :first], features), y[:, first:]], dim=1)
            return y

        return host.read(visual, words, slots=slots, after_layer=refresh)


def levelled(levels, i):
    """Exercise 2: level i is its mean, at every patch."""
    flat = levels.clone()
    flat[:, i] = levels[:, i].mean(1, keepdim=True)
    return flat
