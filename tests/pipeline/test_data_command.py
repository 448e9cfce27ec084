"""What `data` says of the embedded world, and how figures are put."""

import pytest
from rich.console import Console

from pipeline.commands.data import data_folders, known_tokenizer, print_card, read_card
from pipeline.composition import compose
from pipeline.reporting.data_page import write_data_page
from pipeline.reporting.headline import said


def world(tmp_path, *overrides):
    own = [f"store={tmp_path / 'store'}", f"runs_dir={tmp_path / 'runs'}", "+experiment=tiny"]
    return compose([*own, *overrides])


def test_the_worlds_tables_are_made_and_shown_without_a_model(tmp_path):
    config, screen = world(tmp_path), Console(record=True, width=120)
    assert known_tokenizer(config) is None
    cards = {asset: read_card(asset, at, None) for asset, at in data_folders(config, screen)}
    assert list(cards) == ["demonstrations", "prompts", "text"]
    for asset, card in cards.items():
        print_card(asset, card, screen)
    text = screen.export_text()
    assert "comparisons: made from" in text
    assert "prompts in two splits: train and test: 0" in text
    assert cards["demonstrations"]["splits"]["train"]["rows"] == 64
    page = write_data_page(tmp_path / "page", cards, "<user> <b>hello</b>").read_text()
    assert page.count("<svg") == 4  # prompts twice, responses, documents
    assert "<b>hello</b>" not in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"mean": 1234.56, "median": 10.0, "max": 90000.0}, "1,234.6 / 10 / 90,000"),
        ({"2": 5, "3": 1}, "2: 5, 3: 1"),
        ({}, "–"),
        (None, "–"),
        (0.5, "0.500"),
        (12345, "12,345"),
    ],
)
def test_figures_in_few_characters(value, text):
    assert said(value) == text
