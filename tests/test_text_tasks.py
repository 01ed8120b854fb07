"""Tasks of texts: their names, files, batches, models, scores, and the words of the command line."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_texts import examples, save_bert, save_gpt2, write_glue

from subspaces.cli import main
from subspaces.datasets import Data, DataOptions
from subspaces.dimension.splits import splits_of_their_own
from subspaces.runs.extract import recorded_config
from subspaces.runs.fingerprint import fingerprint, row_is_of_today
from subspaces.runs.records import encode_row
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.tasks import get_task
from subspaces.tasks.text import TEXTS, leads_elsewhere, text_task
from subspaces.text_words import TextOptions, split, with_options
from subspaces.training.lengths import ByLength

pytestmark = pytest.mark.text
SHORT = {"epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Models and files of GLUE, all tiny."""
    place = write_glue(tmp_path_factory.mktemp("texts"))
    save_gpt2(place / "gpt2", save_bert(place / "bert", seed=7))
    return place


@pytest.fixture(autouse=True)
def _here(root, monkeypatch):
    monkeypatch.setenv("SUBSPACES_DATA", str(root))
    monkeypatch.chdir(root)


def table(path, rows, header="text\tlabel"):
    path.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return path


# ---- names


def test_a_name_holds_what_differs_from_the_defaults():
    assert split("text-a,b.tsv,model=./x,tokens=8") == ("text-a,b.tsv", {"model": "./x", "tokens": 8})
    assert with_options("mrpc", tokens=64, layers=3, model="minilm") == "mrpc,layers=3,tokens=64"
    assert with_options("mrpc,layers=3", tokens=64) == with_options("mrpc", layers=3, tokens=64)
    assert with_options("text-x.tsv", text=("a b", "c")) == "text-x.tsv,text=a b+c"
    assert with_options("digits-fc") == "digits-fc"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mrpc,layers=x", "`layers` must be an integer; got 'x'"),
        ("mrpc,layers=0", "`layers` must be at least 1; got 0"),
        ("mrpc,layers=2,layers=3", "`layers` must be given once"),
        ("mrpc,weights=old", "`weights` must be one of pretrained, random; got 'old'"),
        ("mrpc,text=a", "`text` must go with a file of your own; got ('a',) with mrpc"),
        ("digits-fc,layers=3", "`layers` must go with a task of texts (mrpc, rte, sst2 or text-FILE); got 3"),
        ("mrpc,score=f2", "`score` must be one of"),
        ("mrcp", "`task` must be one of"),
    ],
)
def test_a_wrong_name_is_told(name, told):
    with pytest.raises(ValueError) as error:
        get_task(name)
    assert told in str(error.value)


def test_names_in_python_and_on_the_command_line_are_one(root):
    made = text_task("mrpc", model="bert", layers=2)
    assert made.name == "mrpc,model=bert,layers=2"
    assert get_task(made.name) is get_task("mrpc,layers=2,model=bert") is made
    assert text_task("mrpc", name="own").name == "own"
    assert fingerprint(Run.of(made.name)) == fingerprint(Run.of("mrpc,layers=2,model=bert")) != ""


# ---- files


def test_the_parts_of_glue_are_read_with_quotes_as_characters(root):
    data = get_task("mrpc,model=bert").load_data()
    assert isinstance(data, Data)
    assert (len(data.train_y), len(data.val_y), len(data.test_y)) == (48, 20, 0)
    assert data.train_y[:4].tolist() == [0, 1, 0, 1]
    assert set(data.train_x) == {"input_ids", "attention_mask", "token_type_ids"}
    assert data.padded
    assert get_task("rte,model=bert").load_data().val_y[:2].tolist() == [0, 1]  # entailment, not_entailment
    assert set(get_task("sst2,model=bert").load_data().train_x) == {"input_ids", "attention_mask"}


def test_a_test_part_with_labels_is_taken(root, tmp_path):
    write_glue(tmp_path)
    folder = tmp_path / "glue" / "MRPC"
    (folder / "msr_paraphrase_test.txt").write_bytes((folder / "dev.tsv").read_bytes())
    assert len(get_task("mrpc,model=bert").load_data(root=tmp_path).test_y) == 20


def test_missing_files_are_told_with_where_they_are_to_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBSPACES_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"train\.tsv and dev\.tsv.*glue/RTE.*RTE\.zip"):
        get_task("rte,model=bert").load_data()
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tsv' does not exist"):
        get_task("text-nowhere.tsv")
    (tmp_path / "bert.doc").write_text("x")
    with pytest.raises(ValueError, match=r"must name a file in \.tsv.*got 'bert.doc'"):
        get_task(f"text-{tmp_path / 'bert.doc'}")


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_a_table_of_ones_own_is_split_and_learned(suffix, root, tmp_path):
    rows = examples(60)
    path = tmp_path / f"own{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": x, "label": ("bad", "good")[y]}) + "\n" for x, y in rows))
    else:
        table(path, rows)
        path.write_text(path.read_text().replace("\t", "\t" if suffix == ".tsv" else ","))
    task = text_task(str(path), model="bert")
    data = task.load_data()
    assert (len(data.train_y), len(data.val_y)) == (48, 12)
    if suffix == ".tsv":
        assert train(Run.of(f"text-{path},model=bert", lr=0.01, epochs=6, batch_size=8)).score > 0.8


def test_columns_are_known_named_or_told(root, tmp_path):
    path = table(tmp_path / "t.tsv", [(x, x, i % 2) for i, (x, _) in enumerate(examples(20))], "title\tbody\tstars")
    assert text_task(str(path), model="gpt2", text=("title", "body")).score.name == "1/perplexity"
    named = {"model": "bert", "target": "stars"}
    assert set(text_task(str(path), text=["title", "body"], **named).load_data().train_x) >= {"token_type_ids"}
    with pytest.raises(ValueError, match=r"`text` must name the column.*'title', 'body', 'stars'"):
        text_task(str(path), **named).load_data()
    with pytest.raises(ValueError, match=r"`text` must be one of .*got 'titel'. Did you mean 'title'"):
        text_task(str(path), text="titel", **named).load_data()
    with pytest.raises(ValueError, match="`target` must be one of"):
        text_task(str(path), text="title", model="bert", target="star").load_data()
    numbers = table(tmp_path / "n.tsv", [(x, i / 7) for i, (x, _) in enumerate(examples(20))])
    with pytest.raises(ValueError, match=r"`target` must be a column of classes.*0\.142857"):
        text_task(str(numbers), model="bert").load_data()


def test_a_folder_of_tables_brings_its_own_validation(root, tmp_path):
    table(tmp_path / "train.tsv", examples(30))
    table(tmp_path / "validation.tsv", examples(10, seed=1))
    task = text_task(str(tmp_path), model="bert")
    assert len(task.load_data().val_y) == 10
    first, second = (task.load_data(DataOptions(validation=15, seed=seed)) for seed in (0, 1))
    assert (len(first.train_y), len(first.val_y)) == (25, 15)  # drawn from both parts
    assert not first.val_x["input_ids"].equal(second.val_x["input_ids"])
    assert splits_of_their_own(Run.of(f"text-{tmp_path},model=bert", validation=15, **SHORT))
    assert not splits_of_their_own(Run.of(f"text-{tmp_path},model=bert", **SHORT))


@pytest.mark.parquet
def test_a_saved_data_set_is_read_without_its_library(root, tmp_path):
    import pyarrow as arrow

    for part, n in (("train", 30), ("validation", 10), ("test", 5)):
        folder = tmp_path / part
        folder.mkdir()
        texts, labels = zip(*examples(n), strict=True)
        columns = arrow.table({"sentence": list(texts), "label": [-1] * n if part == "test" else list(labels)})
        with arrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), columns.schema) as file:
            file.write_table(columns)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_files": None}
        (folder / "state.json").write_text(json.dumps(state))
        features = {"label": {"names": ["worse", "better"], "_type": "ClassLabel"}, "sentence": {"dtype": "string"}}
        (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation", "test"]}))
    data = text_task(str(tmp_path), model="bert").load_data()
    assert (len(data.train_y), len(data.val_y), len(data.test_y)) == (30, 10, 0)
    assert data.train_y[:2].tolist() == [1, 0]  # better, worse: classes are in the order of their names
    (tmp_path / "train" / "data-00000-of-00001.arrow").write_bytes(b"no arrow")
    with pytest.raises(ValueError, match="must be a whole data set"):
        text_task(str(tmp_path), model="bert").load_data()


# ---- batches


def padded(n=200, width=20):
    lengths = torch.randint(1, width + 1, (n,))
    mask = (torch.arange(width) < lengths[:, None]).long()
    return Data(*({"input_ids": torch.arange(n)[:, None] * mask, "attention_mask": mask}, torch.arange(n)) * 3, True)


def test_batches_hold_like_lengths_each_example_once_and_no_empty_column():
    batches = ByLength(padded(), 8, seed=1)
    seen, widths, spread = [], set(), []
    for x, y in batches.epoch(0):
        lengths = x["attention_mask"].sum(1)
        assert x["input_ids"].shape == (8, int(lengths.max()))
        assert torch.equal(x["input_ids"][:, 0], y)
        seen += y.tolist()
        widths.add(x["input_ids"].shape[1])
        spread.append(int(lengths.max() - lengths.min()))
    assert sorted(seen) == list(range(200))
    assert len(widths) > 5
    assert sum(spread) / len(spread) < 2
    assert [y.tolist() for _, y in batches.epoch(0, 20)] == [y.tolist() for _, y in batches.epoch(0)][20:]
    assert seen != [i for _, y in batches.epoch(1) for i in y.tolist()]


def test_an_evaluation_sees_every_example_once_in_batches_of_few_tokens(monkeypatch):
    monkeypatch.setattr("subspaces.training.lengths.EVAL_TOKENS", 100)
    parts = list(ByLength(padded(), 8).split("val") or ())
    assert sorted(i for _, y, _ in parts for i in y.tolist()) == list(range(200))
    assert max(x["input_ids"].numel() for x, _, _ in parts) <= 100
    assert sum(n for _, _, n in parts) == 200


def test_lengths_change_no_output_of_the_model(root):
    task = get_task("rte,model=bert")
    data, model = task.load_data(), task.build_model(0).eval()
    whole = model(**data.val_x).logits
    for x, y, _ in ByLength(data, 8).split("val") or ():
        rows = [
            int((data.val_x["input_ids"][:, : x["input_ids"].shape[1]] == one).all(1).nonzero()[0])
            for one in x["input_ids"]
        ]
        torch.testing.assert_close(model(**x).logits, whole[rows], atol=1e-5, rtol=1e-4)
        assert len(y) == len(rows)


# ---- models


def test_a_model_keeps_its_first_layers_and_its_weights(root):
    full, cut = (get_task(f"mrpc,model=bert{more}").build_model(0).state_dict() for more in ("", ",layers=2"))
    assert {name for name in full if name not in cut} == {name for name in full if ".layer.2." in name} != set()
    assert all(torch.equal(full[name], cut[name]) for name in cut)
    random, other = (get_task("mrpc,model=bert,weights=random").build_model(seed).state_dict() for seed in (0, 1))
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(full[query], random[query])
    assert not torch.equal(random[query], other[query])


def test_a_head_follows_from_the_seed_and_nothing_else(root):
    task = get_task("mrpc,model=bert")
    state = torch.get_rng_state()
    heads = [task.build_model(seed).classifier.weight.detach() for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(state, torch.get_rng_state())
    assert sum(p.numel() for p in task.build_model(0).parameters()) == task.D


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layers": 4}, "`layers` must be at most the 3 of bert; got 4"),
        ({"tokens": 65}, "`tokens` must be at most the 64 of bert; got 65"),
    ],
)
def test_more_than_a_model_has_is_refused(options, told, root):
    with pytest.raises(ValueError, match=told):
        text_task("mrpc", model="bert", **options).build_model(0)


def test_a_model_that_is_not_here_is_told_without_a_network(root, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: (_ for _ in ()).throw(OSError("no net")))
    with pytest.raises(FileNotFoundError, match=r"got 'minlm', which is not on this machine.*Did you mean 'minilm'"):
        get_task("mrpc,model=minlm").build_model(0)
    with pytest.raises(FileNotFoundError, match=r"a folder with config.json.*'\./no', which is not there"):
        get_task("mrpc,model=./no").build_model(0)
    with pytest.raises(FileNotFoundError, match="which has none"):
        get_task(f"mrpc,model={tmp_path}").build_model(0)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"Run: pip install 'subspaces\[text\]'"):
        get_task("mrpc,model=bert").build_model(0)


def test_a_model_of_another_kind_or_without_weights_is_told(root, tmp_path):
    config = json.loads((root / "bert" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="`model` must have weights that can be read"):
        text_task("mrpc", model=str(tmp_path)).build_model(0)
    assert text_task("mrpc", model=str(tmp_path), weights="random").D == get_task("mrpc,model=bert").D
    with pytest.raises(FileNotFoundError, match="`model` must have its tokenizer beside it"):
        text_task("mrpc", model=str(tmp_path)).load_data()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"}))
    with pytest.raises(ValueError, match=r"with a head for classes; got .* a clip_vision_model"):
        text_task("mrpc", model=str(tmp_path)).build_model(0)


def test_a_check_tells_what_always_the_same_answer_scores(root, capsys, tmp_path):
    path = table(tmp_path / "own.tsv", examples(60))
    words = ("check", f"text-{path}", "--model", "bert", "--epochs", "6", "--batch-size", "8", "--lr", "0.01")
    assert "always the same answer scores 0." in " ".join(said(capsys, *words)[1].split())


def test_a_row_of_somebody_opens_no_file_and_asks_no_hub(monkeypatch):
    monkeypatch.setattr("subspaces.tasks.text.places.place_of", lambda name: pytest.fail(f"looked for {name}"))
    monkeypatch.setattr("subspaces.tasks.text.pretrained.place_of", lambda name: pytest.fail(f"looked for {name}"))
    monkeypatch.setattr("subspaces.tasks.text.files.Own.find", lambda *_: pytest.fail("opened a file"))
    for name in ("mrpc,model=some/repository", "text-/etc/own.tsv"):
        row = {"config": Run.of("digits-fc").to_dict() | {"task": name}, "fingerprint": "r1-0000000000"}
        assert row_is_of_today(row)
        assert row_is_of_today(row, typed="mrpc")
    plain = ("mrpc", "rte,layers=3", "sst2,model=minilm", "digits-fc", "mrpc,layers=x")
    assert not any(map(leads_elsewhere, plain))


def test_a_recorded_run_leads_to_a_model_of_its_own_only_if_trusted(tmp_path):
    named = {"config": Run.of("mrpc").to_dict() | {"task": "mrpc,model=some/repository"}}
    (tmp_path / "result.json").write_bytes(encode_row(named))
    with pytest.raises(ValueError, match=r"leads to files or a model of its own\. If you know .* --trust mrpc,model="):
        recorded_config(tmp_path)
    assert recorded_config(tmp_path, trust=["mrpc,model=some/repository"]) is not None


def test_a_local_model_asks_no_network(root, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", refused)
    get_task("mrpc,model=bert").build_model(0)
    assert len(get_task("mrpc,model=bert").load_data().train_y) == 48


# ---- language models


def test_next_tokens_are_the_targets_and_perplexity_counts_them(root, tmp_path):
    path = tmp_path / "lm.txt"
    path.write_text("\n".join(x for x, _ in examples(80)) + "\n")
    task = text_task(str(path), model="gpt2", tokens=16)
    data = task.load_data()
    x, y = data.train_x["input_ids"], data.train_y
    assert x.shape == y.shape
    assert torch.equal(y[:, :-1][y[:, :-1] >= 0], x[:, 1:][y[:, :-1] >= 0])
    assert (y[:, -1] == -100).all()
    name = f"text-{path},model=gpt2,tokens=16"
    before, after = (train(Run.of(name, lr=rate, epochs=3, batch_size=4)).score for rate in (1e-9, 1e-2))
    assert after > 1.3 * before
    with pytest.raises(ValueError, match="`model` must predict next tokens"):
        text_task(str(path), model="bert").build_model(0)


# ---- scores and the command line


def test_any_score_of_classes_can_be_asked_for(root):
    for score in ("f1", "mcc"):
        assert train(Run.of(f"mrpc,model=bert,score={score}", d=20, **SHORT)).score_name == score


def said(capsys, *words):
    """What a command prints, and its status."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_the_words_of_the_command_line_name_the_task(root, capsys):
    words = ["train", "mrpc", "--model", "bert", "--layers", "2", "--epochs", "1", "--batch-size", "8", "--json"]
    row = json.loads(said(capsys, *words, "--d", "30", "--layer-scale")[1])
    assert row["config"]["task"] == "mrpc,model=bert,layers=2"
    assert (row["resolved"]["lr"], row["trained"]) == (1e-3, 30)
    few = said(capsys, *words, "--d", "30", "--space", "lora", "--rank", "2", "--only", "bert.encoder.*")
    assert json.loads(few[1])["config"]["rank"] == 2
    assert json.loads(said(capsys, *words)[1])["resolved"]["lr"] == 1e-4
    status, _, error = said(capsys, "train", "digits-fc", "--model", "bert")
    assert status == 2
    assert "`--model` must go with a task of texts" in error
    assert "`--layers` must be at least 1" in said(capsys, "train", "mrpc", "--layers", "0")[2]


def test_text_tasks_are_listed(capsys):
    listed = {row["task"]: row for row in json.loads(said(capsys, "list", "tasks", "--json")[1])}
    assert {*TEXTS} <= {*listed}
    assert "minilm" in listed["mrpc"]["settings"]


@pytest.mark.data
def test_the_real_mrpc_and_minilm_are_there(monkeypatch):
    place = Path(__file__).parents[2] / "shared" / "data"
    if not (place / "glue" / "MRPC").is_dir():
        pytest.skip("no glue below SUBSPACES_DATA")
    monkeypatch.setenv("SUBSPACES_DATA", str(place))
    task = get_task("mrpc,layers=1,tokens=32")
    data = task.load_data()
    assert (len(data.train_y), len(data.val_y), len(data.test_y)) == (3668, 408, 1725)
    assert round(float(data.val_y.float().mean()), 3) == 0.684  # the majority class
    assert data.train_x["input_ids"][0, :3].tolist() == [101, 2572, 3217]
    assert task.D == 13_841_666


def test_options_of_a_text_task_are_checked():
    with pytest.raises(ValueError, match="`text` must be one column, or two"):
        TextOptions(text=("a", "b", "c"))
    with pytest.raises(ValueError, match="must not be empty"):
        TextOptions(target="a,layers=3")
