"""The text contract with tokenizers that have the habits of real ones."""

import pytest

from stages.contracts import Context, UserError
from stages.lm.chat import NAMED, PLAIN_TURNS, render_prompt, settle_template, template_facts
from stages.lm.loading import load_tokenizer, save_model, settle_pad, text_contract
from stages.lm.tokens import encode_document, encode_prompt, encode_response
from stages.step0_base.base import run
from stages.step0_base.config import BaseConfig, BaseKind
from tests.stages.lm import quirks

ASKED = [{"role": "user", "content": "what is asked"}]


def words(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


@pytest.mark.parametrize("template", [quirks.CHATML, quirks.NO_GENERATION_PROMPT])
def test_a_prompt_ends_where_the_assistant_starts_to_speak(template):
    """A template that ignores `add_generation_prompt` has the assistant's mark all the same."""
    tokenizer = quirks.tokenizer(template)
    ids = encode_prompt(tokenizer, ASKED)
    assert " ".join(words(tokenizer, ids)) == "[user] what is asked </s> [assistant]"


def test_the_prompt_is_a_prefix_and_a_finished_response_ends_in_one_eos():
    tokenizer = quirks.tokenizer(quirks.CHATML)
    prompt = encode_prompt(tokenizer, ASKED)
    finished = encode_response(tokenizer, "the cat sat", finished=True)
    cut = encode_response(tokenizer, "the cat sat", finished=False)
    whole = tokenizer(f"{render_prompt(tokenizer, ASKED)}the cat sat </s>")["input_ids"]
    assert prompt + finished == whole
    assert finished == [*cut, tokenizer.eos_token_id]
    assert encode_response(tokenizer, "the cat sat </s>", finished=True) == finished


@pytest.mark.parametrize("adds_bos", [False, True])
def test_bos_stands_once_whoever_writes_it(adds_bos):
    """Template and tokenizer may both add one; a document and its text too."""
    tokenizer = quirks.tokenizer(quirks.WITH_BOS, adds_bos=adds_bos)
    assert encode_prompt(tokenizer, ASKED).count(tokenizer.bos_token_id) == 1
    for text in ("the cat", "<s> the cat", "the cat </s>"):
        found = words(tokenizer, encode_document(tokenizer, text))
        assert found == ["<s>", "the", "cat", "</s>"]


def test_a_system_prompt_that_the_template_adds_is_seen():
    facts = template_facts(quirks.tokenizer(quirks.WITH_SYSTEM))
    assert facts["example"].startswith("[system] you are a helpful bot </s> [user] what is asked")
    assert facts["template_between"] == ""
    assert facts["template_end"].strip() == "</s>"


def test_what_a_template_writes_before_an_answer_and_we_do_not_is_told():
    facts = template_facts(quirks.tokenizer(quirks.THINKING))
    assert facts["template_between"] == "<think> </think> "
    assert facts["chat_template"] == "own"


def test_pieces_that_would_merge_across_the_seam_are_told():
    """`ab` is one token together, and the prompt ends in `a`: apart they are what we train on."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(["</s>", *"what isnerd:"])}
    merges = [(":", "w")]
    backend = Tokenizer(models.BPE({**letters, ":w": len(letters)}, merges))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="</s>",
        chat_template="{% for m in messages %}{{ m['content'] }}:{% endfor %}",
    )
    assert template_facts(tokenizer)["joined_alike"] is False
    assert template_facts(quirks.tokenizer(quirks.CHATML))["joined_alike"] is True


def test_a_model_without_template_gets_the_default_written_into_its_artifact(tmp_path):
    tokenizer = quirks.tokenizer(None, spare=True)
    save_model(quirks.tiny_llama(len(tokenizer)), tokenizer, tmp_path / "from")
    config = BaseConfig(kind=BaseKind.folder, path=str(tmp_path / "from"))
    report = run(config, text=tmp_path, out=tmp_path, context=Context.at(tmp_path / "c"))
    kept = load_tokenizer(tmp_path / "model")
    assert kept.chat_template == PLAIN_TURNS
    assert report.contract["chat_template"] == "plain_turns"
    assert text_contract(kept, 64) == report.contract
    assert render_prompt(kept, [{"role": "system", "content": "be brief"}, *ASKED]) == (
        "<s>be brief\n\nUser: what is asked\n\nAssistant:\n"
    )
    assert kept.pad_token in [*quirks.MARKS, "<spare>"]


def test_a_default_template_needs_no_bos():
    tokenizer = quirks.tokenizer(None)
    tokenizer.bos_token = None
    settle_template(tokenizer)
    assert render_prompt(tokenizer, ASKED) == "User: what is asked\n\nAssistant:\n"


def test_every_named_template_ends_a_prompt_with_the_assistants_turn():
    for name, template in NAMED.items():
        tokenizer = quirks.tokenizer(template)
        facts = template_facts(tokenizer)
        assert facts["chat_template"] == name
        assert facts["template_between"].strip() == ""
        assert "what is asked" in render_prompt(tokenizer, ASKED)


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{% for m in messages %}", "cannot write"),
        ("hello {% if add_generation_prompt %}{% endif %}", "leaves out"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_at_the_base(template, what):
    with pytest.raises(UserError, match=what):
        settle_template(quirks.tokenizer(template))


def test_a_tokenizer_without_eos_is_refused():
    tokenizer = quirks.tokenizer(quirks.CHATML)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS"):
        settle_template(tokenizer)


def test_pad_is_a_spare_token_where_there_is_one_and_eos_may_stay():
    missing, with_spare = quirks.tokenizer(None), quirks.tokenizer(None, spare=True)
    settle_template(missing)
    model = quirks.tiny_llama(len(missing))
    before = model(**one(missing)).logits
    settle_pad(model, missing)
    assert missing.pad_token in quirks.MARKS  # no text and no template of its holds them
    assert (model(**one(missing)).logits == before).all()
    as_eos = quirks.tokenizer(quirks.CHATML, pad=quirks.EOS, spare=True)
    as_eos_model = quirks.tiny_llama(len(as_eos))
    settle_pad(as_eos_model, as_eos)
    assert as_eos.pad_token == quirks.EOS
    assert as_eos_model.config.pad_token_id is None
    settle_pad(quirks.tiny_llama(len(with_spare)), with_spare)
    assert with_spare.pad_token_id != with_spare.eos_token_id


def one(tokenizer):
    return tokenizer("the cat sat", return_tensors="pt")


def test_without_a_spare_token_the_vocabulary_grows_by_one_that_is_never_likely():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["<|end|>", "the", "cat", "sat"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<|end|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|end|>", eos_token="<|end|>", unk_token="<|end|>"
    )
    settle_template(tokenizer)
    model = quirks.tiny_llama(len(tokenizer))
    old = model(**one(tokenizer)).logits
    settle_pad(model, tokenizer)
    new = model(**one(tokenizer)).logits
    assert tokenizer.pad_token_id == 4
    assert model.config.pad_token_id == 4
    assert (new[..., :4] == old).all()
    assert (new[..., 4] < old.amax(-1)).all()
