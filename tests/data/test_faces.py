"""The small faces, against scikit-image's own loader."""

import torch
from torch.testing import assert_close

from minitok.data import faces


def test_the_patches_are_those_of_scikit_image_faces_first():
    from skimage.data import lfw_subset

    images, labels, classes = faces.load()
    assert_close(images[:, 0], torch.from_numpy(lfw_subset()).float(), atol=0, rtol=0)
    assert images.shape == (200, 1, 25, 25)
    assert labels.tolist() == [0] * 100 + [1] * 100
    assert classes == ("face", "background")


def test_faces_resemble_each_other_more_than_backgrounds_do():
    images, labels, _ = faces.load()
    spread = [images[labels == label].std(0).mean().item() for label in (0, 1)]
    assert spread[0] < spread[1]
