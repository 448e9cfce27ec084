"""The chat template: messages to the text a model reads, and what a template does besides.

The model's own template is the authority: it writes BOS, roles and a system prompt if it has one. A
model without one gets `plain_turns`, which needs no token that the vocabulary does not have.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stages.contracts import UserError
from stages.lm.vocabulary import BPE_TEMPLATE, CHAT_TEMPLATE
from stages.records.schemas import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TURNS = (
    "{% if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "Assistant:\n{{ message['content'] }}{{ eos_token }}\n\n"
    "{% elif message['role'] == 'system' %}"
    "{{ message['content'] }}\n\n"
    "{% else %}"
    "User: {{ message['content'] }}\n\n"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
NAMED = {"plain_turns": PLAIN_TURNS, "role_marks": CHAT_TEMPLATE, "role_tokens": BPE_TEMPLATE}
DEFAULT = "plain_turns"

ASKED = "what is asked"
ANSWER = "what is answered"


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: list[Message], *, to_speak: bool = False
) -> str:
    """The text of a conversation; to_speak: with what makes the assistant speak next."""
    if tokenizer.chat_template is None:
        raise UserError(
            "the model has no chat template",
            got=tokenizer.name_or_path,
            do="make the base again: its stage gives it one",
        )
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=to_speak
        )
    except (TemplateError, ValueError) as error:
        raise UserError(
            "the model's chat template cannot write this conversation",
            got=f"{type(error).__name__}: {error}; roles: "
            + ", ".join(message["role"] for message in messages),
            do="leave such conversations out (some models have no system role, or want roles in "
            "turn), or mend the template in the tokenizer's folder; without one a default is used",
        ) from None
    return str(text)


def render_prompt(tokenizer: "PreTrainedTokenizerBase", messages: list[Message]) -> str:
    """The text up to where the assistant starts to speak.

    A template that knows no generation prompt shows it when it writes an answer.
    """
    if "add_generation_prompt" in str(tokenizer.chat_template) or not tokenizer.chat_template:
        return render(tokenizer, messages, to_speak=True)
    answered = render(tokenizer, [*messages, {"role": "assistant", "content": ANSWER}])
    return answered[: answered.rindex(ANSWER)]


def settle_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Give a tokenizer without chat template the default one; saving the tokenizer saves it.

    Raises:
        UserError: no EOS, so that no response could end; or a template that cannot be rendered.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no EOS token: no response could ever end",
            got=tokenizer.name_or_path,
            do="set eos_token in its tokenizer_config.json",
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = NAMED[DEFAULT]
    _check_renders(tokenizer)


def _check_renders(tokenizer: "PreTrainedTokenizerBase") -> None:
    text = render_prompt(tokenizer, [{"role": "user", "content": ASKED}])
    if ASKED not in text:
        raise UserError(
            "the chat template leaves out what the user says", got=repr(text), do="mend it"
        )


def everything_written(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A conversation of all roles that the template knows, with what makes the assistant speak."""
    turns: list[Message] = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": ANSWER},
    ]
    if tokenizer.chat_template is None:
        return ""
    texts = [render(tokenizer, turns), render_prompt(tokenizer, turns[:1])]
    with suppress(UserError):  # Gemma has no system role
        texts.append(render(tokenizer, [{"role": "system", "content": ASKED}, *turns]))
    return " ".join(texts)


def template_facts(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """What a reader should know of the template, found by rendering one question and its answer.

    chat_template: its name, `own` if it came with the model. example: what a model is trained on.
    template_between: what the template writes between prompt and answer in a whole conversation,
    and we do not (a thinking block, for one). template_end: what it writes after the answer; we
    write EOS. joined_alike: prompt and answer have the same tokens together as apart.
    """
    question: list[Message] = [{"role": "user", "content": ASKED}]
    prompt = render_prompt(tokenizer, question)
    whole = render(tokenizer, [*question, {"role": "assistant", "content": ANSWER}])
    before, _, after = whole.rpartition(ANSWER)
    own = tokenizer.chat_template
    return {
        "chat_template": next((name for name, known in NAMED.items() if known == own), "own"),
        "example": f"{prompt}{ANSWER}{tokenizer.eos_token}",
        "template_between": _between(prompt, before),
        "template_end": after,
        "joined_alike": _ids(tokenizer, prompt + ANSWER)
        == _ids(tokenizer, prompt) + _ids(tokenizer, ANSWER),
    }


def _between(prompt: str, before: str) -> str:
    """What stands before the answer beyond the prompt; all of it where it does not begin so."""
    return before.removeprefix(prompt)


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))
