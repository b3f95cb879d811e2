"""The embedded text: a ship's log, a cook's instructions and a clerk's letters, three styles written for this project.

Character by character (`fedwarm.data.texts`): the next character with `task='language'`, else who wrote a piece. Each author is a
domain, so that by default a client holds the texts of one.
"""

from __future__ import annotations

from fedwarm.data.sets.styles import cook, letters, log
from fedwarm.data.settings import Data
from fedwarm.data.tables import Table
from fedwarm.data.texts import Document, text_table
from fedwarm.settings.registry import component


@component(uses=("data.length", "data.alphabet"), summary="Texts in three styles, by author, character by character; embedded.")
def styles(data: Data) -> Table:
    """Texts in three styles (a ship's log, a cook, a clerk's letters), character by character, by author; embedded."""
    documents = [Document(text, author) for author, text in (("cook", cook.TEXT), ("letters", letters.TEXT), ("log", log.TEXT))]
    return text_table(documents, "styles", data)


COMPONENT = styles
