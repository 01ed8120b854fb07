"""Examples from files: values against a reading by hand, splits, and what is said of files that are wrong."""

import json
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from subspaces.datasets import DataOptions, data_root, load_data
from subspaces.tasks.digest import digest
from subspaces.tasks.readers import read_examples
from subspaces.tasks.texts import VOCABULARY, hash_tokens

HOUSES = """rooms,area,town,lucky,price
3,70.5,Ulm,7,300
5,120,Bonn,7,550
2,40,"Ulm",7,180.25
4,95,Aachen,7,400
"""


@pytest.fixture
def write(tmp_path):
    def to(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to


# ---- tables


def test_a_table_of_numbers_and_words(write):
    found = read_examples(write("houses.csv", HOUSES), target="price", standardise=False)
    assert found.inputs.dtype == found.targets.dtype == torch.float32
    assert found.targets.tolist() == [300, 550, 180.25, 400]
    towns = [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]  # Aachen, Bonn, Ulm
    rooms, areas = [3, 5, 2, 4], [70.5, 120, 40, 95]
    assert found.inputs.tolist() == [[r, a, *t, 7] for r, a, t in zip(rooms, areas, towns, strict=True)]
    assert (found.classes, found.test, len(found)) == (None, None, 4)


def test_numbers_are_standardised_by_the_training_rows_and_constants_stay(write):
    path = write("houses.csv", HOUSES)
    test = write("new.csv", "rooms,area,town,lucky,price\n10,70.5,Bonn,8,1\n")
    found = read_examples(path, target="price", test=test)
    area = np.array([70.5, 120, 40, 95])
    torch.testing.assert_close(found.inputs[:, 1], torch.tensor((area - area.mean()) / area.std()).float())
    assert found.inputs[:, 5].tolist() == [7] * 4
    inputs, targets = found.test
    expected = [(10 - 3.5) / np.std([3, 5, 2, 4]), (70.5 - area.mean()) / area.std(), 0, 1, 0, 8]
    torch.testing.assert_close(inputs, torch.tensor([expected]).float())
    assert targets.tolist() == [1]


def test_large_numbers_are_centred_before_they_become_float32(write):
    rows = "".join(f"{1_700_000_000 + i},{i}\n" for i in range(4))  # seconds, beyond the 24 bits of float32
    found = read_examples(write("t.csv", "when,y\n" + rows), target="y")
    torch.testing.assert_close(found.inputs[:, 0], (torch.arange(4.0) - 1.5) / 1.25**0.5)


def test_columns_and_several_targets_are_chosen_by_name(write):
    path = write("houses.csv", HOUSES)
    found = read_examples(path, target=["price", "area"], columns=["rooms"], standardise=False)
    assert found.inputs.tolist() == [[3], [5], [2], [4]]
    assert found.targets[0].tolist() == [300, 70.5]
    with pytest.raises(ValueError, match="`columns` must not hold the target; got 'price' in both"):
        read_examples(path, target="price", columns=["price"])
    with pytest.raises(ValueError, match=r"`columns` must be one of .* Did you mean 'rooms'"):
        read_examples(path, target="price", columns=["room"])
    with pytest.raises(ValueError, match=r"`target` must name the column to predict; .* has rooms, area, town"):
        read_examples(path)
    with pytest.raises(ValueError, match="one column for classes"):
        read_examples(path, target=["price", "town"])


@pytest.mark.parametrize(
    ("values", "options", "targets", "classes"),
    [
        (["b", "a", "b"], {}, [1, 0, 1], ("a", "b")),
        (["3", "10", "3"], {"classes": True}, [0, 1, 0], ("3", "10")),
        (["3", "10", "3"], {}, [3.0, 10.0, 3.0], None),
    ],
)
def test_words_are_classes_and_integers_only_where_it_is_said(write, values, options, targets, classes):
    path = write("a.csv", "x,y\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values)))
    found = read_examples(path, target="y", **options)
    assert found.targets.tolist() == targets
    assert found.targets.dtype == (torch.int64 if classes else torch.float32)
    assert found.classes == classes


@pytest.mark.parametrize("values", [[True, False, True], ["1", "0", "1"]])
def test_bools_and_texts_of_digits_are_classes_where_files_tell_them_from_numbers(write, values):
    path = write("a.jsonl", "\n".join(json.dumps({"x": i, "y": value}) for i, value in enumerate(values)))
    found = read_examples(path, target="y")
    assert found.targets.tolist() == [1, 0, 1]
    assert found.classes == (("false", "true") if values[0] is True else ("0", "1"))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "x,y\n1,2\n,3\n", r"no missing values; got '' in .*a\.csv, line 3, column 'x'\. Fill it in"),
        ("a.csv", "x,y\n1,2\nNA,3\n", "no missing values; got 'NA' in .* line 3, column 'x'"),
        ("a.csv", "x,y\n1,2\n3,?\n", "no missing values; got '[?]' in .* line 3, column 'y'"),
        ("a.csv", "x,y\n1,2\ninf,3\n", "finite numbers; got 'inf' in .* line 3, column 'x'"),
        ("a.csv", "x,y\nred,2\n,3\n", "no missing values; got '' in .* line 3, column 'x'"),
        ("a.csv", "x,y\n1,2\n\n1,2,3\n", r"as in its header, 2; .*a\.csv, line 4 has 3"),
        ("a.csv", 'x,y\n1,2\n"1,2\n', r"whole table; .*a\.csv, line 3: unexpected end of data"),
        ("a.csv", "x,x\n1,2\n", "name each column once; .* 'x' twice"),
        ("a.csv", "1.5,2\n1,2\n", r"begins with numbers \(1\.5, 2\)"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.csv", "x,y\n", r"must hold examples; .*a\.csv has none"),
        ("a.csv", b"x,y\n\xff\xfe,2\n", "text in UTF-8"),
        ("a.jsonl", '{"x": 1, "y": 2}\n\n{"x": 1}\n', "no missing values; got None in .* line 3, column 'y'"),
        ("a.jsonl", '{"x": 1, "y": 2}\n{"x": 1, "y": \n', r"one JSON object per line; .*a\.jsonl, line 2"),
        ("a.jsonl", "[1, 2]\n", "line 1 is a list"),
        ("a.jsonl", '{"x": [1], "y": 2}\n', r"numbers and words; got \[1\] in .* line 1, column 'x'"),
        ("a.jsonl", '{"x": NaN, "y": 2}\n', "no missing values; got nan in"),
        ("a.txt", "x,y\n1,2\n", r"end in \.csv, \.tsv, \.jsonl, \.parquet or \.npz; got 'a\.txt'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_place(write, name, text, says):
    with pytest.raises(ValueError, match=says):
        read_examples(write(name, text), target="y")


def test_columns_of_texts_or_names_are_not_spread_out(write):
    path = write("a.csv", "name,x,y\n" + "".join(f"name {i},{i},{i % 2}\n" for i in range(300)))
    with pytest.raises(ValueError, match=r"at most 256 different words each; 'name' .* has 300, such as 'name 0'"):
        read_examples(path, target="y")
    with pytest.raises(ValueError, match=r"`target` must be a column of classes or numbers; 'name' .* 300 different"):
        read_examples(path, target="name")
    with pytest.raises(ValueError, match=r"hold integers for `classes=True`; got '0\.5' in .* line 3"):
        read_examples(write("b.csv", "x,y\n1,1\n1,0.5\n"), target="y", classes=True)


def test_words_and_classes_that_only_the_test_file_has_are_refused(write):
    path = write("houses.csv", HOUSES)
    test = write("new.csv", "rooms,area,town,lucky,price\n1,1,Mainz,7,1\n")
    with pytest.raises(ValueError, match=r"words of the training file; got 'Mainz' in .*new\.csv, line 2"):
        read_examples(path, target="price", test=test)
    with pytest.raises(ValueError, match=r"words of the training file; got 'Mainz' in .*new\.csv, line 2"):
        read_examples(path, target="town", test=test)
    other = write("other.csv", "rooms,area,town,lucky,price\n9,1,Ulm,7,1\n")
    with pytest.raises(ValueError, match=r"classes of the training file; got '9' in .*other\.csv, line 2"):
        read_examples(path, target="rooms", classes=True, test=other)
    wordy = write("wordy.csv", "rooms,area,town,lucky,price\nmany,1,Ulm,7,1\n")
    with pytest.raises(ValueError, match="hold numbers in column 'rooms' as the training file does"):
        read_examples(path, target="price", test=wordy)
    with pytest.raises(FileNotFoundError, match="`test` must be a file"):
        read_examples(path, target="price", test=path.with_name("no.csv"))


@pytest.mark.parquet
def test_parquet_says_the_same_as_csv(write, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    csv = read_examples(write("houses.csv", HOUSES), target="price")
    columns = {
        "rooms": [3, 5, 2, 4],
        "area": [70.5, 120, 40, 95],
        "town": pa.array(["Ulm", "Bonn", "Ulm", "Aachen"]).dictionary_encode(),
        "lucky": pa.array([7] * 4, pa.int8()),
        "price": [300, 550, 180.25, 400],
    }
    pq.write_table(pa.table(columns), tmp_path / "houses.parquet")
    found = read_examples(tmp_path / "houses.parquet", target="price")
    assert torch.equal(found.inputs, csv.inputs)
    assert torch.equal(found.targets, csv.targets)
    columns |= {"sold": [True, False, None, True]}
    pq.write_table(pa.table(columns), tmp_path / "hole.parquet")
    with pytest.raises(ValueError, match=r"missing values; got None in .*hole\.parquet, row 3, column 'sold'"):
        read_examples(tmp_path / "hole.parquet", target="sold")
    whole = (tmp_path / "houses.parquet").read_bytes()
    with pytest.raises(ValueError, match=r"whole parquet file; .*cut\.parquet cannot be read"):
        read_examples(write("cut.parquet", whole[: len(whole) // 2]), target="price")


def test_parquet_without_pyarrow_says_how_to_get_it(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"Run: pip install 'subspaces\[parquet\]'"):
        read_examples(write("a.parquet", b"PAR1"), target="y")


# ---- texts


def test_hashed_words_are_the_same_everywhere():
    ids = hash_tokens(["The cat, the CAT", ""], 6)
    the, cat, comma = (2 + zlib.crc32(word) % (2**15 - 2) for word in (b"the", b"cat", b","))
    assert ids.tolist() == [[the, cat, comma, the, cat, 0], [0] * 6]
    assert hash_tokens(["A b a"], 4).tolist() == [[24881, 14077, 24881, 0]]
    many = hash_tokens([f"word{i}" for i in range(5000)], 1)
    assert int(many.min()) >= 2
    assert int(many.max()) < VOCABULARY


def test_of_a_pair_the_longer_text_is_cut():
    a, b, c = (int(hash_tokens([word], 1)) for word in "abc")
    assert hash_tokens([("a b", "c")], 5).tolist() == [[a, b, 1, c, 0]]
    assert hash_tokens([("a a a a a", "b b")], 6).tolist() == [[a, a, a, 1, b, b]]
    assert hash_tokens([("a", "b b b b b b")], 4).tolist() == [[a, 1, b, b]]
    assert hash_tokens([("a a a a", "b b b b")], 5).tolist() == [[a, a, 1, b, b]]


def test_quotes_in_tsv_files_are_characters(write):
    path = write("a.tsv", 'sentence\tlabel\nhe said " no\tbad\nfine\tgood\nso so\tbad\n')
    found = read_examples(path, text="sentence", target="label", length=4)
    assert found.targets.tolist() == [0, 1, 0]
    assert torch.equal(found.inputs, hash_tokens(['he said " no', "fine", "so so"], 4))


def test_a_function_may_make_the_tensors(write):
    path = write("a.jsonl", '{"t": "ab", "y": "p"}\n{"t": "c", "y": "q"}\n{"t": "d", "y": "p"}\n')

    def letters(texts):
        return {"length": torch.tensor([len(text) for text in texts])}

    found = read_examples(path, text="t", target="y", tokenizer=letters)
    assert found.inputs["length"].tolist() == [2, 1, 1]
    with pytest.raises(TypeError, match="`tokenizer` must give a tensor"):
        read_examples(path, text="t", target="y", tokenizer=lambda texts: [[1], [2], [3]])
    with pytest.raises(ValueError, match="one row per text, 3; got 1"):
        read_examples(path, text="t", target="y", tokenizer=lambda texts: torch.zeros(1, 4))
    with pytest.raises(TypeError, match="`tokenizer` must be a tokenizer"):
        read_examples(path, text="t", target="y", tokenizer=3)
    with pytest.raises(ValueError, match="`text` must be one of t, y; got 'z'"):
        read_examples(path, text="z", target="y")
    with pytest.raises(ValueError, match="one column, or two"):
        read_examples(path, text=["t", "t", "t"], target="y")
    with pytest.raises(ValueError, match="`length` must be at least 1"):
        read_examples(path, text="t", target="y", length=0)
    empty = write("b.jsonl", '{"t": "ab", "y": "p"}\n{"t": " ", "y": "q"}\n')
    with pytest.raises(ValueError, match=r"missing values; got ' ' in .* line 2, column 't'"):
        read_examples(empty, text="t", target="y")


@pytest.mark.hf
def test_a_tokenizer_of_transformers_pads_and_masks(write, tmp_path):
    from transformers import BertTokenizerFast

    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfine\nso\n")
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    path = write("a.tsv", "a\tb\ty\nfine\tso so\tp\nso\tfine\tq\n")
    found = read_examples(path, text=("a", "b"), target="y", tokenizer=tokenizer, length=8)
    assert found.inputs["input_ids"].tolist() == [[2, 5, 3, 6, 6, 3, 0, 0], [2, 6, 3, 5, 3, 0, 0, 0]]
    assert found.inputs["attention_mask"].tolist() == [[1] * 6 + [0] * 2, [1] * 5 + [0] * 3]
    short = read_examples(path, text="a", target="y", tokenizer=tokenizer, length=3)
    assert short.inputs["input_ids"].shape == (2, 3)


@pytest.mark.data
@pytest.mark.parametrize(
    ("task", "text", "target", "counts"),
    [
        ("MRPC", ("#1 String", "#2 String"), "Quality", (3668, 408)),
        ("SST-2", "sentence", "label", (67349, 872)),
        ("RTE", ("sentence1", "sentence2"), "label", (2490, 277)),
    ],
)
def test_the_files_of_glue_are_read_whole(task, text, target, counts):
    folder = data_root() / "glue" / task
    if not folder.is_dir():
        pytest.skip(f"no glue/{task} below SUBSPACES_DATA")
    found = read_examples(folder / "train.tsv", text=text, target=target, classes=True, test=folder / "dev.tsv")
    assert (len(found), len(found.test[1])) == counts
    assert len(found.classes) == 2
    assert found.inputs.shape == (counts[0], 64)
    assert bool((found.inputs[:, 0] > 0).all())


# ---- arrays


def test_arrays_of_an_npz_file(tmp_path):
    random = np.random.default_rng(0)
    x, y = random.normal(3, 2, (50, 4)), random.normal(size=50)
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[:5] + 1, y_test=y[:5])
    found = read_examples(tmp_path / "a.npz")
    torch.testing.assert_close(found.inputs, torch.from_numpy((x - x.mean(0)) / x.std(0)).float())
    torch.testing.assert_close(found.targets, torch.from_numpy(y).float())
    torch.testing.assert_close(found.test[0], torch.from_numpy((x[:5] + 1 - x.mean(0)) / x.std(0)).float())
    raw = read_examples(tmp_path / "a.npz", standardise=False)
    torch.testing.assert_close(raw.inputs, torch.from_numpy(x).float())


def test_images_tokens_masks_and_several_inputs_of_an_npz_file(tmp_path):
    pixels = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    masks = np.array([[[0, 2], [1, -100]]] * 2)
    ids = np.arange(6).reshape(2, 3)
    np.savez(tmp_path / "a.npz", x=pixels, y=masks)
    found = read_examples(tmp_path / "a.npz", classes=True)
    torch.testing.assert_close(found.inputs, torch.from_numpy(pixels).float() / 255)
    assert torch.equal(found.targets, torch.from_numpy(masks))
    assert found.classes == ("0", "1", "2")
    np.savez(tmp_path / "b.npz", input_ids=ids, mask=ids > 1, label=np.array(["no", "yes"]))
    found = read_examples(tmp_path / "b.npz", target="label")
    assert found.inputs["input_ids"].dtype == torch.int64
    assert found.inputs["mask"].dtype == torch.float32
    assert (found.targets.tolist(), found.classes) == ([0, 1], ("no", "yes"))
    alone = read_examples(tmp_path / "b.npz", target="label", columns=["input_ids"])
    assert torch.equal(alone.inputs, torch.from_numpy(ids))


@pytest.mark.parametrize(
    ("arrays", "options", "says"),
    [
        ({"x": [[1.0, np.nan]], "y": [1.0]}, {}, r"missing values; .* has nan in 'x' at \(0, 1\)"),
        ({"x": [[1.0]] * 3, "y": [1.0]}, {}, r"shapes \(3, 1\) and \(1,\)"),
        ({"x": [["a"]], "y": [1.0]}, {}, "numbers in 'x'"),
        ({"x": [[1.0]]}, {}, "`target` must be one of x; got 'y'"),
        ({"y": [1.0]}, {}, "inputs beside 'y'"),
        ({"x": [[1.0]], "y": [1.0]}, {"columns": ["z"]}, "`columns` must be one of x, y; got 'z'"),
        ({"x": [[1.0]], "y": [1.0], "y_test": [1.0]}, {}, "all test arrays or none; .* only y_test"),
        ({"x": [[1.0]], "y": [1.0], "x_test": [[1.0, 2.0]], "y_test": [1.0]}, {}, "like those for training"),
        (
            {"x": [[1.0]], "y": ["a"], "x_test": [[1.0]], "y_test": ["b"]},
            {},
            "classes of the training part in 'y_test'",
        ),
        ({"x": [[1.0]], "y": ["a"], "x_test": [[1.0]], "y_test": [1]}, {}, "'y_test' like 'y'"),
        ({"x": [[1.0]], "y": [0.5]}, {"classes": True}, "integers in 'y' for `classes=True`"),
        ({"x": [[1.0]], "y": [[-1]]}, {"classes": True}, "classes from 0 in 'y'"),
        ({"x": np.array([[None]]), "y": [1.0]}, {}, "whole npz file"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, options, says):
    np.savez(tmp_path / "a.npz", **{name: np.asarray(array) for name, array in arrays.items()})
    with pytest.raises(ValueError, match=says):
        read_examples(tmp_path / "a.npz", **options)


def test_a_damaged_npz_file_is_a_value_error_wherever_the_damage_is(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(20, 3)), y=np.arange(20.0))
    whole = path.read_bytes()
    unread = 0
    for at in range(0, len(whole), 7):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                read_examples(path)
            except ValueError as error:
                unread += str(path) in str(error) or "`target`" in str(error)
    assert unread > len(whole) // 7  # a flipped bit in a date or a flag of the zip changes nothing
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "b.npy").rename(path)
    with pytest.raises(ValueError, match="whole npz file"):
        read_examples(path)


# ---- images


@pytest.fixture
def images(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 2)):
        for name in ("sky", "apple"):
            (tmp_path / "fruit" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 255, (10, 14, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "fruit" / part / name / f"{i}.png")
    (tmp_path / "fruit" / "train" / ".cache").mkdir()
    monkeypatch.setenv("SUBSPACES_DATA", str(tmp_path))
    return tmp_path / "fruit"


def test_a_folder_of_images_is_read_as_the_data_set_of_that_folder(images):
    found, known = read_examples(images, size=8), load_data("folder-fruit-8", DataOptions(validation=0))
    assert torch.equal(found.inputs, known.train_x)
    assert torch.equal(found.targets, known.train_y)
    assert torch.equal(found.test[0], known.test_x)
    assert torch.equal(found.test[1], known.test_y)
    assert found.classes == ("apple", "sky")


def test_classes_alone_have_no_test_images(images):
    found = read_examples(images / "train", size=8)
    assert torch.equal(found.inputs, read_examples(images, size=8).inputs)
    assert found.test is None
    (images / "train" / "leaf").mkdir()
    with pytest.raises(FileNotFoundError, match=r"training images of every class; got none in .*leaf"):
        read_examples(images / "train", size=8)


def test_a_folder_without_classes_or_training_images_is_refused(images, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", images / "test" / "sky"):
        with pytest.raises(FileNotFoundError, match=r"folder of images by class; .* Lay them as train/CLASS/IMAGE"):
            read_examples(folder)
    with pytest.raises(ValueError, match="`size` must be at least 1"):
        read_examples(images, size=0)
    damaged = images / "train" / "sky" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"sky/1\.png cannot be read"):
        read_examples(images, size=8)


# ---- all


def test_arguments_that_a_format_has_no_use_for_are_refused(images, write, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 2)), y=np.zeros(2))
    table = write("a.csv", HOUSES)
    for path, options, name in (
        (images, {"target": "x"}, "target"),
        (tmp_path / "a.npz", {"text": "x"}, "text"),
        (table, {"target": "price", "tokenizer": len}, "tokenizer"),
        (table, {"target": "price", "text": "town", "columns": ["area"]}, "columns"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be left out for"):
            read_examples(path, **options)
    with pytest.raises(FileNotFoundError, match="`path` must be a file or folder"):
        read_examples(tmp_path / "nothing.csv", target="y")


def test_a_digest_sees_values_dtypes_shapes_and_names_and_nothing_else():
    x, y = torch.arange(24.0).view(4, 6), torch.arange(4)
    known = digest(x, y)
    assert re.fullmatch("[0-9a-f]{16}", known)
    assert digest(x.T.contiguous().T, y) == known
    assert digest(x.clone().requires_grad_(), y) == known
    pairs = {"a": x, "b": y}
    assert digest(pairs) == digest(dict(reversed(pairs.items())))
    nudged = x.clone()
    nudged[3, 5] = 23.000002  # the next float32
    others = [digest(v, y) for v in (nudged, x.view(6, 4), x.double(), x.half(), x.bfloat16(), x.T)]
    others += [
        digest(x),
        digest(x, y.int()),
        digest((x, y)),
        digest(pairs),
        digest({"a": y, "b": x}),
        digest([x, x], y),
    ]
    others += [
        digest(torch.zeros(0, 3)),
        digest(torch.zeros(3, 0)),
        digest(torch.tensor(1.0)),
        digest(torch.tensor([1.0])),
    ]
    assert len({known, *others}) == 1 + len(others)
    with pytest.raises(TypeError, match=r"`inputs\.a` must be tensors"):
        digest({"a": "text"})


def test_a_digest_does_not_depend_on_how_large_tensors_are_cut(monkeypatch):
    x = torch.randn(100, 7)
    known = digest(x)
    for piece in (1, 100, 1000):
        monkeypatch.setattr("subspaces.tasks.digest._PIECE", piece)
        assert digest(x) == known
