"""How our plots look, and how one becomes a piece of an HTML page.

The colours are those of Okabe and Ito (2008), which people with any common colour blindness tell
apart; series also differ in their dashes, so the picture survives a grey print.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
)
INK, FAINT = "#1f2933", "#8a94a0"
PROXY_COLOR, GOLD_COLOR = BLUE, ORANGE
DASHES = ("-", "--", ":", "-.")
SERIES_COLORS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)

STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#e6e9ed",
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in our style, whatever the user's matplotlibrc says."""
    with rc_context(STYLE):
        yield


def new_plot(width: float = 4.4, height: float = 2.9) -> tuple[Figure, Axes]:
    """A figure (inches) with one pair of axes, independent of pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def to_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an inline `<svg>` that fills its column.

    Args:
        figure: to draw.
        name: unique on the page; keeps the ids of two pictures apart.
        description: read out instead of the picture.
    """
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None}
        )
    picture = buffer.getvalue()
    picture = picture[picture.index("<svg") :]
    picture = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", picture, flags=re.DOTALL)
    picture = _own_ids(picture, name)
    head = (
        f'<svg role="img" aria-label="{Markup.escape(description)}" viewBox="{_view_box(picture)}">'
    )
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, picture, count=1))  # our own drawing


def _own_ids(picture: str, name: str) -> str:
    """Ids are per page, not per picture; the XML namespaces are implied in HTML."""
    picture = picture.replace("xlink:href=", "href=")
    return re.sub(r'(\bid="|href="#|url\(#)', lambda found: f"{found.group(1)}{name}-", picture)


def _view_box(picture: str) -> str:
    found = re.search(r'viewBox="([^"]+)"', picture)
    assert found is not None, "matplotlib writes a viewBox"
    return found.group(1)
