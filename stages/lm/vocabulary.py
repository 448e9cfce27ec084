"""The tokenizer trained with a model from scratch: one token a word, split at whitespace."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

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


def word_tokenizer(texts: Iterable[str], max_words: int | None = None) -> "PreTrainedTokenizerFast":
    """A tokenizer of the words in `texts`, most frequent first, equal counts in alphabetical order.

    Encoding adds no special tokens; decoding joins words by single spaces. Words beyond `max_words`
    (None: no limit), and words never seen, become `<unk>`. Padding has an id of its own, so EOS is
    never masked with it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = _words_by_frequency(texts)[:max_words]
    ids = {word: index for index, word in enumerate([*SPECIALS, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=list(ROLE_MARKS),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _words_by_frequency(texts: Iterable[str]) -> list[str]:
    counts = Counter(word for text in texts for word in text.split())
    for special in SPECIALS:
        counts.pop(special, None)
    return sorted(counts, key=lambda word: (-counts[word], word))
