"""OpenAssistant/oasst1, oasst2: reply trees, one message a row, or one tree a row (`prompt`).

Sibling replies of the assistant are ranked by people, rank 0 is best: every prompter's message with
two ranked replies makes a comparison of K, its prompt is the path from the root. Messages that were
deleted are left out with all that follows them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from stages.records.adapter import Adapter, Part, Rows
from stages.records.comparing import dense_ranks, ranked
from stages.records.fields import Fields
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison, Demonstration, Message, Prompt

READY = "ready_for_export"
ROLES = {"prompter": "user", "assistant": "assistant"}
R = TypeVar("R", Comparison, Demonstration, Prompt)


@dataclass(kw_only=True)
class Node:
    """A message with its replies, in the order of the file."""

    row: Fields
    turn: Message
    user: str | None
    rank: float | None  # 0 is the best of its siblings; None where nobody ranked it
    replies: list["Node"] = field(default_factory=list)


Make = Callable[[Node, list[Message]], R | None]  # of a prompter's message and the path to it


@dataclass(kw_only=True)
class Oasst(Adapter):
    """Comparisons, demonstrations from the best replies, and prompts; `user_id` is the user.

    lang: of the trees to keep, such as en; all if empty. only_ready: trees that were finished.
    """

    lang: str = ""
    only_ready: bool = True

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One for every prompter's message with two ranked replies."""
        return rows.grouped(self._parse, lambda parts: _each_prompt(parts, _comparison))

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """The best reply to every prompter's message; an only reply needs no rank."""
        return rows.grouped(self._parse, lambda parts: _each_prompt(parts, _demonstration))

    def prompts(self, rows: Rows) -> Iterator[Prompt]:
        """Every prompter's message, with the path to it."""
        return rows.grouped(self._parse, lambda parts: _each_prompt(parts, _prompt))

    def _parse(self, row: Fields) -> tuple[str, Node]:
        if self.only_ready and row.text("tree_state") != READY:
            raise SkipRow("a tree that was not finished")
        whole = row.given("prompt")
        node = _node(row.inner("prompt") if whole else row, whole)
        if self.lang and node.row.text("lang") != self.lang:
            raise SkipRow("another language")
        return row.text("message_tree_id"), node


def _node(row: Fields, with_replies: bool) -> Node:
    replies = row.each("replies") if with_replies and row.given("replies") else []
    role = ROLES[row.one_of("role", *ROLES)]
    return Node(
        row=row,
        turn={"role": role, "content": row.text("text")},
        user=row.text_or_none("user_id"),
        rank=row.number("rank") if row.given("rank") else None,
        replies=[_node(reply, with_replies) for reply in replies],
    )


def _each_prompt(parts: list[Part[Node]], make: Make[R]) -> list[R]:
    made = [
        make(node, path)
        for root in _roots([part.item for part in parts])
        for node, path in _walk(root, [])
        if node.turn["role"] == "user"
    ]
    records = [record for record in made if record is not None]
    if not records:
        raise SkipRow("a tree that makes no record")
    return records


def _roots(nodes: list[Node]) -> list[Node]:
    """The roots of the messages' trees; a message that no root leads to is left out."""
    if len(nodes) == 1 and nodes[0].replies:
        return nodes
    by_id = {node.row.text("message_id"): node for node in nodes}
    parents = [(node, node.row.text_or_none("parent_id")) for node in nodes]
    for node, parent in parents:
        if parent in by_id:
            by_id[parent].replies.append(node)
    roots = [node for node, parent in parents if parent is None]
    waiting, reached = list(roots), 0
    while waiting:
        reached += 1
        waiting += waiting.pop().replies
    for _ in range(len(nodes) - reached):  # a parent is missing, or they go round in a circle
        nodes[0].row.leave_out("a message that no root leads to")
    return roots


def _walk(node: Node, before: list[Message]) -> Iterator[tuple[Node, list[Message]]]:
    """Every message that stands, with the path to it."""
    if _deleted(node):
        node.row.leave_out("a deleted message")
        return
    path = [*before, node.turn]
    yield node, path
    for reply in node.replies:
        yield from _walk(reply, path)


def _replies(node: Node) -> list[Node]:
    answers = [reply for reply in node.replies if reply.turn["role"] == "assistant"]
    return [reply for reply in answers if not _deleted(reply)]


def _deleted(node: Node) -> bool:
    return node.row.given("deleted") and node.row.truth("deleted")


def _comparison(node: Node, path: list[Message]) -> Comparison | None:
    ranked_ones = [(reply, reply.rank) for reply in _replies(node) if reply.rank is not None]
    for reply in _replies(node):
        if reply.rank is None:
            node.row.leave_out("a reply without a rank")
    if len(ranked_ones) < 2:
        node.row.leave_out("a prompt with fewer than two ranked replies")
        return None
    ranks = dense_ranks([rank for _, rank in ranked_ones])
    texts = [
        (reply.turn["content"], _author(reply), rank)
        for (reply, _), rank in zip(ranked_ones, ranks, strict=True)
    ]
    try:
        return ranked(node.row, path, texts, user=node.user)
    except SkipRow as odd:
        node.row.leave_out(f"a prompt with {odd.reason}")
        return None


def _demonstration(node: Node, path: list[Message]) -> Demonstration | None:
    replies = _replies(node)
    with_rank = [
        (reply.rank, index) for index, reply in enumerate(replies) if reply.rank is not None
    ]
    if with_rank:
        best = replies[min(with_rank)[1]]
    elif len(replies) == 1:
        best = replies[0]
    else:
        node.row.leave_out("a prompt without a best reply")
        return None
    response = best.turn["content"]
    return Demonstration(prompt=path, response=response, user=node.user, labeler=best.user)


def _prompt(node: Node, path: list[Message]) -> Prompt:
    return Prompt(prompt=path, user=node.user)


def _author(node: Node) -> str:
    return node.row.text_or_none("model_name") or "human"
