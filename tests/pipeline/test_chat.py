"""Talking to a run's models: two streams, unknown words, best-of-n."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.chat import main, open_speaker, readable, side_by_side
from pipeline.executors.protocol import Status
from pipeline.summary import RunRecord, StageRecord, write_run
from stages.contracts import UserError
from stages.lm.rollout import Sampling
from stages.lm.streaming import Speaker
from stages.records.schemas import Prompt
from stages.records.tables import write_table


@pytest.fixture
def run_folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    stages = {
        asset: StageRecord(status=Status.DONE, folder=str(tiny_model_folder))
        for asset in ("policy", "sft")
    }
    stages["prompts"] = StageRecord(status=Status.DONE, folder=str(tmp_path / "prompts"))
    asked = Prompt(prompt=[{"role": "user", "content": "count from one to two ."}])
    write_table(tmp_path / "prompts" / "test.parquet", [asked])
    folder = tmp_path / "runs" / "tiny-00000000"
    folder.mkdir(parents=True)
    write_run(folder, RunRecord(run=folder.name, stages=stages))
    return folder


def test_one_prompt_is_answered_by_both(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(run_folder), "--prompt", "Count one, two.", "--max-new-tokens", "5", "--greedy"]
    assert main(asked) == 0
    policy, sft = capsys.readouterr().out.splitlines()
    assert policy.startswith("policy: ")
    assert policy.removeprefix("policy") == sft.removeprefix("sft")  # the same model


def test_sampling_is_chosen_by_options(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one likeliest token there is but one to choose. Mutation: an option not handed on."""
    asked = [str(run_folder), "--prompt", "count one two .", "--max-new-tokens", "6"]
    replies = []
    for options in (["--greedy"], ["--top-k", "1"], ["--top-p", "1e-6", "--temperature", "2"]):
        assert main([*asked, *options]) == 0
        replies.append(capsys.readouterr().out)
    assert replies[0] == replies[1] == replies[2]
    assert main([*asked, "--temperature", "2"]) == 0
    assert capsys.readouterr().out != replies[0]


def test_a_talk_goes_on_after_an_unknown_word(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["write about the dinosaur .", "", "list two ."])

    def next_line(_: str = "") -> str:
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", next_line)
    assert main([str(run_folder), "--max-new-tokens", "4"]) == 0
    said = capsys.readouterr().out
    assert "  count from one to two ." in said  # what one may ask
    assert "does not know: dinosaur" in said
    assert "policy: " in said


def test_unknown_words_are_named_with_the_nearest_and_all_known(tiny_model_folder: Path) -> None:
    speaker = Speaker(tiny_model_folder / "model")
    with pytest.raises(UserError) as caught:
        readable("write about the boxx .", speaker)
    assert "boxx" in caught.value.what
    assert caught.value.got == "boxx (did you mean box?)"
    assert "count" in caught.value.do
    with pytest.raises(UserError) as caught:  # "?" is a known word, too
        readable("write about 7 ?", speaker)
    assert caught.value.got == "7"
    assert readable("Write, about THE box?", speaker) == "write , about the box ?"
    assert readable("write about the box ?", speaker) == "write about the box ?"


def test_a_run_without_a_policy_is_refused(run_folder: Path) -> None:
    shutil.rmtree(run_folder)
    run_folder.mkdir()
    write_run(run_folder, RunRecord(run=run_folder.name))
    with pytest.raises(UserError, match="has no policy model"):
        main([str(run_folder), "--prompt", "x"])


def test_streams_of_different_length_stay_side_by_side() -> None:
    replies = list(side_by_side([iter(["a", "a b"]), iter(["c"])]))
    assert replies == [["a", "c"], ["a b", "c"]]


def test_best_of_n_answers_with_what_the_reward_model_prefers(
    tiny_model_folder: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward here is the number of cats: of more samples the best has more of them.

    Mutation: argmin for argmax.
    """
    cat = tiny_tokenizer.convert_tokens_to_ids("cat")

    class Cats:
        def scores(self, batch: Any) -> Any:
            return ((batch.response_tokens == cat) & batch.response_mask).sum(1).float()

    monkeypatch.setattr("reward.best_of.load_scorer", lambda folder: Cats())
    cats = [best_of(n, tiny_model_folder).split().count("cat") for n in (1, 8, 64)]
    assert cats[0] < cats[1] < cats[2]


def best_of(n: int, folder: Path) -> str:
    (folder / "best_of_n.json").write_text(json.dumps({"n": n}))
    prompt = [{"role": "user", "content": "count one two ."}]
    speaker = open_speaker(folder / "model")
    (reply,) = speaker.reply(prompt, Sampling(max_new_tokens=30), seed=1)
    return reply
