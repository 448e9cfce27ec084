"""The text contract: messages to tokens and back, the same functions in every stage.

Prompt and response are tokenised apart and joined as ids, so the prompt's tokens are a prefix of
the whole by construction, and what was sampled is what is scored. A response ends in EOS only when
it finished; a truncated one does not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.lm.chat import render_prompt
from stages.records.schemas import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", messages: list[Message]) -> list[int]:
    """Token ids of the chat template up to where the assistant starts to speak."""
    return encode_text(tokenizer, render_prompt(tokenizer, messages))


def encode_response(
    tokenizer: "PreTrainedTokenizerBase", response: str, *, finished: bool
) -> list[int]:
    """Token ids of a response, with one EOS if it finished: some files have EOS in their texts."""
    tokens = encode_text(tokenizer, response)
    return _ended(tokenizer, tokens) if finished else tokens


def encode_document(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a pretraining document: one BOS if the tokenizer has it, the text, one EOS."""
    return _document(tokenizer, encode_text(tokenizer, text))


def encode_documents(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """The same of many documents, on all cores where the tokenizer can."""
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    return [_document(tokenizer, [int(token) for token in tokens]) for tokens in encoded]


def _document(tokenizer: "PreTrainedTokenizerBase", tokens: list[int]) -> list[int]:
    tokens = _ended(tokenizer, tokens)
    start = tokenizer.bos_token_id
    return tokens if start is None or tokens[0] == start else [int(start), *tokens]


def decode_response(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int]) -> str:
    """The text a user sees: special tokens dropped."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of plain text, no special token added."""
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]


def _ended(tokenizer: "PreTrainedTokenizerBase", tokens: list[int]) -> list[int]:
    assert tokenizer.eos_token_id is not None
    end = int(tokenizer.eos_token_id)
    return tokens if tokens[-1:] == [end] else [*tokens, end]
