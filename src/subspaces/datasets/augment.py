"""Random crops and flips of whole batches."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from subspaces.errors import checked


@checked
def augment(
    x: Float[Tensor, "n c h w"], generator: torch.Generator | None = None, crop: int = 4, flip: bool = True
) -> Float[Tensor, "n c h w"]:
    """Shift each image by up to `crop` pixels in both directions and mirror it with probability ½.

    The same as padding with `crop` zeros and cutting a random h×w window; zero is the mean colour of normalised
    images. One gather for the batch, no loop over images. The draws are the generator's own (a CPU generator gives
    the same ones for every device of `x`).

    Args:
        x: batch of images (N, C, H, W).
        generator: source of the draws; torch's global one without it.
        crop: largest shift in pixels, 0 or more.
        flip: whether to mirror left and right.

    Returns:
        A new batch of the same shape, device and dtype.

    Raises:
        ValueError: if `crop` is negative.
    """
    if crop < 0:
        raise ValueError(f"`crop` must be at least 0; got {crop}.")
    n, channels, height, width = x.shape
    device = generator.device if generator is not None else torch.device("cpu")
    shifts = torch.randint(0, 2 * crop + 1, (2, n, 1), generator=generator, device=device).to(x.device)
    rows = torch.arange(height, device=x.device) + shifts[0]  # (N, H), in the padded image
    columns = torch.arange(width, device=x.device).expand(n, -1)
    if flip:
        mirrored = torch.randint(0, 2, (n, 1), generator=generator, device=device).to(x.device)
        columns = torch.where(mirrored == 1, width - 1 - columns, columns)
    columns = columns + shifts[1]
    padded = F.pad(x, (crop, crop, crop, crop)).flatten(2)
    pixels = (rows[:, :, None] * (width + 2 * crop) + columns[:, None, :]).view(n, 1, height * width)
    return padded.gather(2, pixels.expand(-1, channels, -1)).view_as(x)
