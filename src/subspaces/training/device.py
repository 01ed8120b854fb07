"""Whether this machine's PyTorch can compute on a device."""

import torch


def check_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        ValueError: it is no device, or this PyTorch has none of that kind or number.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"`device` must be cpu, cuda, cuda:1, mps or another of torch's; got {name!r}. Such as cpu."
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            built = f"it is built for CUDA {torch.version.cuda}" if torch.version.cuda else "it is a build for CPUs"
            raise ValueError(
                f"`device` must be one that PyTorch can use here; got {name!r}, and torch {torch.__version__} sees no "
                f"CUDA device ({built}). Install the driver or a CUDA build (pytorch.org), or use cpu."
            )
        if (device.index or 0) >= count:
            raise ValueError(f"`device` must be one of cuda:0 to cuda:{count - 1} here; got {name!r}.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"`device` must be one that PyTorch can use here; got {name!r}, which it cannot. Use cpu.")
    return device
