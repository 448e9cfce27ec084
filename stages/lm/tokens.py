"""The text contract: messages to tokens and back, the same functions in every stage.

Prompt and response are tokenised apart and joined as ids, so the prompt's tokens are a prefix of
the whole by construction, and what was sampled is what is scored. A response ends in EOS only when
it finished; a truncated one does not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.contracts import UserError
from stages.records.schemas import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", messages: list[Message]) -> list[int]:
    """Token ids of the chat template up to where the assistant starts to speak."""
    if tokenizer.chat_template is None:
        raise UserError(
            "the model has no chat template",
            got=tokenizer.name_or_path,
            do="use a model with a chat template, or save one with its tokenizer",
        )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return encode_text(tokenizer, str(text))


def encode_response(
    tokenizer: "PreTrainedTokenizerBase", response: str, *, finished: bool
) -> list[int]:
    """Token ids of a response, with EOS if it finished."""
    tokens = encode_text(tokenizer, response)
    return [*tokens, _eos(tokenizer)] if finished else tokens


def encode_document(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a pretraining document: BOS if the tokenizer has one, the text, EOS."""
    start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    return [*start, *encode_text(tokenizer, text), _eos(tokenizer)]


def decode_response(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int]) -> str:
    """The text a user sees: special tokens dropped."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of plain text, no special token added."""
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]


def _eos(tokenizer: "PreTrainedTokenizerBase") -> int:
    assert tokenizer.eos_token_id is not None
    return int(tokenizer.eos_token_id)
