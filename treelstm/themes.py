"""The colours of figures and widgets, and how they follow a page's theme, light or dark.

A colour is its hexadecimal value on white, where it has a contrast of 4.5:1; on #111111 that value still
has 3:1, and its dark one 4.5:1. Blue, orange, green, purple and yellow are told apart by people who see
few colours (after Okabe & Ito 2008); what differs by colour differs by a dash, marker or word as well.
"""

SIMILAR, DISSIMILAR, NEUTRAL, MARK = "#0072b2", "#b84d00", "#6b6b6b", "#c62828"
GREEN, PURPLE, YELLOW = "#00795a", "#a6477f", "#8a6a00"
APART, TOGETHER, SHARED = "#f4a259", "#7fb3e6", "#ffe08a"  # behind words, which have 4.5:1 on them

_NAMES = {  # of the custom property, --treelstm-NAME; the value where a page is dark
    SIMILAR: ("similar", "#56b4e9"),
    DISSIMILAR: ("dissimilar", "#ff9e4a"),
    NEUTRAL: ("neutral", "#a8a8a8"),
    MARK: ("mark", "#ff8a80"),
    GREEN: ("green", "#3cc99f"),
    PURPLE: ("purple", "#e58fc0"),
    YELLOW: ("yellow", "#e6b800"),
    APART: ("apart", "#7d4104"),
    TOGETHER: ("together", "#1d568c"),
    SHARED: ("shared", "#665000"),
}


def variable(color: str) -> str:
    """A colour above as CSS that follows the theme; any other stays what it is."""
    return f"var(--treelstm-{_NAMES[color][0]}, {color})" if color in _NAMES else color


def _properties(dark: bool) -> str:
    values = ((name, of_dark if dark else light) for light, (name, of_dark) in _NAMES.items())
    return "".join(f"--treelstm-{name}:{value};" for name, value in values)


CSS = (
    f":root,[data-jp-theme-light=true]{{{_properties(False)}}}\n"
    f"[data-jp-theme-light=false],.vscode-dark{{{_properties(True)}}}\n"
)
