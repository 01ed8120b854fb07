"""A task of your own: a model, data, a loss and a score. Put yours in their places, then

subspaces check own_task.py:task            does it train, does its score rise, what will a search cost?
subspaces dimension own_task.py:task        its intrinsic dimension, with an interval and a report
subspaces train own_task.py:task --d 100    one run in 100 dimensions
"""

import torch
from torch import nn

import subspaces as ss


def model():
    """A new network; draw its weights from torch's random state, which is seeded for every run."""
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))


def data():
    """Inputs and targets, of which a fifth is set aside to judge by.

    Also: a Dataset, a DataLoader, a dictionary of tensors with labels, {"train": …, "validation": …, "test": …}; or in
    place of the function a path: data="table.csv", read={"target": "price"}.
    """
    x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] + x[:, 1] > x[:, 2]).long()


def loss(outputs, targets):
    """The mean loss of a batch. Or a name: cross_entropy, bce, mse, l1, huber."""
    return nn.functional.cross_entropy(outputs, targets)


def score(outputs, targets):
    """What counts, on all validation examples at once; above 0, and higher is better.

    Or a name: accuracy, r2, mse, mae, f1, mcc, auc, iou, perplexity. Where less is better:
    score=ss.Score("distance", distance, higher_is_better=False).
    """
    return (outputs.argmax(dim=1) == targets).float().mean()


task = ss.Task(
    "own",
    model=model,
    data=data,
    loss=loss,
    score=score,
    optimizer=ss.tasks.Hyper(optimizer="adam", lr=3e-3, batch_size=64, epochs=20, schedule="cosine", l2=0.0),
)

# Or a loop of your own, in any framework: run(d, seed) trains in d dimensions (everything where d is None) and returns
# a score. D is the number of parameters of direct training. Then: subspaces dimension own_task.py:objective
#
# def run(d, seed):
#     torch.manual_seed(seed)
#     network, (x, y) = model(), data()
#     subspace = None if d is None else ss.Subspace(network, d=d, seed=seed)
#     optimizer = torch.optim.Adam(network.parameters(), lr=3e-3 if subspace is None else subspace.lr(3e-3, "adam"))
#     for step in range(300):
#         batch = torch.randint(0, 1600, (64,))
#         optimizer.zero_grad()
#         loss(network(x[batch]), y[batch]).backward()
#         optimizer.step()
#     with torch.no_grad():
#         return float(score(network(x[1600:]), y[1600:]))
#
#
# objective = ss.Objective("own-loop", run, D=706)
