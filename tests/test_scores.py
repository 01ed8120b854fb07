"""Scores against scikit-learn, on 4,000 examples in order, where the cut into batches would show."""

import dataclasses
import math
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from subspaces.tasks.losses import LOSSES
from subspaces.tasks.scores import SCORES, Score, evaluate_score, get_score

pytestmark = pytest.mark.scores
N = 4000
RANDOM = np.random.default_rng(0)
ORDERED = torch.linspace(-3, 3, N)  # targets in order: within a batch they hardly vary
GUESSES = (ORDERED + 0.6 * torch.from_numpy(RANDOM.normal(size=N))).float()[:, None]
CLASSES = torch.arange(N) * 3 // N  # 0 … 0 1 … 1 2 … 2
LOGITS = torch.from_numpy(RANDOM.normal(size=(N, 3))).float() + 1.2 * torch.nn.functional.one_hot(CLASSES)
SIDES = torch.arange(N) * 2 // N
MARGIN = (1.3 * (SIDES - 0.4) + torch.from_numpy(RANDOM.normal(size=N))).float()[:, None]
MASKS = (torch.arange(40 * 10 * 10) * 4 // N).view(40, 10, 10)
PICTURES = torch.from_numpy(RANDOM.normal(size=(40, 4, 10, 10))).float()
PICTURES += 1.5 * torch.nn.functional.one_hot(MASKS).movedim(-1, 1)


def batches(outputs, targets, size):
    return zip(outputs.split(size), targets.split(size), strict=True)


def expected() -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    guess, masks = LOGITS.argmax(1), (PICTURES.argmax(1).flatten(), MASKS.flatten())
    shares = LOGITS.double().softmax(1)
    return {
        "accuracy": (LOGITS, CLASSES, sk.accuracy_score(CLASSES, guess)),
        "accuracy of one column": (MARGIN, SIDES, sk.accuracy_score(SIDES, MARGIN[:, 0] > 0)),
        "accuracy of pixels": (PICTURES, MASKS, sk.accuracy_score(masks[1], masks[0])),
        "mse": (GUESSES, ORDERED, sk.mean_squared_error(ORDERED, GUESSES)),
        "mae": (GUESSES, ORDERED, sk.mean_absolute_error(ORDERED, GUESSES)),
        "r2": (GUESSES, ORDERED, sk.r2_score(ORDERED, GUESSES)),
        "f1": (LOGITS, CLASSES, sk.f1_score(CLASSES, guess, average="macro")),
        "f1 of one column": (MARGIN, SIDES, sk.f1_score(SIDES, MARGIN[:, 0] > 0)),
        "f1 of two classes": (torch.cat([-MARGIN, MARGIN], 1), SIDES, sk.f1_score(SIDES, MARGIN[:, 0] > 0)),
        "mcc": (LOGITS, CLASSES, sk.matthews_corrcoef(CLASSES, guess)),
        "mcc of one column": (MARGIN, SIDES, sk.matthews_corrcoef(SIDES, MARGIN[:, 0] > 0)),
        "auc": (LOGITS, CLASSES, sk.roc_auc_score(CLASSES, shares, multi_class="ovr")),
        "auc of one column": (MARGIN, SIDES, sk.roc_auc_score(SIDES, MARGIN[:, 0])),
        "iou": (PICTURES, MASKS, sk.jaccard_score(masks[1], masks[0], average="macro")),
        "iou of one column": (MARGIN, SIDES, sk.jaccard_score(SIDES, MARGIN[:, 0] > 0)),
        "perplexity": (LOGITS, CLASSES, math.exp(sk.log_loss(CLASSES, shares))),
    }


@pytest.mark.parametrize("case", list(expected()))
@pytest.mark.parametrize("size", [7, 256, N])
def test_a_score_is_that_of_scikit_learn_however_the_batches_are_cut(case, size):
    outputs, targets, value = expected()[case]
    score = SCORES[case.partition(" ")[0]]
    assert evaluate_score(score, batches(outputs, targets, size)) == pytest.approx(value, rel=1e-6)
    assert score(outputs, targets) == pytest.approx(value, rel=1e-6)


def test_the_mean_of_the_r2_of_batches_is_something_else():
    parts = [sk.r2_score(y, f) for f, y in batches(GUESSES, ORDERED, 128)]
    assert np.mean(parts) < -5 < 0.8 < evaluate_score(SCORES["r2"], batches(GUESSES, ORDERED, 128))


def test_r2_of_columns_is_the_mean_of_theirs_and_survives_a_far_mean():
    far = torch.stack([ORDERED.double() + 1e6, -2 * ORDERED.double()], 1)
    guess = far + 0.1
    assert SCORES["r2"](guess, far) == pytest.approx(sk.r2_score(far, guess), rel=1e-9)
    with pytest.raises(ValueError, match="must vary in every column"):
        SCORES["r2"](torch.randn(5, 1), torch.ones(5))


def test_large_logits_keep_their_order_in_auc():
    logits = torch.tensor([[40.0], [41.0], [42.0], [43.0]])  # a sigmoid makes all of them 1
    assert SCORES["auc"](logits, torch.tensor([0, 1, 0, 1])) == 0.75
    with pytest.raises(ValueError, match=r"every class for 'auc'; got \[1\] only"):
        SCORES["auc"](logits, torch.ones(4, dtype=torch.int64))


def test_classes_that_never_occur_are_no_part_of_means_over_classes():
    wide = torch.cat([LOGITS, torch.full((N, 1), -50.0)], 1)
    for name in ("f1", "iou"):
        assert SCORES[name](wide, CLASSES) == pytest.approx(SCORES[name](LOGITS, CLASSES))


def test_tokens_of_minus_100_do_not_count_and_batches_are_weighed_by_those_that_do():
    text, words = torch.randn(6, 5, 9), torch.randint(0, 9, (6, 5))
    words[:4, 1:] = -100
    counts = words.flatten() != -100
    logits, kept = text.flatten(0, 1)[counts], words.flatten()[counts]
    loss = torch.nn.functional.cross_entropy(logits.double(), kept)
    for size in (1, 4, 6):
        found = evaluate_score(SCORES["perplexity"], batches(text, words, size))
        assert found == pytest.approx(math.exp(loss), rel=1e-5)
        right = (logits.argmax(1) == kept).double().mean()
        assert evaluate_score(SCORES["accuracy"], batches(text, words, size)) == pytest.approx(float(right))


def test_a_part_without_targets_that_count_is_refused():
    with pytest.raises(ValueError, match="none but -100"):
        evaluate_score(SCORES["perplexity"], [(torch.zeros(2, 3), torch.full((2,), -100))])
    with pytest.raises(ValueError, match="at least one batch"):
        evaluate_score(SCORES["r2"], [])


def test_exp_of_minus_the_loss():
    score = Score.of_loss("mse")
    value = math.exp(-sk.mean_squared_error(ORDERED, GUESSES))
    for size in (7, 256, N):
        assert evaluate_score(score, batches(GUESSES, ORDERED, size)) == pytest.approx(value, rel=1e-6)
    assert score(GUESSES, ORDERED) == pytest.approx(value, rel=1e-6)
    assert (score.name, score.higher_is_better) == ("exp(−loss)", True)
    assert get_score("exp(-loss)", "mse") == score == get_score("exp(−loss)", LOSSES["mse"])
    own = get_score("exp(−loss)", lambda outputs, targets: (outputs[:, 0] - targets).square().max())
    worst = math.exp(-float((GUESSES[:, 0] - ORDERED).square().max()))
    assert evaluate_score(own, batches(GUESSES, ORDERED, 100)) == pytest.approx(worst)  # on all outputs
    with pytest.raises(ValueError, match="`loss` must be given for the score"):
        get_score("exp(−loss)")


def test_losses_beyond_floats_have_scores_too():
    far = [(torch.full((3, 1), 1e3), torch.zeros(3))]
    assert evaluate_score(Score.of_loss("mse"), far) == 0.0
    sure = [(torch.tensor([[0.0, 2000.0]]), torch.tensor([0]))]
    assert evaluate_score(SCORES["perplexity"], sure) == math.inf
    assert math.isnan(evaluate_score(SCORES["mse"], [(torch.full((3, 1), math.nan), torch.zeros(3))]))


def test_a_function_sees_all_outputs_at_once_and_more_is_better():
    def spearman(outputs, targets):
        ranks = [x.flatten().argsort().argsort().double() for x in (outputs, targets)]
        return torch.corrcoef(torch.stack(ranks))[0, 1]

    score = get_score(spearman)
    assert (score.name, score.higher_is_better, score.of_examples) == ("spearman", True, False)
    whole = float(spearman(GUESSES, ORDERED))
    assert evaluate_score(score, batches(GUESSES, ORDERED, 64)) == pytest.approx(whole, abs=1e-12)


def test_a_function_declared_a_mean_keeps_no_outputs():
    sizes = []

    def close(outputs, targets):
        sizes.append(len(targets))
        return ((outputs[:, 0] - targets).abs() < 0.5).float().mean()

    score = Score("close", close, of_examples=True)
    found = evaluate_score(score, batches(GUESSES, ORDERED, 300))
    assert max(sizes) == 300
    assert found == pytest.approx(float(((GUESSES[:, 0] - ORDERED).abs() < 0.5).double().mean()), rel=1e-6)


@pytest.mark.hf
def test_dictionaries_and_outputs_of_transformers_are_joined():
    from transformers.modeling_outputs import SequenceClassifierOutput

    parts = [SequenceClassifierOutput(logits=part) for part in LOGITS.split(500)]
    targets = CLASSES.split(500)
    for name in ("f1", "accuracy"):
        whole = SCORES[name](LOGITS, CLASSES)
        assert evaluate_score(SCORES[name], zip(parts, targets, strict=True)) == pytest.approx(whole)
    own = get_score(lambda outputs, targets: outputs.logits.shape[0] + targets["y"].shape[0])
    assert evaluate_score(own, ((p, {"y": y}) for p, y in zip(parts, targets, strict=True))) == 2 * N
    pairs = get_score(lambda outputs, targets: len(outputs[0]) + len(outputs[1]))
    assert evaluate_score(pairs, [((torch.zeros(2, 3), torch.zeros(2)), torch.zeros(2))] * 3) == 12
    with pytest.raises(TypeError, match="declare the score with of_examples=True"):
        evaluate_score(pairs, [("text", torch.zeros(2))])


def test_targets_that_do_not_fit_are_refused():
    for name in ("accuracy", "f1", "mcc", "iou", "auc"):
        with pytest.raises(ValueError, match="must be 0 or 1 for outputs of one column; got 2"):
            SCORES[name](torch.zeros(3, 1), torch.arange(3))
        with pytest.raises(ValueError, match="as many as the outputs have columns; got 3"):
            SCORES[name](torch.zeros(4, 3), torch.arange(4))
        with pytest.raises(ValueError, match="must be class numbers"):
            SCORES[name](torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="must have the shape of the outputs"):
        SCORES["r2"](torch.zeros(4, 1), torch.zeros(1, 4))


def test_names_functions_and_directions():
    assert {name for name, score in SCORES.items() if not score.higher_is_better} == {"mse", "mae", "perplexity"}
    assert get_score(SCORES["r2"]) is SCORES["r2"]
    with pytest.raises(ValueError, match="Did you mean 'accuracy'"):
        get_score("acuracy")
    with pytest.raises(TypeError, match="`score` must be a name"):
        get_score(0.9)
    with pytest.raises(TypeError, match="function"):
        Score("mine", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`name` must be"):
        Score("", len)


def test_scores_can_be_sent_to_workers():
    for score in (*SCORES.values(), Score.of_loss("huber")):
        assert pickle.loads(pickle.dumps(score)) == score
        assert dataclasses.replace(score, name="mine").function == score.function


def test_what_needs_torchmetrics_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    with pytest.raises(ImportError, match=r"Run: pip install 'subspaces\[scores\]'"):
        SCORES["f1"](LOGITS, CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SCORES["accuracy"](LOGITS, CLASSES) > 0.5
