"""The networks of `gpu.py`'s steps: shapes of well-known models, written out, for nothing can be installed there."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from step import resnet18
from torch import Tensor, nn
from torch.nn import functional as F


class Transformer(nn.Module):
    """Pre-norm blocks between an embedding and a head: ViT-B/16 on images, GPT-2 small on words."""

    def __init__(self, width: int, layers: int, heads: int, words: int, length: int, patch: int = 0):
        super().__init__()
        image = patch > 0
        self.embed: nn.Module = nn.Conv2d(3, width, patch, patch) if image else nn.Embedding(words, width)
        self.place = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(
            *(width, heads, 4 * width, 0.0, nn.functional.gelu), batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, words, bias=image)
        self.image = image
        if not image:
            self.head.weight = self.embed.weight  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x)
        z = z.flatten(2).mT if self.image else z
        z = z + self.place[: z.shape[1]]
        if self.image:
            return self.head(self.body(z).mean(1))
        mask = nn.Transformer.generate_square_subsequent_mask(z.shape[1], device=z.device, dtype=z.dtype)
        return self.head(self.body(z, mask=mask, is_causal=True))


class _Block(nn.Module):
    """Attention and a gated feed-forward layer, as in Llama, without rotary positions (they cost no memory pass)."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, 2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        z = self.norm2(x)
        return x + self.down(F.silu(self.gate(z)) * self.up(z))


class Llama(nn.Module):
    """The shape of a Llama decoder."""

    def __init__(self, width: int, layers: int, heads: int, inner: int, words: int):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.body = nn.Sequential(*(_Block(width, heads, inner) for _ in range(layers)), nn.RMSNorm(width))
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)))


def resnet18_large() -> nn.Module:
    """ResNet-18 for 224×224 images: the one for 32×32 behind a strided stem."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *list(resnet18().children())[3:])


def _small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


@dataclass(frozen=True)
class Case:
    """A network, its batch and the dimension of its subspaces."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    classes: int
    d: int
    words: bool = False

    def data(self, device: torch.device, batch: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a batch; each word is to tell the next."""
        if not self.words:
            targets = torch.randint(0, self.classes, (batch,), device=device)
            return torch.randn(batch, *self.shape, device=device), targets
        text = torch.randint(0, self.classes, (batch, self.shape[0] + 1), device=device)
        return text[:, :-1], text[:, 1:].flatten()


CASES = {
    "resnet18": Case(resnet18, (3, 32, 32), 128, 10, 1_000),
    "gpt2": Case(lambda: Transformer(768, 12, 12, 50_257, 1024), (1024,), 8, 50_257, 10_000, words=True),
    "llama-1b": Case(lambda: Llama(2048, 16, 32, 8192, 32_000), (1024,), 2, 32_000, 10_000, words=True),
    "vit-b16": Case(lambda: Transformer(768, 12, 12, 1000, 196, patch=16), (3, 224, 224), 64, 1000, 10_000),
    "resnet18-224": Case(resnet18_large, (3, 224, 224), 64, 10, 1_000),
}
TINY = {
    "resnet18": Case(_small, (3, 8, 8), 4, 10, 20),
    "gpt2": Case(lambda: Transformer(16, 1, 2, 50, 8), (8,), 2, 50, 20, words=True),
    "llama-1b": Case(lambda: Llama(16, 1, 2, 24, 50), (8,), 2, 50, 20, words=True),
    "vit-b16": Case(lambda: Transformer(16, 1, 2, 10, 4, patch=4), (3, 8, 8), 2, 10, 20),
}
