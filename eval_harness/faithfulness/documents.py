"""Documents to be summarised: JSON Lines of document, and perhaps reference and id."""

from pathlib import Path
from typing import NamedTuple

from eval_harness.errors import UserError
from eval_harness.faithfulness.human_labels import reference_of
from eval_harness.files.rows import read_rows, text_field


class Document(NamedTuple):
    """One document; `name` is its id, or its file and row."""

    text: str
    reference: str | None
    name: str


def read_documents(path: Path | None, limit: int | None) -> list[Document]:
    """Read the first `limit` documents; one that stands there again is left out.

    Raises:
      UserError: no file named, unreadable, a row without a document, an empty document.
    """
    if path is None:
        raise UserError(
            "no documents to summarise",
            got="no --documents",
            expected="--documents FILE",
            remedy="JSON Lines with the field document, optionally reference and id",
        )
    documents: dict[str, Document] = {}
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path.name}, row {number}"
        text = text_field(row, "document", where, optional=True)
        if not text.strip():
            raise UserError(f"{where}: the document is empty", got=repr(text[:20]), expected="a text")
        documents.setdefault(text, Document(text, reference_of(row, where), str(row.get("id", where))))
    return list(documents.values())[:limit]
