"""What the formats of comparisons share: where responses start, ranks, pairs."""

from collections.abc import Sequence

from stages.records.fields import Fields
from stages.records.messages import common_prompt
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison, Message

EMPTY = "a completion without text"
AGAIN = "the same completion again"
TOO_FEW = "fewer than two different completions"


def ranks_of_scores(scores: Sequence[float]) -> list[int]:
    """1 for the highest score; equal scores tie, and the next rank follows without a gap."""
    levels = sorted(set(scores), reverse=True)
    return [levels.index(score) + 1 for score in scores]


def dense_ranks(places: Sequence[float]) -> list[int]:
    """Ranks from places in any numbering, the lowest is best: 0.0, 2.5, 2.5 are 1, 2, 2."""
    return ranks_of_scores([-place for place in places])


def two_responses(
    row: Fields, chosen: str, rejected: str, prompt: str | None = None
) -> tuple[list[Message], str, str]:
    """The prompt and the two responses of two columns, each a text or a conversation.

    Conversations may start with the prompt's turns; what both start with is then the prompt.
    Raises:
        SkipRow: the conversations part before the last turn, so that the prompt is not one.
    """
    if not row.is_conversation(chosen):
        return row.prompt(prompt or "prompt"), row.text(chosen), row.text(rejected)
    better, worse = row.messages(chosen), row.messages(rejected)
    shared, better, worse = common_prompt(better, worse)
    if shared and not better and not worse:
        raise SkipRow("chosen and rejected are the same")
    if not shared and prompt is not None:
        shared = row.prompt(prompt)
    for name, rest in ((chosen, better), (rejected, worse)):
        if rest and rest[0]["role"] != "assistant":
            raise row.error(name, f"turn of {rest[0]['role']}", "the response is the assistant's")
    if len(better) != 1 or len(worse) != 1:
        raise SkipRow("chosen and rejected part before the last turn")
    return shared, better[0]["content"], worse[0]["content"]


def compared(
    prompt: list[Message],
    chosen: str,
    rejected: str,
    *,
    margin: float | None = None,
    sources: tuple[str, str] = ("chosen", "rejected"),
    labeler: str | None = None,
    user: str | None = None,
) -> Comparison:
    """One is better than the other, by a margin where the format has a strength.

    Raises:
        SkipRow: an empty response, or twice the same.
    """
    if not chosen.strip() or not rejected.strip():
        raise SkipRow(EMPTY)
    if chosen == rejected:
        raise SkipRow("chosen and rejected are the same")
    return Comparison(
        prompt=prompt,
        completions=[chosen, rejected],
        source=list(sources),
        finished=[True, True],
        ranks=[1, 2],
        pairs=None if margin is None else [(0, 1, margin)],
        labeler=labeler,
        user=user,
    )


def ranked(
    row: Fields,
    prompt: list[Message],
    completions: Sequence[tuple[str, str, int]],
    *,
    scores: Sequence[float] | None = None,
    labeler: str | None = None,
    user: str | None = None,
) -> Comparison:
    """K completions, each (text, source, rank); empty and repeated ones are left out and counted.

    scores: their qualities in the same order, where the format has some.
    Raises:
        SkipRow: fewer than two are left.
    """
    kept: list[int] = []
    seen: set[str] = set()
    for index, (text, _, _) in enumerate(completions):
        if not text.strip() or text in seen:
            row.leave_out(AGAIN if text in seen else EMPTY)
            continue
        seen.add(text)
        kept.append(index)
    if len(kept) < 2:
        raise SkipRow(TOO_FEW)
    return Comparison(
        prompt=prompt,
        completions=[completions[index][0] for index in kept],
        source=[completions[index][1] for index in kept],
        finished=[True] * len(kept),
        ranks=dense_ranks([completions[index][2] for index in kept]),
        scores=None if scores is None else [scores[index] for index in kept],
        labeler=labeler,
        user=user,
    )
