"""Small tokenizers with the habits of real ones, built here."""

from typing import Any

BOS, EOS = "<s>", "</s>"
WORDS = ["User", "Assistant", ":", "\n", ".", "you", "are", "a", "helpful", "bot", "what", "is"]
WORDS += ["asked", "answered", "the", "cat", "sat"]
CHATML = (
    "{% for message in messages %}"
    "[{{ message['role'] }}] {{ message['content'] }} </s> "
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}[system] you are a helpful bot </s> {% endif %}"
    + CHATML
)
WITH_BOS = "{{ bos_token }} " + CHATML
NO_GENERATION_PROMPT = (
    "{% for message in messages %}"
    "[{{ message['role'] }}] {{ message['content'] }} </s> "
    "{% endfor %}"
)
THINKING = (
    "{% for message in messages %}[{{ message['role'] }}] "
    "{% if message['role'] == 'assistant' %}<think> </think> {% endif %}"
    "{{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
MARKS = ["[system]", "[user]", "[assistant]", "<think>", "</think>"]


def tokenizer(
    template: str | None, *, pad: str | None = None, adds_bos: bool = False, spare: bool = False
) -> Any:
    """Words split at spaces. adds_bos: plain encoding begins with BOS, as Llama's does."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = [BOS, EOS, *MARKS] + (["<spare>"] if spare else [])
    if pad and pad not in specials:
        specials.append(pad)
    ids = {word: number for number, word in enumerate([*specials, "<unk>", *dict.fromkeys(WORDS)])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|:"), "isolated"),
            pre_tokenizers.Split(" ", "removed"),
        ]
    )
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        unk_token="<unk>",
        pad_token=pad,
        additional_special_tokens=[*MARKS, *(["<spare>"] if spare else [])],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def tiny_llama(vocabulary: int, seed: int = 0) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()
