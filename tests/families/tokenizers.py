"""Tiny tokenizers with the habits of each family's own, trained here on a few sentences."""

from typing import Any

SENTENCES = [
    "the cat sat on the red box and the dog ran to the blue ball .",
    "write about the cat , the dog , the ball or the box .",
    "count one two three : a red ball , a blue box and a small cat .",
]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nbe kind<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# No system role, roles in turn, what is said is stripped.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# No generation prompt: it ends where the assistant speaks.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}"
    "[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_pairs(
    specials: list[str], *, eos: str, bos: str | None = None, pad: str | None = None,
    template: str | None = None, adds_bos: bool = False,
) -> Any:  # fmt: skip
    """Byte-level BPE, as GPT-2's. adds_bos: plain encoding begins with BOS, as Llama 3's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return _wrap(backend, specials, eos=eos, bos=bos, pad=pad, template=template, adds_bos=adds_bos)


def pieces(
    specials: list[str], *, eos: str, bos: str, pad: str | None = None, unk: str = "<unk>",
    template: str | None = None,
) -> Any:  # fmt: skip
    """SentencePiece's unigram pieces with spaces as `▁`, BOS before plain text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=specials, unk_token=unk, show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz.,:\n▁"),
    )  # fmt: skip
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return _wrap(
        backend, specials, eos=eos, bos=bos, pad=pad, template=template, adds_bos=True, unk=unk
    )


def _wrap(
    backend: Any, specials: list[str], *, eos: str, bos: str | None, pad: str | None,
    template: str | None, adds_bos: bool, unk: str | None = None,
) -> Any:  # fmt: skip
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    if adds_bos:
        assert bos is not None
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    named = {"eos_token": eos, "bos_token": bos, "pad_token": pad, "unk_token": unk}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token for name, token in named.items() if token},
        additional_special_tokens=[t for t in specials if t not in (eos, bos, pad, unk)],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
