"""Formats of two responses and a choice; rows as the data sets have them, odd ones included."""

from pathlib import Path
from typing import Any

import pytest

from stages.contracts import UserError
from stages.records.schemas import Comparison, Demonstration, Message, Prompt
from tests.stages.records.sources import read_rows


def user(content: str) -> list[Message]:
    return [{"role": "user", "content": content}]


def comparison(prompt: list[Message], completions: list[str], **fields: Any) -> Comparison:
    size = len(completions)
    defaults = {"source": ["chosen", "rejected"], "ranks": [1, 2], "finished": [True] * size}
    return Comparison(prompt=prompt, completions=completions, **(defaults | fields))


def hh(*turns: str) -> str:
    names = ("\n\nHuman: ", "\n\nAssistant: ")
    return "".join(names[index % 2] + turn for index, turn in enumerate(turns))


HH_ROWS = [
    {"chosen": hh("Hi", "Hello", "Why?", "It is so"), "rejected": hh("Hi", "Hello", "Why?", "It")},
    {"chosen": hh("A?", "good"), "rejected": hh("A?", "bad")},
    {"chosen": hh("A?", "bad"), "rejected": hh("A?", "worse")},
    {"chosen": hh("A?", "good"), "rejected": hh("A?", "bad")},
    # Odd rows: parted in the middle, empty, the same, the assistant speaks twice.
    {"chosen": hh("B?", "one", "more?", "x"), "rejected": hh("B?", "two", "more?", "y")},
    {"chosen": hh("C?", "one"), "rejected": "\n\nHuman: C?\n\nAssistant:"},
    {"chosen": hh("D?", "one"), "rejected": hh("D?", "one")},
    {
        "chosen": "\n\nHuman: E?\n\nAssistant: a\n\nAssistant: b",
        "rejected": "\n\nHuman: E?\n\nAssistant: a\n\nAssistant: c",
    },
]
HH_DROPPED = {
    "chosen and rejected part before the last turn": 1,
    "a completion without text": 1,
    "chosen and rejected are the same": 1,
    "the assistant speaks twice in a row": 1,
}


def test_hh_rlhf(tmp_path: Path) -> None:
    records, account = read_rows(Comparison, tmp_path, HH_ROWS, adapter="hh_rlhf")
    first = [*user("Hi"), {"role": "assistant", "content": "Hello"}, *user("Why?")]
    assert records == [
        comparison(first, ["It is so", "It"], source=["unknown"] * 2),
        comparison(
            user("A?"),
            ["good", "bad", "worse"],
            source=["unknown"] * 3,
            ranks=[1, 2, 3],
            pairs=[(0, 1, 0.0), (1, 2, 0.0)],
        ),
    ]
    assert account.dropped == HH_DROPPED
    assert account.left_out == {"the same pair again": 1}


def test_hh_rlhf_pairs_that_contradict_stay_apart(tmp_path: Path) -> None:
    circle = [("good", "bad"), ("bad", "worse"), ("worse", "good")]
    rows = [{"chosen": hh("A?", one), "rejected": hh("A?", two)} for one, two in circle]
    records, _ = read_rows(Comparison, tmp_path, rows, adapter="hh_rlhf")
    assert records == [comparison(user("A?"), list(pair)) for pair in circle]


def test_hh_rlhf_options(tmp_path: Path) -> None:
    options = {"group": False, "keep_parted": True}
    records, account = read_rows(Comparison, tmp_path, HH_ROWS, adapter="hh_rlhf", options=options)
    assert [len(record.completions) for record in records] == [2] * 5
    assert records[4].completions == [
        "one\n\nHuman: more?\n\nAssistant: x",
        "two\n\nHuman: more?\n\nAssistant: y",
    ]
    assert account.dropped.total() == 3


def test_hh_rlhf_other_tables(tmp_path: Path) -> None:
    demonstrations, account = read_rows(Demonstration, tmp_path, HH_ROWS, adapter="hh_rlhf")
    assert demonstrations[1] == Demonstration(prompt=user("A?"), response="good")
    assert account.dropped == HH_DROPPED
    red_team = [{"transcript": hh("How to steal?", "No."), "rating": 0.0, "tags": None}]
    prompts, _ = read_rows(Prompt, tmp_path, red_team, adapter="hh_rlhf")
    assert prompts == [Prompt(prompt=user("How to steal?"))]


def test_hh_rlhf_bad_rows(tmp_path: Path) -> None:
    for row, field in (
        ({"chosen": hh("A?", "x"), "rejected": hh("B?", "y")}, "rejected"),
        ({"chosen": "A?\n\nAssistant: x", "rejected": "A?\n\nAssistant: y"}, "chosen"),
        ({"chosen": hh("A?", "x")}, "rejected"),
    ):
        with pytest.raises(UserError, match=rf"line 1, field {field}"):
            read_rows(Comparison, tmp_path, [row], adapter="hh_rlhf")


def talk(*turns: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"content": turn, "role": roles[index % 2]} for index, turn in enumerate(turns)]


def test_ultrafeedback_binarized(tmp_path: Path) -> None:
    row = {
        "prompt": "Q",
        "prompt_id": "0a",
        "chosen": talk("Q", "best"),
        "rejected": talk("Q", "poor"),
        "messages": talk("Q", "best"),
        "score_chosen": 8.5,
        "score_rejected": 3.0,
    }
    tied = row | {"score_rejected": 8.5}
    rows = [row, tied, row | {"rejected": talk("Q", "")}]
    records, account = read_rows(Comparison, tmp_path, rows, adapter="ultrafeedback_binarized")
    made = {"prompt": user("Q"), "completions": ["best", "poor"], "labeler": "gpt-4"}
    assert records == [
        comparison(**made, scores=[8.5, 3.0]),
        comparison(**made, scores=[8.5, 8.5], ranks=[1, 1]),
    ]
    assert account.all_tied == 1
    assert account.left_out == {"a completion without text": 1}
    assert account.dropped == {"fewer than two different completions": 1}
    demonstrations, _ = read_rows(
        Demonstration, tmp_path, rows[:1], adapter="ultrafeedback_binarized"
    )
    assert demonstrations == [Demonstration(prompt=user("Q"), response="best")]
    wrong = row | {"score_chosen": 1.0}
    with pytest.raises(UserError, match="field score_chosen"):
        read_rows(Comparison, tmp_path, [wrong], adapter="ultrafeedback_binarized")


def test_webgpt_comparisons(tmp_path: Path) -> None:
    question = {"dataset": "eli5", "id": "1", "full_text": "Why is the sky blue?"}
    row = {
        "question": question,
        "quotes_0": {"title": ["A page"], "extract": ["Light"]},
        "answer_0": "Rayleigh [1]",
        "tokens_0": {"prefix": [1], "completion": [2]},
        "score_0": -0.5,
        "quotes_1": {"title": [], "extract": []},
        "answer_1": "Scattering [1]",
        "tokens_1": {"prefix": [1], "completion": [3]},
        "score_1": 0.5,
    }
    rows = [row, row | {"score_0": 0.0, "score_1": 0.0}, row | {"answer_0": ""}]
    records, account = read_rows(Comparison, tmp_path, rows, adapter="webgpt_comparisons")
    made = {
        "prompt": user("Why is the sky blue?"),
        "completions": ["Rayleigh [1]", "Scattering [1]"],
        "source": ["answer_0", "answer_1"],
    }
    assert records == [
        comparison(**made, ranks=[2, 1], scores=[-0.5, 0.5]),
        comparison(**made, ranks=[1, 1], scores=[0.0, 0.0]),
    ]
    assert account.all_tied == 1
    assert account.dropped == {"fewer than two different completions": 1}


POST = {"id": "t3_a", "post": "I lost it.", "title": "Lost", "subreddit": "tifu"}
TLDR = "SUBREDDIT: r/tifu\nTITLE: Lost\nPOST: I lost it.\n\nTL;DR:"


def test_summarize_from_feedback(tmp_path: Path) -> None:
    row = {
        "info": POST | {"site": None, "article": None},
        "summaries": [
            {"text": " lost", "policy": "sup1", "note": ""},
            {"text": " found", "policy": "ref", "note": None},
        ],
        "choice": 1,
        "worker": "w7",
        "batch": "batch3",
        "split": "train",
        "extra": {"confidence": None},
    }
    news = row | {
        "info": {"id": "n", "article": "News.", "post": None, "title": "T", "subreddit": None},
        "choice": 0,
    }
    adapter = "summarize_from_feedback"
    records, _ = read_rows(Comparison, tmp_path, [row, news], adapter=adapter)
    made = {"completions": ["lost", "found"], "source": ["sup1", "ref"], "labeler": "w7"}
    assert records == [
        comparison(prompt=user(TLDR), **made, ranks=[2, 1]),
        comparison(prompt=user("Article:\n\nNews.\n\nTL;DR:"), **made, ranks=[1, 2]),
    ]
    with pytest.raises(UserError, match="field choice"):
        read_rows(Comparison, tmp_path, [row | {"choice": 2}], adapter=adapter)


def test_summarize_from_feedback_axis(tmp_path: Path) -> None:
    def rated(text: str, overall: int | None, worker: str = "w1") -> dict[str, Any]:
        axes = {"overall": overall, "accuracy": 7, "coverage": 5, "coherence": None}
        summary = {"text": text, "policy": f"p-{text}", "note": None, "axes": axes}
        return {"info": POST, "summary": summary, "worker": worker, "batch": "b", "split": "test"}

    rows = [rated("a", 3), rated("b", 7), rated("b", 1, "w2"), rated("c", 3), rated("d", None)]
    adapter = "summarize_from_feedback_axis"
    records, account = read_rows(Comparison, tmp_path, rows, adapter=adapter)
    assert records == [
        comparison(
            user(TLDR),
            ["a", "b", "c"],
            source=["p-a", "p-b", "p-c"],
            ranks=[2, 1, 2],
            scores=[3.0, 7.0, 3.0],
            labeler="w1",
        )
    ]
    assert account.dropped == {
        "no rating of overall": 1,
        "fewer than two different completions": 1,  # the only summary of w2
    }


def test_chatbot_arena(tmp_path: Path) -> None:
    row = {
        "question_id": "q",
        "model_a": "koala",
        "model_b": "vicuna",
        "winner": "model_b",
        "judge": "arena_user_1",
        "conversation_a": talk("Hi", "Hello."),
        "conversation_b": talk("Hi", "Hey!"),
        "turn": 1,
        "anony": True,
        "language": "English",
        "tstamp": 1682351591.1,
        "openai_moderation": {"flagged": False},
        "toxic_chat_tag": {},
    }
    longer = {
        "conversation_a": talk("Hi", "Hello.", "More", "No"),
        "conversation_b": talk("Hi", "Hey!", "More", "Yes"),
        "turn": 2,
    }
    rows = [row, row | {"winner": "tie"}, row | {"winner": "tie (bothbad)"}, row | longer]
    records, account = read_rows(Comparison, tmp_path, rows, adapter="chatbot_arena")
    made = {
        "prompt": user("Hi"),
        "completions": ["Hello.", "Hey!"],
        "source": ["koala", "vicuna"],
        "labeler": "arena_user_1",
        "user": "arena_user_1",
    }
    assert records == [
        comparison(**made, ranks=[2, 1]),
        comparison(**made, ranks=[1, 1]),
        comparison(**made, ranks=[1, 1]),
    ]
    assert account.dropped == {"chosen and rejected part before the last turn": 1}
    options = {"both_bad": False, "language": "German"}
    _, account = read_rows(Comparison, tmp_path, rows, adapter="chatbot_arena", options=options)
    assert account.dropped == {"another language": 4}
    prompts, _ = read_rows(Prompt, tmp_path, rows[:1], adapter="chatbot_arena")
    assert prompts == [Prompt(prompt=user("Hi"), user="arena_user_1")]
    with pytest.raises(UserError, match="field winner"):
        read_rows(Comparison, tmp_path, [row | {"winner": "a"}], adapter="chatbot_arena")


def test_tulu3(tmp_path: Path) -> None:
    row = {
        "id": "x",
        "source": "wildchat",
        "prompt": "Q2",
        "chosen": talk("Q1", "A1", "Q2", "yes"),
        "rejected": talk("Q1", "A1", "Q2", "no"),
    }
    same = row | {"rejected": row["chosen"]}
    records, account = read_rows(Comparison, tmp_path, [row, same], adapter="tulu3")
    prompt = [*user("Q1"), {"role": "assistant", "content": "A1"}, *user("Q2")]
    assert records == [comparison(prompt, ["yes", "no"])]
    assert account.dropped == {"chosen and rejected are the same": 1}


def test_reward_bench(tmp_path: Path) -> None:
    row = {
        "prompt": "2 + 2?",
        "chosen": "4",
        "chosen_model": "human",
        "rejected": "5",
        "rejected_model": "gpt2",
        "subset": "math-prm",
        "id": 3,
    }
    records, _ = read_rows(Comparison, tmp_path, [row], adapter="reward_bench")
    expected = comparison(user("2 + 2?"), ["4", "5"], source=["human", "gpt2"], subset="math-prm")
    assert records == [expected]


def test_shp(tmp_path: Path) -> None:
    def voted(post: str, a: str, b: str, labels: int, ratio: float) -> dict[str, Any]:
        return {
            "post_id": post,
            "domain": "askbaking_train",
            "upvote_ratio": 0.98,
            "history": f"About {post}?",
            "c_root_id_A": "c1",
            "c_root_id_B": "c2",
            "created_at_utc_A": 1,
            "created_at_utc_B": 2,
            "score_A": 340,
            "score_B": 166,
            "human_ref_A": a,
            "human_ref_B": b,
            "labels": labels,
            "seconds_difference": 1.0,
            "score_ratio": ratio,
        }

    rows = [
        voted("p", "butter", "oil", 1, 3.0),
        voted("q", "yes", "no", 0, 2.5),
        voted("p", "sugar", "butter", 1, 4.0),
        voted("p", "oil", "sugar", 1, 1.5),  # against the two above, but by few votes
        voted("q", "yes", "yes", 0, 9.0),
    ]
    records, account = read_rows(
        Comparison, tmp_path, rows, adapter="shp", options={"min_score_ratio": 2.0}
    )
    assert records == [
        comparison(
            user("About p?"),
            ["butter", "oil", "sugar"],
            source=["unknown"] * 3,
            ranks=[2, 3, 1],
            pairs=[(0, 1, 0.0), (2, 0, 0.0)],
        ),
        comparison(user("About q?"), ["no", "yes"], source=["unknown"] * 2),
    ]
    assert account.dropped == {"score_ratio below 2.0": 1, "both comments are the same": 1}
    records, _ = read_rows(Comparison, tmp_path, rows, adapter="shp")
    assert [len(record.completions) for record in records] == [2, 2, 2, 2]  # a circle: no K = 3
