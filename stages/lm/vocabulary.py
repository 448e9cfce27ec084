"""The tokenizers trained with a model from scratch: a token a word, or byte pairs of real text."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
ROLE_MARKS = ("<user>", "<assistant>")
SPECIALS = (PAD, BOS, EOS, UNK, *ROLE_MARKS)

# `<bos> <user> ... <assistant> ... <eos>`: the assistant's mark stands before its words and an EOS
# after them. A system message is shown as the user's words: the vocabulary has no mark for it.
CHAT_TEMPLATE = (
    "<bos>"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    " <assistant> {{ message['content'] }} <eos>"
    "{% else %}"
    " <user> {{ message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)

# The same for byte pairs, where every space is part of the text; with a mark for system messages.
BPE_MARKS = (*ROLE_MARKS, "<system>")
BPE_TEMPLATE = (
    "<bos>"
    "{% for message in messages %}"
    "<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def word_tokenizer(texts: Iterable[str], max_words: int | None = None) -> "PreTrainedTokenizerFast":
    """A tokenizer of the words in `texts`, most frequent first, equal counts in alphabetical order.

    Encoding adds no special tokens; decoding joins words by single spaces. Words beyond `max_words`
    (None: no limit), and words never seen, become `<unk>`. Padding has an id of its own, so EOS is
    never masked with it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = _words_by_frequency(texts)[:max_words]
    ids = {word: index for index, word in enumerate([*SPECIALS, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _with_specials(tokenizer, ROLE_MARKS, CHAT_TEMPLATE, unk_token=UNK)


def bpe_tokenizer(texts: Iterable[str], size: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE of at most `size` tokens: it reads any text, and gives it back as it was.

    A size that does not hold the 256 bytes and the special tokens is raised to them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, BOS, EOS, *BPE_MARKS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_specials(tokenizer, BPE_MARKS, BPE_TEMPLATE)


def _with_specials(
    tokenizer: Any, marks: tuple[str, ...], template: str, **more: str
) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(marks),
        chat_template=template,
        clean_up_tokenization_spaces=False,
        **more,
    )


def _words_by_frequency(texts: Iterable[str]) -> list[str]:
    counts = Counter(word for text in texts for word in text.split())
    for special in SPECIALS:
        counts.pop(special, None)
    return sorted(counts, key=lambda word: (-counts[word], word))
