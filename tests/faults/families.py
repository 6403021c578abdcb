"""The table of families: what is damaged, and which commands are given it. A new family is one function and one line.

Each function puts the files of a case into a folder and returns the arguments of `plan`; whatever it draws comes from `rng` alone.
`GIVEN` is the folder of valid inputs (fixtures.py).
"""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import click

from tests.faults import mutations
from tests.faults.fixtures import DATA, QUICK, RUNS, compare
from tests.faults.harness import MARK

GIVEN = Path()
EVIL = f"import os\nopen({MARK!r}, 'w').close()\nos.system('touch {MARK}')\nclass Evil: pass\nclass EvilConfig: pass\n"
MODELS = ("bert", "llama", "olmoe")


def document(kind, sources):
    """A damaged JSON document of one kind, given to every command that reads it."""

    def prepare(folder, rng):
        source = rng.choice(sources)
        (folder / "in.json").write_bytes(mutations.mutated_json((GIVEN / source).read_bytes(), rng))
        name = source.partition(".")[0]
        return rng.choice(READ_BY[kind])("in.json", name)

    return prepare


def _allocate(*arguments):
    return ["allocate", *arguments, "-o", "out.json"]


VIEWS = [
    lambda file, _: ["plot", file, "-o", "out"],
    lambda file, _: ["report", file, "-o", "out.html"],
    lambda file, _: ["show", file],
]
STRATEGIES = ("sensitivity", "lora-smoe", "dr-lora", "hot-experts", "combined", "random")
READ_BY = {
    "plan": [
        *VIEWS,
        lambda file, _: ["show", file, "--json"],
        lambda file, name: ["show", file, GIVEN / f"{name}.plan.json"],
        lambda file, name: ["check", file, GIVEN / name],
        *(
            lambda file, _, form=form: ["export", file, "--format", form, "-o", "out.txt"]
            for form in ("peft", "csv", "markdown", "yaml")
        ),
        lambda file, name: _allocate("--model", GIVEN / name, "--strategy", "uniform", "--budget", file),
        lambda file, name: ["train", file, "--model", GIVEN / name, "--data", GIVEN / DATA[name], *QUICK, "-o", "out"],
    ],
    "spectra": [
        *VIEWS,
        lambda file, _: _allocate("--spectra", file, "--strategy", "alphalora", "--budget", "rank 2"),
        lambda file, name: _allocate("--spectra", file, "--sensitivity", GIVEN / f"{name}.sensitivity.json", "--budget", "5%"),
        lambda file, _: _allocate("--spectra", file, "--strategy", "alphalora", "--budget", "4 experts", "--expert-rank", 1),
        lambda file, _: _allocate("--spectra", file, "--strategy", "alphalora", "--estimator", "hill", "--budget", "3000"),
        lambda file, name: _allocate("--spectra", file, "--model", GIVEN / name, "--strategy", "uniform", "--budget", "rank 1"),
        lambda file, _: _allocate("--spectra", file, "--strategy", "alphalora", "--budget", "match rank 2"),
    ],
    "sensitivity": [
        *VIEWS,
        *(lambda file, _, s=s: _allocate("--sensitivity", file, "--strategy", s, "--budget", "rank 2") for s in STRATEGIES),
        lambda file, _: _allocate("--sensitivity", file, "--strategy", "sensitivity", "--statistic", "fisher", "--budget", 3000),
        lambda file, name: _allocate(
            "--sensitivity", file, "--sensitivity", GIVEN / f"{name}.sensitivity.json", "--budget", "5%"
        ),
        lambda file, name: _allocate("--sensitivity", file, "--spectra", GIVEN / f"{name}.spectra.json", "--budget", "rank 2"),
        lambda file, _: _allocate("--sensitivity", file, "--budget", "match rank 2"),
    ],
}
CELLS = ["", "nan", "inf", "-1", "0", "1e6", "1e7", "1e400", "text", "1,5", "½", "٣", "1_000", "0x10", " 3 ", '"', '""', "\x00",
         "9" * 500, "3.7", "[/]", "2147483648"]  # fmt: skip


def alphas(folder, rng):
    """A table of alphas."""
    name = rng.choice(MODELS)
    raw = (GIVEN / f"{name}.csv").read_bytes()
    if rng.random() < 0.4:
        raw = mutations.mutated_bytes(raw, rng)
    else:
        rows = [line.split(",") for line in raw.decode().splitlines()]
        for _ in range(rng.choice([1, 1, 3])):
            row = rng.choice(rows)
            row[rng.randrange(len(row))] = rng.choice(CELLS)
            if rng.random() < 0.2:
                rows = [part for part in rows if rng.random() < 0.9] or rows
        raw = "\n".join(map(",".join, rows)).encode()
    (folder / "in.csv").write_bytes(raw)
    return rng.choice(READ_BY["spectra"])("in.csv", name)


def run(folder, rng):
    """A run's folder with one file damaged or gone."""
    name = rng.choice(list(RUNS))
    shutil.copytree(GIVEN / name, folder / "run")
    files = [file for file in (folder / "run").iterdir() if file.is_file()]
    damaged = rng.choice(files)
    _damage(damaged, rng)
    data = ["--data", GIVEN / RUNS[name][2]]
    if damaged.name in ("run.json", "evaluation.json", "growth.json"):
        return rng.choice([["plot", "run", "-o", "out"], ["report", "run", "-o", "out.html"], ["show", "run"]])
    return rng.choice(
        [
            ["evaluate", "run", *data, "-o", "out.json"],
            ["evaluate", "run", *data, "-o", "out.json"],
            ["merge", "run", "-o", "out"],
        ]
    )


def _damage(file, rng):
    """Change a file as its kind allows; sometimes it goes."""
    raw = file.read_bytes()
    if rng.random() < 0.1:
        file.unlink()
    elif file.suffix == ".json":
        file.write_bytes(mutations.mutated_json(raw, rng))
    elif file.suffix == ".safetensors":
        file.write_bytes(mutations.mutated_safetensors(raw, rng))
    else:
        file.write_bytes(mutations.mutated_bytes(raw, rng))


RUN_FILES = ("outcome.json", "loraplan.json", "run.json")


def study(folder, rng):
    """A study's folder with one file damaged or gone."""
    shutil.copytree(GIVEN / "study", folder / "study")
    kept = {f"runs/{path.name}/{name}" for path in (GIVEN / "study" / "runs").glob("*.seed-*") for name in RUN_FILES}
    file = rng.choice(["study.json"] * len(kept) + ["plans/uniform-lora.json"] * 4 + sorted(kept))
    _damage(folder / "study" / file, rng)
    if file == "study.json":
        return rng.choice([["plot", "study", "-o", "out"], ["report", "study", "-o", "out.html"], ["show", "study"]])
    return ["compare", *compare(GIVEN), "-o", "study"]


def checkpoint(folder, rng):
    """A run that goes on from checkpoints of which one is damaged."""
    name = rng.choice(["bert.run", "llama.run", "olmoe.run"])
    plan, model, data, *more = RUNS[name]
    shutil.copytree(GIVEN / name, folder / "run")
    steps = sorted((folder / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    if rng.random() < 0.7:  # so that steps remain
        shutil.rmtree(steps.pop())
        for file in ("adapter_model.safetensors", "run.json", "loraplan.json"):
            (folder / "run" / file).unlink()
    _damage(rng.choice([*steps[-1].iterdir(), folder / "run" / "manifest.json"]), rng)
    arguments = ["--model", GIVEN / model, "--data", GIVEN / data, *more, *QUICK[2:]]
    return ["train", GIVEN / plan, *arguments, "--resume", "-o", "run"]


def _model(folder, name):
    shutil.copytree(GIVEN / name, folder / "model")
    return folder / "model"


def _given_model(name, rng):
    """A command that reads the folder `model`, whose family is known."""
    data = GIVEN / DATA[name]
    plan = GIVEN / f"{name if name in MODELS else 'llama'}.plan.json"
    return rng.choice([
        ["analyze", "model", "-o", "out.json"],
        ["analyze", "model", "-o", "out.json", "--estimator", "farms", "--bootstrap", 3, "--subsamples", 2, "--goodness", 2,
         "--compare", "--csv", "out.csv", "--keep-eigenvalues", "out.st"],
        ["check", plan, "model"],
        _allocate("--model", "model", "--strategy", "uniform", "--budget", "rank 1"),
        ["train", plan, "--model", "model", "--data", data, *QUICK, "-o", "out"],
        ["train", plan, "--model", "model", "--data", GIVEN / "labels.jsonl", *QUICK, "-o", "out"],
        ["probe", "model", "--data", data, "--samples", 4, "--max-length", 16, "-o", "out.json"],
    ])  # fmt: skip


ODD = [0, -1, "16", 1e9, None, 17, 2**40, [16], True, 10**30, 0.5, "x", {}, [], {"a": 1}, 10**6, float("nan")]
CONFIGURATION = {
    "model_type": [None, "", "nope", 5, ["bert"], {"a": 1}, "t5", "gpt2", "clip", "falcon", "gpt_oss", "mixtral"],
    "auto_map": [
        dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"), "evil.Evil"),
        "evil",
    ],
    "quantization_config": [{"quant_method": method} for method in ("gptq", "awq", "bitsandbytes", "nope", "fp8", "mxfp4")]
    + ["x", {}],
    "attn_implementation": ["flash_attention_2", "nope", 5],
    "dtype": ["banana", "bfloat16", [], "float8_e4m3fn", "int8"],
    "text_config": [{}, None, {"model_type": "bert"}, {"num_attention_heads": "x"}, []],
    "id2label": [{}, {"a": "b"}, [], None],
    "problem_type": ["regression", "multi_label_classification", "nope"],
    "rope_parameters": [{}, None, {"rope_type": "nope"}, {"rope_type": "yarn"}],
    "transformers_weights": ["other.safetensors", "../../other.safetensors", 5],
}


def configuration(folder, rng):
    """A model's config.json."""
    name = rng.choice([*MODELS, "gpt2"])
    file = _model(folder, name) / "config.json"
    if rng.random() < 0.4:
        file.write_bytes(mutations.mutated_json(file.read_bytes(), rng))
    else:
        found = json.loads(file.read_text())
        key = rng.choice([*CONFIGURATION, *found])
        file.write_bytes(mutations.encoded(found | {key: rng.choice(CONFIGURATION.get(key, ODD))}))
    (folder / "model" / "evil.py").write_text(EVIL)
    return _given_model(name, rng)


def weights(folder, rng):
    """A safetensors file."""
    name = rng.choice([*MODELS, "gpt2"])
    file = _model(folder, name) / "model.safetensors"
    file.write_bytes(mutations.mutated_safetensors(file.read_bytes(), rng))
    return _given_model(name, rng)


WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1}
SHAPES = [(8, 8), (1, 1), (1, 8), (8, 1), (0, 8), (3, 3, 3), (4, 4, 1, 1), (2, 3, 1, 2, 2), (5,), (), (12, 8), (24, 8), (2, 4000)]
LEAVES = ["q.weight", "c_attn.weight", "Wqkv.weight", "qkv_proj.weight", "query_key_value.weight", "wqkv.weight", "W_pack.weight",
          "in_proj_weight", "gate_up_proj.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj", "experts.1.w2.weight", "bias",
          "norm.weight", "q.weight_scale", "q.SCB", "qweight", "mlp.experts.gate_up_proj_blocks"]  # fmt: skip
COUNTS = [2, "2", [2], -2, 0, 2.5, 1e300, True, {"a": 1}, 10**30, None, 3, 4]


def made(folder, rng):
    """A checkpoint made of odd tensors, with a configuration of odd head counts."""
    (folder / "model").mkdir()
    header, data = {}, b""
    for number in range(rng.choice([1, 2, 4])):
        kind, shape = rng.choice(list(WIDTHS)), rng.choice(SHAPES)
        size = WIDTHS[kind]
        for side in shape:
            size *= side
        name = f"layers.{number}.{rng.choice(LEAVES)}" if rng.random() < 0.8 else rng.choice(mutations.NAMES)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(data), len(data) + size]}
        data += _content(kind, size, rng)
    text = mutations.encoded(header)
    (folder / "model" / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    keys = ("num_attention_heads", "num_key_value_heads", "n_head", "multi_query", "head_dim", "hidden_size", "attn_config")
    found = {key: rng.choice(COUNTS) for key in rng.sample(keys, 3)} | {
        "model_type": rng.choice(["falcon", "gpt2", "chatglm", "mpt", None])
    }
    (folder / "model" / "config.json").write_bytes(mutations.encoded(found))
    return _given_model("llama", rng)


def _content(kind, size, rng):
    if kind != "F32":
        return bytes(rng.randrange(2) for _ in range(size)) if kind == "BOOL" else rng.randbytes(size)
    fill = rng.choice([None, None, None, 0.0, 1.0, float("nan"), float("inf"), 3e38, 1e-45])
    values = [rng.gauss(0, 1) if fill is None else fill for _ in range(size // 4)]
    return struct.pack(f"<{len(values)}f", *values)


def outside(folder, rng):
    """An index that names what is not a file of its folder."""
    _model(folder, "sharded")
    shutil.copy(GIVEN / "llama" / "model.safetensors", folder / "outside.safetensors")
    (folder / "model" / "link.safetensors").symlink_to("../outside.safetensors")
    (folder / "model" / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "model" / "folder.safetensors").mkdir()
    os.mkfifo(folder / "model" / "pipe.safetensors")
    shard = rng.choice(["../outside.safetensors", str((folder / "outside.safetensors").absolute()), "link.safetensors", "loop.safetensors",
                        "folder.safetensors", "pipe.safetensors", "/etc/passwd", "config.json", "", ".", "a\x00b.safetensors", 3, None,
                        ["a"], {"a": 1}, "\ud800.safetensors", "sub/../model.safetensors", "a" * 5000 + ".safetensors"])  # fmt: skip
    (folder / "model" / "model.safetensors.index.json").write_bytes(
        mutations.encoded({"weight_map": {"layers.0.q.weight": shard}})
    )
    return _given_model("llama", rng)


def index(folder, rng):
    """A damaged index of shards."""
    file = _model(folder, "sharded") / "model.safetensors.index.json"
    file.write_bytes(mutations.mutated_json(file.read_bytes(), rng))
    return _given_model("llama", rng)


class Evil:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


def _bomb(file):
    import zipfile

    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3\n")
        with archive.open("archive/data.pkl", "w") as entry:
            for _ in range(1500):
                entry.write(bytes(1 << 20))


def pickled(folder, rng):
    """A pickle of torch's: damaged, of something else, or a program."""
    import torch

    file = _model(folder, "pickled") / "pytorch_model.bin"
    one = "layers.0.q.weight"
    kinds = {
        "program": lambda: torch.save({"w": Evil()}, file),
        "plain program": lambda: file.write_bytes(pickle.dumps({"w": Evil()})),
        "bomb": lambda: _bomb(file),
        "list": lambda: torch.save([torch.zeros(2)], file),
        "numbers": lambda: torch.save({5: torch.zeros(3, 3)}, file),
        "sparse": lambda: torch.save({one: torch.eye(8).to_sparse()}, file),
        "meta": lambda: torch.save({one: torch.empty(8, 8, device="meta")}, file),
        "repeated": lambda: torch.save({one: torch.zeros(1, 1).expand(200_000, 200_000)}, file),
        "complex": lambda: torch.save({one: torch.randn(8, 8, dtype=torch.complex64)}, file),
    }
    if rng.random() < 0.5:
        file.write_bytes(mutations.mutated_bytes(file.read_bytes(), rng))
    else:
        kinds[rng.choice(list(kinds))]()
    return _given_model("llama", rng)


def gguf(folder, rng):
    """A GGUF file."""
    raw = bytearray((GIVEN / "llama.gguf").read_bytes())
    if rng.random() < 0.3:
        raw = bytearray(mutations.mutated_bytes(bytes(raw), rng))
    else:
        for _ in range(rng.choice([1, 1, 2, 8])):  # where the counts, names, kinds and offsets are
            at = rng.randrange(min(len(raw), 4000))
            raw[at : at + 8] = rng.choice(
                [rng.randbytes(1), rng.randbytes(8), struct.pack("<Q", rng.choice([0, 1, 2**31, 2**63, 2**64 - 1]))]
            )
    (folder / "in.gguf").write_bytes(raw)
    data = ["--data", GIVEN / "text.jsonl"]
    return rng.choice([
        ["analyze", "in.gguf", "-o", "out.json"],
        _allocate("--model", "in.gguf", "--strategy", "uniform", "--budget", "rank 1"),
        ["train", GIVEN / "llama.plan.json", "--model", "in.gguf", *data, *QUICK, "-o", "out"],
    ])  # fmt: skip


def odd_folder(folder, rng):
    """A model's folder in which something is no file, or too much, or a program."""
    model = _model(folder, "llama")
    name = rng.choice(["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
    change = rng.choice(["gone", "folder", "pipe", "loop", "dangling", "device", "two formats", "adapter", "pointer", "program"])
    if change not in ("two formats", "adapter", "program"):
        (model / name).unlink(missing_ok=True)
    if change == "folder":
        (model / name).mkdir()
    elif change == "pipe":
        os.mkfifo(model / name)
    elif change in ("loop", "dangling", "device"):
        (model / name).symlink_to({"loop": name, "dangling": "nowhere", "device": "/dev/zero"}[change])
    elif change == "two formats":
        for file in (GIVEN / "sharded").glob("model*"):
            shutil.copy(file, model)
    elif change == "adapter":
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(GIVEN / "llama.stock" / file, model)
    elif change == "pointer":
        (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    elif change == "program":
        (model / "modeling_llama.py").write_text(EVIL)
    return _given_model("llama", rng)


TEMPLATES = ["{{ 1/0 }}", "{{ messages.nope.nope }}", "{{ messages[99].x }}", "{% for %}", "{% for i in range(10**7) %}x{% endfor %}",
             "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ 'a' * (10**10) }}", "",
             "{{ raise_exception('no') }}", "{{ messages + 5 }}", "{{ messages | nope }}", "{{ '{0.__class__}'.format(messages) }}",
             "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ messages }}", "{{ messages[0].content[0] }}",
             "{{ cycler.__init__.__globals__.os.system('touch " + MARK + "') }}"]  # fmt: skip


def template(folder, rng):
    """A chat template, which is a program."""
    (_model(folder, "llama") / "chat_template.jinja").write_text(rng.choice(TEMPLATES))
    data = GIVEN / rng.choice(["chat.jsonl", "alpaca.jsonl"])
    return ["train", GIVEN / "llama.plan.json", "--model", "model", "--data", data, *QUICK, "-o", "out"]


def tokenizer(folder, rng):
    """A tokenizer's files."""
    name = rng.choice(["bert", "llama"])
    model = _model(folder, name)
    _damage(model / rng.choice(["tokenizer.json", "tokenizer_config.json"]), rng)
    if rng.random() < 0.1:
        settings = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        (model / "evil.py").write_text(EVIL)
    data = GIVEN / ("labels.jsonl" if name == "bert" else rng.choice(["text.jsonl", "chat.jsonl", "pairs.jsonl", "alpaca.jsonl"]))
    return ["train", GIVEN / f"{name}.plan.json", "--model", "model", "--data", data, *QUICK, "-o", "out"]


LINES = [b"null", b"[1,2]", b'"x"', b"5", b"{", b'{"text": null, "label": "x"}', b'{"text": "the", "label": null}', b"", b" ",
         b'{"text": "the\\ud800", "label": "x"}', b'{"text": "caf\xe9", "label": "x"}', b'{"text": ' + b"[" * 100_000,
         b'{"text": "the", "label": 1' + b"0" * 5000 + b"}", b'{"text": "", "label": "x"}', b'{"text": "the", "label": "new"}',
         b'{"text": "' + b"the file " * 400_000 + b'", "label": "x"}', b'{"text": "' + b"x" * 2_000_000 + b'", "label": "x"}']  # fmt: skip


def dataset(folder, rng):
    """A dataset file of any format, damaged."""
    source = rng.choice(["labels.jsonl", "labels.json", "labels.csv", "labels.parquet", "text.jsonl", "pairs.jsonl", "chat.jsonl",
                         "alpaca.jsonl", "choices.jsonl"])  # fmt: skip
    raw, name = (GIVEN / source).read_bytes(), "in" + Path(source).suffix
    if source.endswith(".jsonl") and rng.random() < 0.3:
        rows = raw.splitlines()
        rows.insert(rng.choice([0, 0, 5, len(rows)]), rng.choice(LINES))
        raw = b"\n".join(rows)
    elif source.endswith(".jsonl"):
        raw = mutations.mutated_lines(raw, rng)
    elif source.endswith(".json"):
        raw = mutations.mutated_json(raw, rng)
    else:
        raw = mutations.mutated_bytes(raw, rng)
    (folder / name).write_bytes(raw)
    classifies = source.startswith("labels")
    evaluation = ["evaluate", GIVEN / ("bert.run" if classifies else "llama.run"), "--data", name, "-o", "out.json"]
    if source == "choices.jsonl":
        return evaluation
    model = "bert" if classifies else "llama"
    more = rng.choice([[], ["--packing"]]) if not classifies else []
    train = ["train", GIVEN / f"{model}.plan.json", "--model", GIVEN / model, *QUICK, *more, "-o", "out"]
    return rng.choice([
        [*train, "--data", name],
        [*train, "--data", name],
        [*train, "--data", GIVEN / DATA[model], "--eval-data", name],
        evaluation if classifies else [*evaluation, "--generate", rng.choice([0, 4, 5000])],
        ["probe", GIVEN / model, "--data", name, "--samples", 4, "--max-length", 16, "-o", "out.json"],
    ])  # fmt: skip


FILES = ["[abc].jsonl", "tr*in.jsonl", "tr?in.jsonl", "train[1].jsonl", "a::b.jsonl", "x$HOME.jsonl", "~.jsonl", "zip:x.jsonl",
         "{a,b}.jsonl", "a#b.jsonl", "s3:x.jsonl", ".hidden.jsonl", "x%20y.jsonl", "a b.jsonl", "ü.jsonl", "[/].jsonl", "sub/in.jsonl",
         "$_{$ $.jsonl", "a\nb.jsonl", "!x.jsonl"]  # fmt: skip


def file_name(folder, rng):
    """A good dataset under an odd name, beside others that a pattern would find."""
    name = rng.choice(FILES)
    for other in ("a.jsonl", "trXin.jsonl", "train.jsonl", "b.jsonl"):
        (folder / other).write_text('{"text": "the", "label": "OTHER"}\n')
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copy(GIVEN / "labels.jsonl", folder / name)
    return ["train", GIVEN / "bert.plan.json", "--model", GIVEN / "bert", "--data", f"./{name}", *QUICK, "-o", "out"]


YAML = ["", "null", "- 1", "rooter: x", f"seed: !!python/object/apply:os.system ['touch {MARK}']", "seed: !!python/name:os.system",
        "seed: 2020-13-45", "seed: !!int x", "seed: yes", "seed: null", "seed: [1]", "seed: {a: 1}", "seed: &a [*a]", "seed: -1",
        "epochs: .nan", "data: 5", "data: null", "data: []", "data: [[a]]", "model: [a]", "? [a]\n: 1", "seed: 1\nseed: 2", "\t", "a: *b",
        "data: " + "[" * 5000, "learning_rate: 1e400", "seed: \"a\\0b\"", "output: \"a\\0b\"", "max_steps: 9" + "9" * 5000]  # fmt: skip


def yaml(folder, rng):
    """A file of options."""
    known = (
        f"model: {GIVEN / 'bert'}\ndata: {rng.choice([GIVEN / 'labels.jsonl', [str(GIVEN / 'labels.jsonl')]])}\nmax_steps: 1\n"
    )
    text = rng.choice(YAML) if rng.random() < 0.5 else mutations.mutated_bytes(known.encode(), rng).decode("latin-1")
    if rng.random() < 0.3:
        option = rng.choice(list(_options("train")))
        text = f"{option.opts[-1].lstrip('-')}: {json.dumps(rng.choice(mutations.WEIRD))}"
    given = rng.random() < 0.5
    (folder / "c.yaml").write_bytes(((known if not given else "") + text).encode("utf-8", "replace"))
    more = ["--model", GIVEN / "bert", "--data", GIVEN / "labels.jsonl"] if given else []
    return ["train", GIVEN / "bert.plan.json", *more, *QUICK, "-o", "out", "--config", "c.yaml"]


RECIPE = "title: mine\nsteps:\n  allocate:\n    strategy: uniform\n    budget: rank 1\n"
TRAINED = "  train:\n    max-steps: 1\n    batch-size: 2\n    max-length: 16\n  evaluate:\nsmall:\n  train:\n    seed: 1\n"
RECIPES = ["", "steps:", "title: x\nsteps: []", "title: x\nsteps: {}", "title: x\nsteps: {train: {}}", RECIPE + "needs: experts\n",
           RECIPE + "needs: gold\n", RECIPE + "    budget: rank 2\n", RECIPE + "    modules: nothing\n", RECIPE + "    output: x\n",
           RECIPE + "    parity: true\n", RECIPE + "    top-k: [1, 2]\n", RECIPE + "    depth: {a: b}\n", RECIPE + "small: {probe: {}}\n",
           "title: x\nsteps:\n  allocate: {}\n  analyze: {}\n", RECIPE.replace("uniform", f"!!python/name:os.system {MARK}"),
           RECIPE + "    ? [a]\n    : b\n", "a: &a [*a]", RECIPE + "  demo:\n", "<<: {title: x}\nsteps: {allocate: {}}", "- title: x"]  # fmt: skip
CHANGES = ["budget=rank 2", "train.seed=-1", "seed=1", "=", "a=b", "train.=1", "allocate.budget=", "budget", "allocate.model=/dev/zero",
           "allocate.spectra=/dev/zero", "train.output=x", "allocate.strategy=alphalora", ".=.", "allocate.depth=nan", "a.b.c=1"]  # fmt: skip


def recipe(folder, rng):
    """A recipe, and changes of its options."""
    whole = RECIPE + TRAINED * (rng.random() < 0.4)
    text = rng.choice(RECIPES).encode() if rng.random() < 0.4 else whole.encode()
    if rng.random() < 0.5:
        text = mutations.mutated_bytes(text, rng) if text else text
    (folder / "r.yaml").write_bytes(text)
    changed = [f"--set={rng.choice(CHANGES)}" for _ in range(rng.choice([0, 1, 1, 2]))]
    data = ["--data", GIVEN / "text.jsonl", *rng.choice([[], ["--test", GIVEN / "pairs.jsonl"]])]
    return ["run", rng.choice(["r.yaml"] * 9 + ["uniform", "nothing", "r"]), "--model", GIVEN / "llama", *data, *changed,
            *rng.choice([[], ["--small"]]), "-o", "out"]  # fmt: skip


AMOUNTS = ["0%", "-5", "1e6", "1e400", "1e308%", "1e308 experts", "nan", "inf%", "9999999%", "4 experts per layer", "1e9 experts per layer", "100%", "rank 0", "rank -1", "rank 1.5",
           "rank 99999999", "rank " + "9" * 400, "rank " + "9" * 5000, "match rank 2", "match rank 99999", "0 experts", "4 experts",
           "99999 experts", "1e18 experts", "9" * 400, "1k", "0.001%", "", " ", "rank", "1 000", "½", "1_000", "own.json", "-", "1%%",
           "match rank " + "9" * 400, "0x10", "5 %", "rank 2 everywhere", "1e-5", "3000"]  # fmt: skip


def budget(folder, rng):
    """A budget, as people and scripts write it."""
    amount = (
        rng.choice(AMOUNTS)
        if rng.random() < 0.8
        else "".join(rng.choices("0123456789ekM%. rankxprts-_,", k=rng.randrange(1, 12)))
    )
    shutil.copy(GIVEN / "bert.plan.json", folder / "own.json")
    name = rng.choice(MODELS)
    evidence = rng.choice([
        ["--model", GIVEN / name, "--strategy", rng.choice(["uniform", "mola", "random"])],
        ["--spectra", GIVEN / f"{name}.spectra.json", "--strategy", "alphalora"],
        ["--sensitivity", GIVEN / f"{name}.sensitivity.json"],
        ["--spectra", GIVEN / f"{name}.csv", "--strategy", "alphalora", "--parity", "--expert-rank", 1],
    ])  # fmt: skip
    return _allocate(*evidence, f"--budget={amount}")


TEXTS = ["", "x", "nan", "-1", "0", "1", "2", "3", "1e9", "1000000000", "1" + "0" * 30, "-1" + "0" * 30, "0.5", "1e-300", "1e308", "inf",
         "1e38", "[/]", "nope", "/", ".", "/dev/full", "/dev/null", "/proc/x", "loop", "pipe", "dangling", "A" * 300, "a\nb.json",
         "x\ud800.json", "in.json", "out.json", "1,2", "1,nan", "cuda:99", "meta", "gpu", "auto", "none"]  # fmt: skip
CALLS = {
    "analyze": lambda name: [GIVEN / name, "-o", "out.json"],
    "probe": lambda name: [GIVEN / name, "--data", GIVEN / DATA[name], "--samples", 4, "--max-length", 16, "-o", "out.json"],
    "allocate": lambda name: ["--spectra", GIVEN / f"{name}.spectra.json", "--sensitivity", GIVEN / f"{name}.sensitivity.json",
                              "--budget", "rank 2", "-o", "out.json"],
    "train": lambda name: [GIVEN / f"{name}.plan.json", "--model", GIVEN / name, "--data", GIVEN / DATA[name], *QUICK, "-o", "out"],
    "evaluate": lambda name: [GIVEN / f"{name}.run", "--data", GIVEN / DATA[name], "-o", "out.json"],
    "merge": lambda name: [GIVEN / "llama.stock", "-o", "out"],
    "export": lambda name: [GIVEN / f"{name}.plan.json", "--format", "csv", "-o", "out.txt"],
    "plot": lambda name: [GIVEN / f"{name}.plan.json", "-o", "out"],
    "report": lambda name: [GIVEN / f"{name}.plan.json", "-o", "out.html"],
    "show": lambda name: [GIVEN / f"{name}.plan.json"],
    "check": lambda name: [GIVEN / f"{name}.plan.json", GIVEN / name],
    "compare": lambda name: [*compare(GIVEN), "-o", "out"],
}  # fmt: skip
# What asks for days of work, and gets it.
LONG = {
    "--epochs",
    "--max-steps",
    "--bootstrap",
    "--subsamples",
    "--goodness",
    "--trial-steps",
    "--seeds",
    "--processes",
    "--generate",
}


def _options(command):
    import cli

    found = cli.main.commands[command]
    return [
        option for option in found.get_params(click.Context(found)) if isinstance(option, click.Option) and option.name != "help"
    ]


def options(folder, rng):
    """Any option of any command with any value, or an argument with one."""
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("deep/nowhere")
    os.mkfifo(folder / "pipe")
    shutil.copy(GIVEN / "bert.plan.json", folder / "in.json")
    command = rng.choice([*CALLS, "train", "train", "allocate", "allocate", "analyze", "probe"])
    arguments = [command, *CALLS[command](rng.choice(MODELS))]
    if rng.random() < 0.15:
        arguments[1] = rng.choice(TEXTS)
        return ["--" if str(arguments[1]).startswith("-") else command, *arguments[1:]] if rng.random() < 0.1 else arguments
    option = rng.choice(_options(command))
    if option.is_flag:
        return [*arguments, option.opts[-1]]
    small = [text for text in TEXTS if len(text) < 4 or not text[:1].isdigit()]
    kinds = list(option.type.choices) if isinstance(option.type, click.Choice) else list(getattr(option.type, "table", ()))
    value = rng.choice([*(small if option.opts[-1] in LONG else TEXTS), *kinds * 3])
    return [*arguments, f"{option.opts[-1]}={value}"]


FAMILIES: dict[str, tuple[int, Callable[..., list[object]], str]] = {
    # name: share, function, what must become of its cases
    "plan": (9, document("plan", ["bert.plan.json", "llama.plan.json", "olmoe.plan.json", "llama.mixture.json"]), "any"),
    "spectra": (6, document("spectra", [f"{name}.spectra.json" for name in MODELS]), "any"),
    "sensitivity": (6, document("sensitivity", [f"{name}.sensitivity.json" for name in MODELS]), "any"),
    "alphas": (4, alphas, "any"),
    "run": (7, run, "any"),
    "study": (3, study, "any"),
    "checkpoint": (4, checkpoint, "any"),
    "configuration": (8, configuration, "any"),
    "weights": (7, weights, "any"),
    "made": (8, made, "any"),
    "outside": (2, outside, "refused"),
    "index": (3, index, "any"),
    "pickle": (2, pickled, "any"),
    "gguf": (3, gguf, "any"),
    "folder": (3, odd_folder, "any"),
    "template": (1, template, "any"),
    "tokenizer": (5, tokenizer, "any"),
    "dataset": (8, dataset, "any"),
    "file name": (2, file_name, "accepted"),
    "YAML": (5, yaml, "any"),
    "recipe": (4, recipe, "steps"),
    "budget": (5, budget, "any"),
    "options": (9, options, "any"),
}
