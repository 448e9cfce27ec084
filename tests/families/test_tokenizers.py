"""What the base stage settles for each family's tokenizer, so that all stages write alike."""

import pytest

from reward.model import load_reward_tokenizer
from stages.contracts import UserError
from stages.lm.loading import load_config, load_tokenizer
from stages.lm.tokens import decode_response, encode_document, encode_prompt, encode_response
from tests.families.models import FAMILIES
from tests.families.tables import LONG

ASKED = [{"role": "user", "content": "write about the cat"}]


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_responses_and_documents(name: str, base_of) -> None:
    folder = base_of(name) / "model"
    tokenizer = load_tokenizer(folder)
    prompt = encode_prompt(tokenizer, ASKED)
    response = encode_response(tokenizer, LONG, finished=True)
    document = encode_document(tokenizer, LONG)
    assert "write about the cat" in tokenizer.decode(prompt)
    assert decode_response(tokenizer, response).strip() == LONG
    assert response.count(tokenizer.eos_token_id) == 1
    starts = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    assert document == [*starts, *response]
    assert prompt[: len(starts)] == starts
    assert len(starts) == 0 or prompt[1] != starts[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_pad_of_reward_models_is_in_no_text(name: str, base_of) -> None:
    """Transformers finds the end of a text by it. Fails for GLM if `<|user|>` is taken, which its
    template does not spell out, or if a pad beyond the embeddings is."""
    folder = base_of(name) / "model"
    tokenizer = load_reward_tokenizer(folder)
    pad = tokenizer.pad_token_id
    turns = [*ASKED, {"role": "assistant", "content": LONG}]
    assert pad is not None
    assert pad not in encode_prompt(tokenizer, ASKED)
    assert pad not in encode_prompt(tokenizer, [*turns, *ASKED])
    assert pad not in encode_response(tokenizer, LONG, finished=True)
    assert pad not in encode_document(tokenizer, LONG)
    assert pad < load_config(folder).vocab_size


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_a_role_that_the_template_does_not_know_is_named(name: str, base_of) -> None:
    tokenizer = load_tokenizer(base_of(name) / "model")
    with pytest.raises(UserError, match="cannot write this conversation") as told:
        encode_prompt(tokenizer, [{"role": "system", "content": "be kind"}, *ASKED])
    assert "roles: system, user" in told.value.got
