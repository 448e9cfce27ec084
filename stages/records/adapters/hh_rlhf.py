"""Anthropic/hh-rlhf: two transcripts, `chosen` and `rejected`, that share their prompt.

The prompt is what both start with, up to the last assistant's turn in it; five of 2,312 rows of
harmless-base/test part earlier. The same prompt comes again with other responses: its pairs become
one comparison of K. red-team-attempts has `transcript` alone, for prompts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Rows
from stages.records.comparing import EMPTY
from stages.records.fields import Fields
from stages.records.grouping import Preference, joined, prompt_key
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison, Demonstration, Prompt
from stages.records.transcripts import split_pair, turns


@dataclass(kw_only=True)
class HhRlhf(Adapter):
    """Comparisons; demonstrations are the chosen responses.

    group: pairs of one prompt together; this holds all rows until the last is read.
    keep_parted: of transcripts that part before their last turn, keep the whole rest as the
    response, as TRL does; otherwise such rows are left out.
    """

    group: bool = True
    keep_parted: bool = False

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """A pair a row, or K completions a prompt."""
        if self.group:
            return rows.grouped(self._keyed, joined)
        return rows.runs(lambda row: (row, self._preference(row)), joined)

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """The chosen response of each row."""
        return rows.each(self._demonstration)

    def prompts(self, rows: Rows) -> Iterator[Prompt]:
        """The prompt of each pair, or the first turn of a red-team transcript."""
        return rows.each(self._prompt)

    def _keyed(self, row: Fields) -> tuple[object, Preference]:
        preference = self._preference(row)
        return prompt_key(preference.prompt), preference

    def _demonstration(self, row: Fields) -> Demonstration:
        preference = self._preference(row)
        return Demonstration(prompt=preference.prompt, response=preference.better)

    def _prompt(self, row: Fields) -> Prompt:
        if row.given("transcript"):
            return Prompt(prompt=turns(row.said("transcript"), "transcript")[:1])
        return Prompt(prompt=self._preference(row).prompt)

    def _preference(self, row: Fields) -> Preference:
        chosen, rejected = row.said("chosen"), row.said("rejected")
        if chosen == rejected:
            raise SkipRow("chosen and rejected are the same")
        found = split_pair(chosen, rejected)
        if found is None:
            raise row.error("rejected", "no assistant's turn shared with chosen", "same prompt")
        start, better, worse = found
        if not better or not worse:
            raise SkipRow(EMPTY)
        if "\n\nHuman:" in better + worse and not self.keep_parted:
            raise SkipRow("chosen and rejected part before the last turn")
        prompt = turns(start, "chosen")
        if prompt[-1]["role"] != "user":
            raise SkipRow("the assistant speaks twice in a row")
        return Preference(prompt=prompt, better=better, worse=worse)
