"""Texts that are longer than a model's input, in pieces at sentence or word borders."""

from collections.abc import Callable, Sequence

from eval_harness.faithfulness.text.sentences import split_sentences

Length = Callable[[str], int]


def pack(pieces: Sequence[str], most: int, length: Length) -> list[str]:
    """Join consecutive pieces with spaces while their lengths add up to at most `most`."""
    chunks: list[str] = []
    current: list[str] = []
    size = 0
    for piece in pieces:
        added = length(piece)
        if current and size + added > most:
            chunks.append(" ".join(current))
            current, size = [], 0
        current.append(piece)
        size += added
    return [*chunks, " ".join(current)] if current else chunks


def cut_long(pieces: Sequence[str], most: int, length: Length) -> list[str]:
    """Cut every piece that is too long at word borders; the others stay as they are."""
    short: list[str] = []
    for piece in pieces:
        # A token holds at least one byte, so only long texts need counting.
        if len(piece.encode("utf-8")) <= most or length(piece) <= most:
            short.append(piece)
        else:
            short += pack(_words(piece, most), most, length)
    return short


def _words(piece: str, most: int) -> list[str]:
    """Words; a text without spaces in runs of `most` characters, which hold at most as many tokens or so."""
    return [word[i : i + most] for word in piece.split() for i in range(0, len(word), most)]


def chunk_document(document: str, most: int, length: Length) -> list[str]:
    """A document as chunks of whole sentences of at most `most` in length; longer sentences are cut.

    Args:
      document: any text.
      most: the longest chunk, in the unit of `length`.
      length: of a text, in tokens or words.
    """
    return pack(cut_long(split_sentences(document), most, length), most, length)
