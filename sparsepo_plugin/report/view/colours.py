"""Colour scales of the page: lightness carries the value, so that they read without colour vision.

Masks and KL: one blue hue, darker (on a dark page: lighter) is more. Signed values: blue is positive, orange
negative, a pair of hues that all common colour-vision deficiencies tell apart.
"""

from __future__ import annotations

STEPS = 16
SIGNED_STEPS = 8
_BLUES = {
    "light": ("#eaf2fb", "#c3dbf0", "#8dbde0", "#4f97cb", "#1f6bb0", "#08306b"),
    "dark": ("#1c2733", "#1d3a5c", "#24588c", "#3f86c4", "#86bdec", "#def0ff"),
}
_ORANGES = {
    "light": ("#fdf0e2", "#fbd9b0", "#f6b56b", "#de8420", "#ad560a", "#6b3205"),
    "dark": ("#2c241b", "#4d3615", "#80560f", "#c0851c", "#f2b75a", "#ffe9c9"),
}
_CENTRE = {"light": "#f1f1f1", "dark": "#272b31"}
THEMES = ("light", "dark")
Colour = tuple[int, int, int]


def scale(theme: str) -> dict[str, Colour]:
    """Background of every class: s1..s16 for values above 0, n8..n1, d0, p1..p8 for signed values."""
    backgrounds = {f"s{n}": _at(_BLUES[theme], (n - 1) / (STEPS - 1)) for n in range(1, STEPS + 1)}
    backgrounds["d0"] = _parse(_CENTRE[theme])
    for n in range(1, SIGNED_STEPS + 1):
        backgrounds[f"p{n}"] = _at(_BLUES[theme], n / SIGNED_STEPS)
        backgrounds[f"n{n}"] = _at(_ORANGES[theme], n / SIGNED_STEPS)
    return backgrounds


def text_on(background: Colour) -> Colour:
    """Black or white, whichever contrasts more: at least 4.5 to 1 on any colour."""
    return max(((0, 0, 0), (255, 255, 255)), key=lambda text: contrast(text, background))


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio of WCAG 2, from 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: Colour) -> float:
    """Relative luminance of WCAG 2, 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def css() -> str:
    """Rules for every class in both themes: the system's choice, and the page's own attribute over it."""
    names = list(scale("light"))
    variables = {theme: _variables(theme) for theme in THEMES}
    return "\n".join(
        (
            f":root{{{variables['light']}}}",
            f"@media (prefers-color-scheme: dark){{:root{{{variables['dark']}}}}}",
            f":root[data-theme=light]{{{variables['light']}}}",
            f":root[data-theme=dark]{{{variables['dark']}}}",
            *(f".{name}{{background:var(--{name});color:var(--{name}t)}}" for name in names),
        )
    )


def _variables(theme: str) -> str:
    return "".join(
        f"--{name}:{_hex(colour)};--{name}t:{_hex(text_on(colour))};" for name, colour in scale(theme).items()
    )


def _at(stops: tuple[str, ...], share: float) -> Colour:
    """Colour at a share in [0, 1] between the stops."""
    position = share * (len(stops) - 1)
    low = min(int(position), len(stops) - 2)
    share = position - low
    pairs = zip(_parse(stops[low]), _parse(stops[low + 1]))
    red, green, blue = (round(a + share * (b - a)) for a, b in pairs)
    return red, green, blue


def _parse(text: str) -> Colour:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)
