"""Networks and tasks that a user might bring along."""

from torch import nn

from subspaces.tasks import Hyper, Task, image_task


def noisy(shape=(1, 8, 8), classes=10) -> nn.Module:
    """Dropout draws random numbers and BatchNorm keeps statistics: both must survive an interruption."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, classes)
    )


def convolutional(shape=(1, 8, 8), classes=10) -> nn.Module:
    """One convolution, for memory formats."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


def memory() -> Task:
    """A task whose score counts on the training part."""
    settings = Hyper(lr=1e-2, epochs=2)
    return image_task("memory", "digits", "fc", settings, model_options={"width": 16, "depth": 1}, judged_on="train")
