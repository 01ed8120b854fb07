"""Texts: fine-tuning of transformers, measured like any other task. `docs/language-models.md` tells how to.

``text_task("mrpc", layers=3)`` or the name ``mrpc,layers=3``; transformers (the extra ``text``) are imported when a
model or its tokenizer is made.
"""

from subspaces.tasks.text.names import TEXTS, leads_elsewhere, named, text_task
from subspaces.tasks.text.pretrained import Pretrained
from subspaces.tasks.text.source import Texts
from subspaces.text_words import TextOptions

__all__ = ["TEXTS", "Pretrained", "TextOptions", "Texts", "leads_elsewhere", "named", "text_task"]
