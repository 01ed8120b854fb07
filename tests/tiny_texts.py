"""A tiny BERT, a tiny GPT-2, their tokenizers and tables of texts, all made on the spot."""

import random

WORDS = ["the", "a", "dog", "cat", "bird", "sees", "likes", "fears", "no", "not", "big", "small", "red"]
GOOD, BAD = ("likes", "sees"), ("fears", "not")


def save_bert(folder, layers=3, seed=0):
    """A BERT of width 16 with its tokenizer, as `save_pretrained` writes them; the folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), num_hidden_layers=layers, **sizes)).save_pretrained(folder)
    return folder


def save_gpt2(folder, bert):
    """A GPT-2 of width 16 with the tokenizer of `save_bert`; the folder."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def examples(n, seed=0):
    """n sentences of 2 to 12 words with their labels: 1 where a good word stands in them, 0 for a bad one."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        words = [draw.choice(WORDS[:5]) for _ in range(draw.randint(1, 11))]
        words.insert(draw.randint(0, len(words)), draw.choice((BAD, GOOD)[i % 2]))
        rows.append((" ".join(words), i % 2))
    return rows


def write_glue(root, n=48):
    """The files of MRPC, RTE and SST-2, n training examples each, below root/glue; the root."""
    kinds = {
        "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", lambda i, x, y: f'{y}\t{i}\t{i}\t" {x}\tthe "dog" {x}'),
        "RTE": ("index\tsentence1\tsentence2\tlabel",
                lambda i, x, y: f"{i}\t{x}\ta cat\t{('entailment', 'not_entailment')[y]}"),
        "SST-2": ("sentence\tlabel", lambda i, x, y: f"{x} \t{y}"),
    }  # fmt: skip
    for name, (header, line) in kinds.items():
        folder = root / "glue" / name
        folder.mkdir(parents=True)
        for part, count, seed in (("train", n, 0), ("dev", 20, 1)):
            lines = [line(i, x, y) for i, (x, y) in enumerate(examples(count, seed))]
            (folder / f"{part}.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return root
