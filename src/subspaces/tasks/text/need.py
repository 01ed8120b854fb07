"""The package transformers, where it is installed, kept quiet and off the network."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any


def transformers() -> Any:
    """The package.

    Raises:
        ImportError: it is missing, with the command that brings it.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            "`task` must be one that can be had here; texts need transformers. Run: pip install 'subspaces[text]'"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """transformers without its bars and its reports of new heads and left-out layers, which are meant; put back after.

    Yields:
        The package.
    """
    package = transformers()
    logging = package.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    parallel = os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a run has one thread; threads and forks clash
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield package
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if parallel == "false":
            os.environ["TOKENIZERS_PARALLELISM"] = parallel
