"""Formats with ratings, ranks or strengths of several responses."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.contracts import UserError
from stages.records.schemas import Comparison, Demonstration, Message, Prompt
from tests.stages.records.sources import read_rows

NONE_BEATS = "fewer than two different completions"


def user(content: str) -> list[Message]:
    return [{"role": "user", "content": content}]


def rated(model: str, response: str, overall: float | None, ratings: str) -> dict[str, Any]:
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    annotations = {
        name: {"Rating": rating, "Rationale": "because"}
        for name, rating in zip(names, ratings.split(), strict=True)
    }
    return {
        "model": model,
        "principle": "honesty",
        "custom_system_prompt": "Be honest.",
        "response": response,
        "critique": "fine",
        "overall_score": overall,
        "fine-grained_score": 3.0,
        "annotations": annotations,
    }


def feedback(*completions: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": "evol_instruct",
        "instruction": "Sort it.",
        "models": [completion["model"] for completion in completions],
        "completions": list(completions),
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


FEEDBACK = [
    feedback(
        rated("alpaca", "one", 6.5, "4 4 N/A 4"),
        rated("falcon", "two", 8.0, "5 5 5 5"),
        rated("gpt-4", "three", 8.0, "N/A N/A N/A N/A"),
        rated("llama", "four", None, "1 2 3 4"),
    ),
    feedback(rated("alpaca", "only", 7.0, "4 4 4 4"), rated("bard", "", 1.0, "1 1 1 1")),
    feedback(),
]


def test_ultrafeedback(tmp_path: Path) -> None:
    records, account = read_rows(Comparison, tmp_path, FEEDBACK, adapter="ultrafeedback")
    assert records == [
        Comparison(
            prompt=user("Sort it."),
            completions=["one", "two", "three"],
            source=["alpaca", "falcon", "gpt-4"],
            finished=[True] * 3,
            ranks=[2, 1, 1],
            scores=[6.5, 8.0, 8.0],
            labeler="gpt-4",
        )
    ]
    assert account.left_out == {
        "a completion without a rating": 1,
        "a completion without text": 1,
    }
    assert account.dropped == {NONE_BEATS: 1, "no completion with a rating": 1}


def test_ultrafeedback_by_the_mean_of_the_aspects(tmp_path: Path) -> None:
    options = {"score": "mean_rating"}
    records, _ = read_rows(Comparison, tmp_path, FEEDBACK, adapter="ultrafeedback", options=options)
    assert records[0].completions == ["one", "two", "four"]
    assert records[0].scores == [4.0, 5.0, 2.5]  # (4+4+4)/3, (5*4)/4, (1+2+3+4)/4
    assert records[0].ranks == [2, 1, 3]
    with pytest.raises(UserError, match="score is unknown"):
        read_rows(Comparison, tmp_path, FEEDBACK, adapter="ultrafeedback", options={"score": "x"})
    wrong = feedback(rated("a", "b", 1.0, "much 1 1 1"))
    with pytest.raises(UserError, match=r"completions\.0\.annotations\.instruction_following\."):
        read_rows(Comparison, tmp_path, [wrong], adapter="ultrafeedback", options=options)


def test_ultrafeedback_other_tables(tmp_path: Path) -> None:
    demonstrations, account = read_rows(Demonstration, tmp_path, FEEDBACK, adapter="ultrafeedback")
    assert [record.response for record in demonstrations] == ["two", "only"]
    assert account.dropped == {"no completion with a rating": 1}
    prompts, _ = read_rows(Prompt, tmp_path, FEEDBACK, adapter="ultrafeedback")
    assert prompts == [Prompt(prompt=user("Sort it."))] * 3


def test_nectar(tmp_path: Path) -> None:
    def answer(text: str, model: str, rank: float | None) -> dict[str, Any]:
        return {"answer": text, "model": model, "rank": rank}

    row = {
        "prompt": "\n\nHuman: Count.\n\nAssistant: 1\n\nHuman: On.\n\nAssistant: ",
        "answers": [
            *(answer("4", "d", 4.0), answer("1", "a", 1.0), answer("7", "g", 7.0)),
            *(answer("2", "b", 2.0), answer("6", "f", 5.0), answer("5", "e", 5.0)),
            *(answer("1", "a2", 3.0), answer("x", "h", None)),
        ],
        "turns": 2,
        "num_responses": 7,
        "source": ["sharegpt"],
        "good_natured": False,
    }
    records, account = read_rows(Comparison, tmp_path, [row], adapter="nectar")
    assert records == [
        Comparison(
            prompt=[*user("Count."), {"role": "assistant", "content": "1"}, *user("On.")],
            completions=["4", "1", "7", "2", "6", "5"],
            source=["d", "a", "g", "b", "f", "e"],
            finished=[True] * 6,
            ranks=[3, 1, 5, 2, 4, 4],
            labeler="gpt-4",
        )
    ]
    assert account.left_out == {"the same completion again": 1, "an answer without a rank": 1}
    demonstrations, _ = read_rows(Demonstration, tmp_path, [row], adapter="nectar")
    assert demonstrations[0].response == "1"
    options = {"only_good_natured": True}
    _, account = read_rows(Comparison, tmp_path, [row], adapter="nectar", options=options)
    assert account.dropped == {"not good-natured": 1}


def test_lm_human_preferences(tmp_path: Path) -> None:
    row = {"query": "Once", "best": 2} | {f"sample{k}": f"end {k}" for k in range(4)}
    records, _ = read_rows(Comparison, tmp_path, [row], adapter="lm_human_preferences")
    assert records == [
        Comparison(
            prompt=user("Once"),
            completions=["end 0", "end 1", "end 2", "end 3"],
            source=["sample0", "sample1", "sample2", "sample3"],
            finished=[True] * 4,
            ranks=[2, 2, 1, 2],
        )
    ]
    with pytest.raises(UserError, match="field best"):
        read_rows(Comparison, tmp_path, [row | {"best": 4}], adapter="lm_human_preferences")


def test_lm_human_preferences_from_token_ids(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    words = {"Once": 0, "Ġupon": 1, "Ġa": 2, "Ġtime": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="Once"))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    samples = {"sample0": [1, 2], "sample1": [2, 50259], "sample2": [3], "sample3": [1]}
    row = {"query": [0], "best": 0} | samples
    options = {"tokenizer": str(tmp_path / "tokenizer.json")}
    keys: dict[str, Any] = {"adapter": "lm_human_preferences", "options": options}
    records, _ = read_rows(Comparison, tmp_path, [row], **keys)
    assert records[0].prompt == user("Once")
    assert records[0].completions == [" upon a", " a", " time", " upon"]
    with pytest.raises(UserError, match="field sample1"):
        read_rows(Comparison, tmp_path, [row | {"sample1": [4]}], **keys)
    with pytest.raises(UserError, match="need its tokenizer"):
        read_rows(Comparison, tmp_path, [row], adapter="lm_human_preferences")


def test_helpsteer2(tmp_path: Path) -> None:
    def row(prompt: str, response: str, helpfulness: int) -> dict[str, Any]:
        other = {"correctness": 3, "coherence": 4, "complexity": 2, "verbosity": 1}
        return {"prompt": prompt, "response": response, "helpfulness": helpfulness} | other

    talk = "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nWhy?"
    rows = [row(talk, "a", 1), row(talk, "b", 4), row("c?", "c", 2), row("d?", "d", 3)]
    rows.append(row("d?", "e", 3))
    records, account = read_rows(Comparison, tmp_path, rows, adapter="helpsteer2")
    prompt = [*user("Hi"), {"role": "assistant", "content": "Hello"}, *user("Why?")]
    made = {"source": ["unknown"] * 2, "finished": [True] * 2}
    assert records == [
        Comparison(prompt=prompt, completions=["a", "b"], ranks=[2, 1], scores=[1.0, 4.0], **made),
        Comparison(
            prompt=user("d?"), completions=["d", "e"], ranks=[1, 1], scores=[3.0, 3.0], **made
        ),
    ]
    assert account.dropped == {NONE_BEATS: 1}
    demonstrations, _ = read_rows(Demonstration, tmp_path, rows, adapter="helpsteer2")
    assert len(demonstrations) == 5


def test_strengths_of_helpsteer2_and_3_are_margins(tmp_path: Path) -> None:
    def two(strength: int, **more: Any) -> dict[str, Any]:
        texts = {"split": "train", "prompt": "Q", "response_1": "a", "response_2": "b"}
        return texts | {"preference_strength": strength, "preference_statement": "s"} | more

    def three(strength: int) -> dict[str, Any]:
        texts = {"domain": "code", "language": "python", "context": user("Q")}
        both = {"response1": "a", "response2": "b", "overall_preference": strength}
        return texts | both | {"individual_preference": [{"score": strength, "reasoning": "r"}]}

    strengths = (-3, 0, 1)
    for adapter, rows in (
        ("helpsteer2_preference", [two(strength) for strength in strengths]),
        ("helpsteer3", [three(strength) for strength in strengths]),
    ):
        records, account = read_rows(
            Comparison, tmp_path, rows, adapter=adapter, options={"margin_per_step": 0.5}
        )
        assert [record.completions for record in records] == [["a", "b"], ["a", "b"], ["b", "a"]]
        assert [record.ranks for record in records] == [[1, 2], [1, 1], [1, 2]]
        assert [record.pairs for record in records] == [[(0, 1, 1.5)], None, [(0, 1, 0.5)]]
        assert [record.source for record in records][2] == ["response_2", "response_1"]
        assert account.all_tied == 1
        wrong = two(4) if adapter == "helpsteer2_preference" else three(4)
        with pytest.raises(UserError, match="from -3 to 3"):
            read_rows(Comparison, tmp_path, [wrong], adapter=adapter)
    rows = [two(2), two(2, split="validation")]
    keys: dict[str, Any] = {"adapter": "helpsteer2_preference", "options": {"only_split": "train"}}
    records, account = read_rows(Comparison, tmp_path, rows, **keys)
    assert len(records) == 1
    assert account.dropped == {"another split": 1}
    [pair] = records[0].pairs or []
    assert pair == (0, 1, pytest.approx(2 / 3))  # small margins of Llama 2, a third a step


def message(name: str, parent: str | None, role: str, **more: Any) -> dict[str, Any]:
    return {
        "message_id": name,
        "parent_id": parent,
        "user_id": f"u-{name}",
        "created_date": "2023-02-05",
        "text": f"text {name}",
        "role": role,
        "lang": "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "rank": None,
        "synthetic": False,
        "model_name": None,
        "detoxify": None,
        "message_tree_id": "r",
        "tree_state": "ready_for_export",
        "emojis": {"name": ["+1"], "count": [2]},
        "labels": None,
    } | more


FLAT = [
    message("r", None, "prompter"),
    message("a", "r", "assistant", rank=1),
    message("b", "r", "assistant", rank=0),
    message("c", "r", "assistant", rank=2, deleted=True),
    message("d", "r", "assistant", model_name="llama", rank=2),
    message("e", "r", "assistant"),
    message("q", "b", "prompter"),
    message("f", "q", "assistant"),
    message("g", "nobody", "assistant", rank=0),
]
OTHER = [
    message("s", None, "prompter", message_tree_id="s", tree_state="growing"),
    message("t", None, "prompter", message_tree_id="t"),
]
RANKED = Comparison(
    prompt=user("text r"),
    completions=["text a", "text b", "text d"],
    source=["human", "human", "llama"],
    finished=[True] * 3,
    ranks=[2, 1, 3],
    user="u-r",
)


def as_tree(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [row] = [row for row in rows if row["message_id"] == name]
    replies = [as_tree(rows, one["message_id"]) for one in rows if one["parent_id"] == name]
    kept = {key: value for key, value in row.items() if key not in ("tree_state",)}
    return kept | {"replies": replies}


def test_oasst_messages(tmp_path: Path) -> None:
    records, account = read_rows(Comparison, tmp_path, [*FLAT, *OTHER], adapter="oasst")
    assert records == [RANKED]
    assert account.dropped == {
        "a tree that was not finished": 1,
        "a tree that makes no record": 1,
    }
    assert account.left_out == {
        "a deleted message": 1,
        "a message that no root leads to": 1,
        "a reply without a rank": 2,
        "a prompt with fewer than two ranked replies": 2,
    }


def test_oasst_trees(tmp_path: Path) -> None:
    tree = {
        "message_tree_id": "r",
        "tree_state": "ready_for_export",
        "prompt": as_tree(FLAT, "r"),
    }
    records, account = read_rows(Comparison, tmp_path, [tree], adapter="oasst")
    assert records == [RANKED]
    assert (account.rows, account.used) == (1, 1)
    broken = json.loads(json.dumps(tree))
    broken["prompt"]["replies"][1]["replies"][0]["text"] = None
    with pytest.raises(UserError, match=r"field prompt\.replies\.1\.replies\.0\.text"):
        read_rows(Comparison, tmp_path, [broken], adapter="oasst")


def test_oasst_demonstrations_and_prompts(tmp_path: Path) -> None:
    second = [*user("text r"), {"role": "assistant", "content": "text b"}, *user("text q")]
    demonstrations, _ = read_rows(Demonstration, tmp_path, FLAT, adapter="oasst")
    assert demonstrations == [
        Demonstration(prompt=user("text r"), response="text b", user="u-r", labeler="u-b"),
        Demonstration(prompt=second, response="text f", user="u-q", labeler="u-f"),
    ]
    prompts, _ = read_rows(Prompt, tmp_path, FLAT, adapter="oasst")
    assert prompts == [
        Prompt(prompt=user("text r"), user="u-r"),
        Prompt(prompt=second, user="u-q"),
    ]
    _, account = read_rows(Prompt, tmp_path, FLAT, adapter="oasst", options={"lang": "de"})
    assert account.dropped == {"another language": 9}


def test_oasst_circles_end(tmp_path: Path) -> None:
    rows = [*FLAT, message("x", "y", "assistant"), message("y", "x", "prompter")]
    _, account = read_rows(Comparison, tmp_path, rows, adapter="oasst")
    assert account.left_out["a message that no root leads to"] == 3
