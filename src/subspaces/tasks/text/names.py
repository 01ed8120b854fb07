"""Text tasks by name: three of GLUE, and any file or folder of texts."""

import dataclasses
import functools
from typing import Any

from subspaces.errors import shown
from subspaces.tasks.hyper import Hyper
from subspaces.tasks.task import Task
from subspaces.tasks.text.files import Files, Glue, Own, stamp
from subspaces.tasks.text.options import OPTIONS, OWN, TextOptions, split, written
from subspaces.tasks.text.places import PACKAGES
from subspaces.tasks.text.pretrained import Network, Pretrained
from subspaces.tasks.text.source import Texts

GLUE = "Wang et al. 2018, arXiv 1804.07461"
_AT = "https://dl.fbaipublicfiles.com/glue/data"
TEXTS: dict[str, Glue] = {
    "mrpc": Glue(
        "mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", "https://dl.fbaipublicfiles.com/senteval/senteval_data",
        test="msr_paraphrase_test.txt",
    ),
    "rte": Glue("rte", "RTE", ("sentence1", "sentence2"), "label", f"{_AT}/RTE.zip"),
    "sst2": Glue("sst2", "SST-2", ("sentence",), "label", f"{_AT}/SST-2.zip"),
}  # fmt: skip
"""Tasks of GLUE: paraphrases (3,668 pairs), entailment (2,490 pairs), sentiment (67,349 sentences)."""
FINE_TUNING = Hyper(lr=1e-4, batch_size=32, epochs=3, l2=0.0)
"""Adam at 1e-4, batches of 32, 3 epochs: full fine-tuning of MiniLM on MRPC (docs/language-models.md)."""
IN_SUBSPACES = 1e-3
"""Native rate in subspaces; at that of full fine-tuning runs of few epochs hardly move."""


def text_task(data: str, *, name: str | None = None, **options: Any) -> Task:
    """The task of telling the classes of texts, or of predicting their next tokens, by a model of transformers.

    Args:
        data: mrpc, rte, sst2 (files of GLUE below SUBSPACES_DATA), or the path of a file or folder: tsv, csv, jsonl or
            parquet with a column of texts (or two of pairs) and one of labels; txt or a table without labels, for
            language models; a folder with train, dev and test of these, or of a saved Hugging Face data set.
        name: what it is called; by default one by which `get_task` finds it.
        options: as of `TextOptions`: model, layers, tokens, weights, text, target, score.

    Returns:
        A Task. Its model needs the extra ``text`` when it is built.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: an option out of range or without effect.

    Example:
        >>> text_task("mrpc", layers=3, tokens=64).name
        'mrpc,layers=3,tokens=64'
    """
    if isinstance(options.get("text"), str):
        options["text"] = (options["text"],)
    if isinstance(options.get("text"), list):
        options["text"] = tuple(options["text"])
    chosen = TextOptions(**options)
    base = data if data in TEXTS else f"{OWN}{data}"
    made = _made(base, chosen)
    return dataclasses.replace(made, name=name) if name else made


def _made(base: str, options: TextOptions) -> Task:
    if base in TEXTS:
        files: Files = TEXTS[base]
        for option in ("text", "target"):
            if getattr(options, option):
                raise ValueError(
                    f"`{option}` must go with a file of your own; got {shown(getattr(options, option))} with {base}."
                )
        return _task(base, files, options, TEXTS[base].text, TEXTS[base].target, "")
    files = Own(base.removeprefix(OWN))
    return _task(base, files, options, options.text, options.target, stamp(files.find()))


@functools.lru_cache(maxsize=64)
def _task(base: str, files: Files, options: TextOptions, text: tuple[str, ...], target: str | None, state: str) -> Task:
    """One task object per name, so that what it is is worked out once; `state` is that of its files."""
    model = Pretrained(options.model, options.layers, options.weights, False, options.tokens)
    source = Texts(files, model, text, target)
    if base not in TEXTS and not source.labelled():
        model = dataclasses.replace(model, causal=True)
        source = dataclasses.replace(source, model=model)
    score = options.score or ("perplexity" if model.causal else "accuracy")
    about = {"source": GLUE if base in TEXTS else f"{base.removeprefix(OWN)}", "subspace_lr": IN_SUBSPACES}
    name = written(base if base in TEXTS else f"{OWN}{files.name}", options)[:80]
    return Task(name, model=Network(model, source), data=source, score=score, optimizer=FINE_TUNING, **about)


def named(name: str) -> Task | None:
    """The text task of a name such as ``mrpc,layers=3`` or ``text-reviews.tsv``; None for another name.

    Raises:
        FileNotFoundError, ValueError: as `text_task`; options after the name of another task.
    """
    base, options = split(name)
    if is_text_task(name):
        return _made(base, TextOptions(**options))
    if options:
        raise ValueError(_without(next(iter(options)), options, base))
    return None


def is_text_task(name: str) -> bool:
    """Whether a name is one of a task of texts, with options or without."""
    base, _, _ = name.partition(",")
    return base in TEXTS or (base.startswith(OWN) and base != OWN)


def leads_elsewhere(name: str) -> bool:
    """Whether a name of a task of texts makes this process open files, or ask the hub, that the name itself chooses.

    What a stranger's row names must not do that; what the user types may.
    """
    if not is_text_task(name):
        return False
    try:
        base, options = split(name)
    except ValueError:  # a name that leads nowhere, which whoever asks for it is told
        return False
    return base not in TEXTS or options.get("model", "minilm") not in PACKAGES


def with_options(task: str, **options: Any) -> str:
    """The one name of a task with further options; those that are None are left out.

    Raises:
        ValueError: options with a task that is none of texts, or one that the name has already.

    Example:
        >>> with_options("mrpc", model="minilm", layers=3)
        'mrpc,layers=3'
    """
    given = {name: value for name, value in options.items() if value is not None}
    base, known = split(task)
    if not is_text_task(task):
        if given:
            raise ValueError(_without(next(iter(given)), given, base))
        return task
    if both := [name for name in OPTIONS if name in known and name in given]:
        raise ValueError(f"`{both[0]}` must be given once; got it in {shown(task)}, too. Remove one of them.")
    return written(base, TextOptions(**known, **given))


def _without(option: str, options: dict[str, Any], base: str) -> str:
    return (
        f"`{option}` must go with a task of texts ({', '.join(TEXTS)} or text-FILE); got {shown(options[option])} with "
        f"{base!r}. Leave it out."
    )
