"""Small faces and non-faces that come inside scikit-image. Nothing is downloaded.

What: 200 gray patches of 25x25 pixels: 100 faces of the set Labeled Faces in the Wild, then 100 patches of
its backgrounds.
Licence: none stated beyond research use (photographs from the news): learn with them, don't publish them.
Attribution: G. Huang, M. Mattar, H. Lee, E. Learned-Miller, "Learning to align from scratch", 2012.
URL: https://vis-www.cs.umass.edu/lfw/
"""

import numpy as np
import torch

from minitok.data import Labelled, packaged


def load() -> Labelled:
    """The patches (200x1x25x25, in [0, 1]) in file order: 100 of class "face", then 100 of "background"."""
    patches = np.load(packaged("skimage", "data", "lfw_subset.npy"), allow_pickle=False)
    labels = torch.arange(2).repeat_interleave(100)
    return Labelled(torch.from_numpy(patches)[:, None].float(), labels, ("face", "background"))
