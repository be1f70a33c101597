"""Our projectors before a LLaVA of Hugging Face's transformers with random weights: theirs is a second reference."""

import pytest
import torch
from torch.testing import assert_close

from minitok.project import MQT, LLaVA


def test_a_llava_of_transformers_reads_our_projectors():
    transformers = pytest.importorskip("transformers", reason="the extra models is not installed")
    each = {"num_hidden_layers": 2, "num_attention_heads": 4}
    eyes = transformers.CLIPVisionConfig(hidden_size=32, intermediate_size=64, image_size=16, patch_size=4, **each)
    mouth = transformers.LlamaConfig(hidden_size=48, intermediate_size=96, vocab_size=50, **each)
    torch.manual_seed(0)
    config = transformers.LlavaConfig(vision_config=eyes, text_config=mouth, image_token_index=49)
    model = transformers.LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    images, words = torch.rand(2, 3, 16, 16), torch.randint(49, (2, 5))
    # Theirs looks one layer below the last, without CLS, and projects by two layers: so does LLaVA-1.5.
    patches = model.model.vision_tower(images, output_hidden_states=True).hidden_states[-2][:, 1:]
    ours, theirs = LLaVA(32, 48).requires_grad_(False), model.model.multi_modal_projector
    ours.load_state_dict(
        {
            f"layers.{2 * i}.{part}": getattr(layer, part)
            for i, layer in enumerate((theirs.linear_1, theirs.linear_2))
            for part in ("weight", "bias")
        }
    )

    def answers(visual):
        row = torch.cat([visual, model.get_input_embeddings()(words)], 1)
        return model.lm_head(model.model.language_model(inputs_embeds=row).last_hidden_state[:, -1])

    asked = torch.cat([torch.full((2, 16), 49), words], 1)
    expected = model(input_ids=asked, pixel_values=images).logits[:, -1]
    assert_close(answers(ours(patches)), expected, atol=1e-5, rtol=1e-4)
    few = MQT(c=32, d=48, most=16, heads=4).requires_grad_(False)(patches, 4)
    assert answers(few).shape == (2, 50)
    assert float((answers(few) - expected).abs().max()) > 1e-3
