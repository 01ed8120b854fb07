"""Texts: fine-tuning of transformers, measured like any other task. `docs/language-models.md` tells how to.

``text_task("mrpc", layers=3)`` or the name ``mrpc,layers=3``; transformers (the extra ``text``) are imported when a
model or its tokenizer is made.
"""

from subspaces.tasks.text.names import TEXTS, is_text_task, leads_elsewhere, named, text_task, with_options
from subspaces.tasks.text.options import TextOptions
from subspaces.tasks.text.pretrained import Pretrained
from subspaces.tasks.text.source import Texts

__all__ = [
    "TEXTS",
    "Pretrained",
    "TextOptions",
    "Texts",
    "is_text_task",
    "leads_elsewhere",
    "named",
    "text_task",
    "with_options",
]
