"""Models of transformers as factories: the same weights from the same seed, without the network."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from subspaces.errors import shown
from subspaces.tasks.text.need import quiet
from subspaces.tasks.text.places import has_tokenizer, place_of, weights_digest

TOKENS = 128
"""Of a text where nothing is said, as in most fine-tuning on GLUE."""


@dataclass(frozen=True)
class Pretrained:
    """A model of transformers by name, folder or package, cut to its first layers.

    Attributes:
        name: see `places.place_of`.
        layers: first layers that are kept; all of them if None.
        weights: "pretrained", or "random" ones of the same architecture.
        causal: whether it predicts next tokens (AutoModelForCausalLM), in place of classes.
        tokens: of a text, at most; None for 128, or for as many as the model has positions for.
    """

    name: str
    layers: int | None = None
    weights: str = "pretrained"
    causal: bool = False
    tokens: int | None = None

    def config(self, labels: int = 2) -> Any:
        """The configuration, with as many labels and layers as are wanted.

        Raises:
            ValueError: more layers or tokens than the model has, or one that cannot predict next tokens.
        """
        with quiet() as package:
            config = package.AutoConfig.from_pretrained(place_of(self.name), local_files_only=True)
            self._check_kind(package.models.auto.modeling_auto, config)
        if not self.causal:
            config.num_labels = labels
        self._cut_layers(config)
        self._length(config)
        if config.pad_token_id is None:  # classes are read off the last token that is none
            end = config.eos_token_id
            config.pad_token_id = end[0] if isinstance(end, list) else end
        config.use_cache = False
        return config

    def length(self) -> int:
        """Tokens of a text, at most.

        Raises:
            ValueError: more than the model has positions for.
        """
        return self._length(self.config())

    def _length(self, config: Any) -> int:
        longest = getattr(config, "max_position_embeddings", None) or math.inf
        if self.tokens is not None and self.tokens > longest:
            raise ValueError(f"`tokens` must be at most the {longest} of {self.name}; got {self.tokens}. Take fewer.")
        return self.tokens or int(min(TOKENS, longest))

    def _cut_layers(self, config: Any) -> None:
        have = config.num_hidden_layers
        if self.layers is None:
            return
        if self.layers > have:
            raise ValueError(f"`layers` must be at most the {have} of {self.name}; got {self.layers}. Take fewer.")
        kinds = getattr(config, "layer_types", None)
        if kinds:
            config.layer_types = kinds[: self.layers]
        config.num_hidden_layers = self.layers

    def _check_kind(self, auto: Any, config: Any) -> None:
        masked, known = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        kind = config.model_type
        if not self.causal:
            if kind not in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
                raise ValueError(
                    f"`model` must be one that transformers has with a head for classes; got {self.name}, a {kind}. "
                    "Take another one, such as minilm."
                )
        elif kind not in known or (kind in masked and not getattr(config, "is_decoder", False)):
            raise ValueError(
                f"`model` must predict next tokens where texts have no `target`; got {self.name}, a {kind}. Give one "
                "such as gpt2 or a folder, or name the column of the labels by `target`."
            )

    def tokenizer(self) -> Any:
        """The model's tokenizer, filling up on the right.

        Raises:
            FileNotFoundError: there is none beside the model.
        """
        with quiet() as package:
            place = place_of(self.name)
            try:
                if not has_tokenizer(place):  # transformers would make one without words
                    raise FileNotFoundError("no vocabulary")
                found = package.AutoTokenizer.from_pretrained(place, local_files_only=True, padding_side="right")
            except (OSError, ValueError, TypeError) as error:
                raise FileNotFoundError(
                    f"`model` must have its tokenizer beside it; got {shown(self.name)} without one that can be read. "
                    f"Run: tokenizer.save_pretrained({place!r})"
                ) from error
        if found.pad_token_id is None:
            found.pad_token = found.eos_token
        return found

    def empty(self, labels: int = 2) -> nn.Module:
        """A model of this architecture, its weights drawn from the global random state."""
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._class().from_config(self.config(labels), dtype=torch.float32)

    def build(self, seed: int, labels: int = 2) -> nn.Module:
        """A new model; what has no pretrained weights, such as the head, follows from the seed.

        Returns:
            float32, on the CPU, in training mode.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.weights == "random":
                return self.empty(labels).train()
            with quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # layers that are left out, heads that are new: both are asked for
                return self._loaded(place_of(self.name), self.config(labels)).train()

    def _loaded(self, place: str, config: Any) -> nn.Module:
        options: dict[str, Any] = {"config": config, "dtype": torch.float32, "local_files_only": True}
        try:
            return self._class().from_pretrained(place, **options)
        except OSError as error:
            raise FileNotFoundError(
                f"`model` must have weights that can be read; got {shown(self.name)} without ({error}). Save them "
                "there with `save_pretrained`, or take random ones by weights=random."
            ) from error

    def _class(self) -> Any:
        with quiet() as package:
            return package.AutoModelForCausalLM if self.causal else package.AutoModelForSequenceClassification

    def definition(self) -> dict[str, Any]:
        """Ready for JSON: the model, its contents, and what is done to it."""
        place = Path(place_of(self.name))
        content = weights_digest(str(place)) if place.is_dir() else self.config()._commit_hash
        return {
            "model": self.name,
            "content": content,
            "layers": self.layers,
            "weights": self.weights,
            "tokens": self.length(),
        }


@dataclass(frozen=True)
class Network:
    """The model of a task: a `Seeded` factory.

    Attributes:
        pretrained: what it is made of.
        source: `Texts` with the classes that its head tells apart; read when a model is made.
    """

    pretrained: Pretrained
    source: Any

    def _labels(self) -> int:
        return 2 if self.pretrained.causal else self.source.classes()

    def __call__(self) -> nn.Module:
        return self.pretrained.empty(self._labels())

    def from_seed(self, seed: int) -> nn.Module:
        """A new network; what is not pretrained follows from the seed."""
        return self.pretrained.build(seed, self._labels())

    def definition(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self.pretrained.definition(), "causal": self.pretrained.causal}
