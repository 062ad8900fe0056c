"""NLTK's sentence splitter data, which IFEval needs, and a stand-in for offline CI.

Upstream trap: lm-eval tries to download it when the task is imported, goes on if that fails, and dies in
scoring, after all generation. So it is looked for before anything is loaded.
"""

from pathlib import Path

NOTE = "IFEval sentence counts made with a stand-in for NLTK's punkt: not comparable with published scores"
_MARK = "STANDIN"
_ABBREVIATIONS = ("dr", "mr", "mrs", "ms", "prof", "st", "e.g", "i.e", "u.s", "vs", "etc")


def find_punkt() -> str | None:
    """`real`, `standin` or None: what NLTK finds under tokenizers/punkt_tab."""
    import nltk  # type: ignore[import-untyped, import-not-found, unused-ignore]

    try:
        folder = nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return None
    # An earlier run of this process, or NLTK_DATA, may have put a stand-in on the path: it must not pass for
    # real.
    return "standin" if (Path(str(folder)) / _MARK).is_file() else "real"


def install_standin(folder: Path) -> None:
    """Write a minimal punkt_tab under `folder` and let this process's NLTK find it, after any real one."""
    import nltk

    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True, exist_ok=True)
    for name in ("collocations.tab", "sent_starters.txt", "ortho_context.tab", _MARK):
        (english / name).touch()
    (english / "abbrev_types.txt").write_text("\n".join(_ABBREVIATIONS) + "\n", encoding="utf-8")
    nltk.data.path.append(str(folder))
