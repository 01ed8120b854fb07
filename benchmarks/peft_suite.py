"""PEFT's own tests of custom models and of decoder models, run with our method in place of theirs.

    git clone https://github.com/huggingface/peft
    python benchmarks/peft_suite.py peft/tests [-- -k save -x]

The tests are read where they lie and copied into a temporary folder with other lists of configurations; nothing of them
is kept. Models that they load from the hub are built from a config of the same architecture. `docs/language-models.md`
has what passes, and why the rest does not apply.
"""

import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

CUSTOM = """
from subspaces.integrations.peft import SubspaceConfig
_CASES = [
    ("MLP", {"target_modules": "lin0", "d": 20}),
    ("MLP", {"target_modules": ["lin0", "lin1"], "d": 20}),
    ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"], "d": 20}),
    ("MLP", {"target_modules": ["lin0", "lin1"], "d": 4, "r": 2, "space": "lora-xs"}),
    ("EmbConv1D", {"target_modules": ["conv1d"], "d": 4}),
    ("EmbConv1D", {"target_modules": ["emb"], "d": 10}),
    ("EmbConv1D", {"target_modules": ["emb", "conv1d"], "d": 10, "r": 2}),
    ("Conv1d", {"target_modules": ["conv1d"], "d": 2, "r": 1}),
    ("Conv2d", {"target_modules": ["conv2d"], "d": 10, "r": 2}),
    ("Conv2d", {"target_modules": ["conv2d", "lin0"], "d": 10, "r": 2}),
    ("Conv2d", {"target_modules": ["conv2d"], "d": 3, "r": 2, "space": "lora-xs"}),
]
TEST_CASES = [(f"{model} {k} Subspace", model, SubspaceConfig, kwargs) for k, (model, kwargs) in enumerate(_CASES)]
"""
DECODERS = """
import os
import transformers as _transformers
from subspaces.integrations.peft import SubspaceConfig
ALL_CONFIGS = [
    (SubspaceConfig, {"task_type": "CAUSAL_LM", "target_modules": None, "d": 50}),
    (SubspaceConfig, {"task_type": "CAUSAL_LM", "target_modules": None, "d": 10, "r": 4, "space": "lora-xs"}),
]
PEFT_DECODER_MODELS_TO_TEST = PEFT_DECODER_MODELS_TO_TEST[:4]
_SIZES = {"vocab_size": 1000, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
_SIZES |= {"num_attention_heads": 4, "max_position_embeddings": 64}
_SIZES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TYPES = {"opt": {"ffn_dim": 32, "word_embed_proj_dim": 16}, "gpt2": {}, "gptj": {"rotary_dim": 4}, "llama": {}}


_from_folder = _transformers.AutoModelForCausalLM.from_pretrained


def _built(cls, name, *args, **kwargs):
    if os.path.isdir(name):
        return _from_folder(name, *args, **kwargs)
    kind = next(kind for kind in ("gptj", "gpt2", "opt", "llama") if kind in str(name).lower())
    sizes = _SIZES | _TYPES[kind]
    if kind in ("gpt2", "gptj"):
        sizes |= {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 32}
        others = ["hidden_size", "max_position_embeddings", "intermediate_size"]
        others += ["num_hidden_layers", "num_attention_heads"]
        sizes = {k: v for k, v in sizes.items() if k not in others}
    torch.manual_seed(0)
    model = _transformers.AutoModelForCausalLM.from_config(_transformers.AutoConfig.for_model(kind, **sizes))
    model.config._name_or_path = model.name_or_path = name
    return model.eval().to(kwargs.get("dtype") or kwargs.get("torch_dtype") or torch.float32)


_transformers.AutoModelForCausalLM.from_pretrained = classmethod(_built)
"""


def put_in(source: str, text: str, before: str) -> str:
    """The text put in before the line that starts with `before`."""
    place = source.index(f"\n{before}")
    return f"{source[:place]}\n{text}{source[place:]}"


def main() -> None:
    arguments = sys.argv[1:]
    rest = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tests"
        shutil.copytree(arguments[0], copy)
        for missing in ("diffusers", "datasets"):  # of which no test here has use
            if find_spec(missing) is None:
                (Path(folder) / f"{missing}.py").write_text("def __getattr__(name):\n    return type(name, (), {})\n")
        for name, text, before in (
            ("test_custom_models.py", CUSTOM, "ALL_PEFT_CONFIG_CLASSES"),
            ("test_decoder_models.py", DECODERS, "def _skip_if_not_conv1d_supported"),
        ):
            (copy / name).write_text(put_in((copy / name).read_text(), text, before))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            "--rootdir",
            folder,
        ]
        files = ["tests/test_custom_models.py", "tests/test_decoder_models.py"]
        filters = [] if "-k" in rest else ["-k", "Subspace or SubspaceConfig"]
        raise SystemExit(subprocess.run([*command, *files, *filters, *rest], cwd=folder, check=False).returncode)


if __name__ == "__main__":
    main()
