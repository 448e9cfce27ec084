"""What is refused, with its reason, before weights are read or after a look at the model."""

import json

import pytest
import torch
from torch import nn

from stages.contracts import UserError
from stages.lm.loading import load_causal_lm, load_config
from stages.lm.supported import check_folder, check_model, probe

REFUSED = {
    "t5": ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
    "classifier": (
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
        "another head",
    ),
    "masked": ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "another head"),
    "quantised": (
        {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}},
        "quantised",
    ),
    "remote": (
        {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "mine.Mine"}},
        "code of its own",
    ),
    "unknown": ({"model_type": "mine"}, "does not know its architecture"),
    "images": ({"model_type": "gemma3", "text_config": {}, "vision_config": {}}, "more than text"),
    "speech": ({"model_type": "wav2vec2"}, "no causal language model"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_its_config(kind, tmp_path) -> None:
    settings, reason = REFUSED[kind]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=reason):
        check_folder(tmp_path)


def test_a_decoder_is_taken(tiny_model_folder, tiny_model) -> None:
    check_folder(tiny_model_folder / "model")
    assert max(probe(tiny_model, 0).values()) < 1e-5
    check_model(tiny_model, 0)


def test_a_model_that_bends_its_logits_is_refused(tiny_model, monkeypatch) -> None:
    """Something that a model does to its logits, and the head alone does not."""
    forward = tiny_model.forward

    def doubled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(tiny_model, "forward", doubled)
    with pytest.raises(UserError, match=r"log-probs of a padded batch differ by \d"):
        check_model(tiny_model, 0)


def test_a_model_that_sees_what_comes_after_is_refused(tiny_model, monkeypatch) -> None:
    """Mutation: attention of both directions, as an encoder's."""
    attention = tiny_model.model.layers[0].self_attn
    forward = attention.forward
    monkeypatch.setattr(
        attention,
        "forward",
        lambda hidden_states, **rest: forward(hidden_states + hidden_states.flip(1), **rest),
    )
    with pytest.raises(UserError, match="differ by"):
        check_model(tiny_model, 0)


def test_a_model_that_fails_without_a_word_is_refused(tiny_model, monkeypatch) -> None:
    def forward(*_args, **_kwargs):
        raise NotImplementedError

    monkeypatch.setattr(tiny_model, "forward", forward)
    with pytest.raises(UserError, match="not supported") as told:
        check_model(tiny_model, 0)
    assert "NotImplementedError: without a message" in told.value.got


def test_missing_weights_are_not_drawn(tiny_model_folder) -> None:
    """Mutation: `output_loading_info` not looked at; Transformers would draw a head, and warn."""
    from safetensors.torch import load_file, save_file

    path = tiny_model_folder / "model" / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match="no weights for parts") as told:
        load_causal_lm(tiny_model_folder / "model")
    assert "lm_head.weight" in told.value.got


def test_settings_are_read_without_dropout_and_auxiliary_loss(tmp_path) -> None:
    from transformers import CONFIG_MAPPING

    CONFIG_MAPPING["qwen3_moe"](attention_dropout=0.3, output_router_logits=True).save_pretrained(
        tmp_path
    )
    config = load_config(tmp_path)
    assert (config.attention_dropout, config.output_router_logits) == (0.0, False)


def test_caps_and_scales_of_logits(tmp_path) -> None:
    """Hand-worked, with the one logit 8."""
    from types import SimpleNamespace

    from transformers import PreTrainedConfig

    from stages.lm.heads import language_head

    head = nn.Linear(1, 1, bias=False)
    nn.init.constant_(head.weight, 8.0)

    def logit(**settings) -> float:
        config = PreTrainedConfig(**settings)
        model = SimpleNamespace(get_output_embeddings=lambda: head, config=config)
        return float(language_head(model)(torch.ones(1, 1)))

    assert logit() == 8
    assert logit(logit_scale=0.25) == 2
    assert logit(logits_scaling=4.0) == 2
    assert logit(final_logit_softcapping=16.0) == pytest.approx(16 * 0.46211716)  # tanh(1/2)
