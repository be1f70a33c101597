import pytest
import torch

from minitok.data import digits, pages


def test_digits_stand_where_the_page_says():
    made = pages.render(3, seed=1)
    assert made.images.shape == (3, 3, 128, 128)
    assert made.text.shape == (3, 16, 16)
    cells = made.images[:, 0].unflatten(1, (16, 8)).unflatten(3, (16, 8)).transpose(2, 3)
    inked = (cells > pages.PAPER + 1e-6).any(-1).any(-1)
    assert torch.equal(inked, made.text)
    first = made.text[0].nonzero()[0]
    ink = ((cells[0, first[0], first[1]] - pages.PAPER) / (pages.INK - pages.PAPER))[None]
    assert (digits.load("test").images[:, 0] - ink).abs().amax((1, 2)).min() < 1e-5


def test_lines_are_one_block_with_ends_of_their_own():
    text = pages.render(40, seed=2).text
    for page in text:
        rows = page.any(1).nonzero().flatten()
        assert rows.tolist() == list(range(int(rows[0]), int(rows[-1]) + 1))
        starts = {int(line.nonzero()[0]) for line in page[rows]}
        assert len(starts) == 1
        assert all((line.int().diff() == 1).sum() <= 1 for line in page[rows])
    assert len({int(page.sum()) for page in text}) > 20
    assert not torch.equal(pages.render(2, seed=3).text, pages.render(2, seed=4).text)


def test_pages_may_be_small():
    assert pages.render(1, cells=4).images.shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="cells=3 came, expected at least 4"):
        pages.render(1, cells=3)
