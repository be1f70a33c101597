import torch

from minitok.reduce.recoverable import similarity
from minitok.stages import reduce_vlm
from minitok.stages.common_space import common_space


def test_words_find_the_object_that_they_name():
    stage = reduce_vlm.stage(6)
    space = common_space(stage.host, 24)
    alone = stage.start.alone(stage.rows, ["text", "asked"])
    pixels = stage.objects.unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).sum((2, 4)).flatten(1).float()

    def found(x, text, asked):
        best = similarity(x, text, asked).topk(16).indices
        return float((pixels.gather(1, best).sum(1) / pixels.sum(1)).nanmean())

    text, asked = alone.signals["text"], alone.signals["asked"]
    mapped = space(alone.visual)
    assert mapped.shape == alone.visual.shape
    assert found(mapped, text, asked) > 0.5 > 2 * found(alone.visual, text, asked) * 0.8
    assert found(mapped, text.roll(8, 0), asked.roll(8, 0)) < 0.4
    assert torch.equal(mapped, common_space(stage.host, 24)(alone.visual))
