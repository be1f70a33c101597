import torch

from minitok.house import Options, digit_painters
from minitok.train import Plan


def test_the_recipe_makes_three_decoders_of_one_autoencoder(tmp_path):
    models = digit_painters.train(tmp_path, Options(steps=3, device="cpu"))
    assert list(models) == ["codec", "critic", "noise", "both"]
    assert models.state_dict().keys() == digit_painters.build().state_dict().keys()
    first = {name: (models[name].decoder if name != "critic" else models[name])[0].weight for name in models}
    assert [first[name].shape[1] for name in models] == [1, 1, 9, 9]
    assert not torch.equal(first["noise"][:, :1], first["both"][:, :1])
    assert not torch.equal(first["critic"], first["codec"])


def test_what_decoders_read_are_the_signs_as_a_map():
    codec = digit_painters.build()["codec"]
    images = torch.rand(5, 1, 28, 28)
    maps = digit_painters.laid_out(codec, images)
    assert torch.equal(maps, codec.vectors(images).view(5, 7, 7)[:, None].sign())


def test_the_critic_counts_by_its_weight_and_noise_learns_from_errors():
    maps, images = torch.randn(40, 1, 7, 7).sign(), torch.rand(40, 1, 28, 28)

    def made(weight, steps=4):
        decoder = digit_painters.build()["critic"]
        torch.manual_seed(0)
        for parameter in decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        return digit_painters.second_stage(decoder, maps, images, Plan(steps=steps, lr=1e-2), weight)(maps)

    plain = made(0.0)
    assert torch.equal(plain, made(0.0))
    assert not torch.equal(plain, made(0.5))
    assert (made(0.0, 40) - images).square().mean() < (plain - images).square().mean()
    assert digit_painters.discriminator()(images).shape == (40, 1)
