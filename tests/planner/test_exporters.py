import csv
import io
import json

import peft
import pytest
import transformers
import yaml

from planner import AllocationSettings, allocate
from planner.exporters import EXPORTERS, export
from planner.plan import Note
from spectra import InputError
from tests.planner.examples import plan_of, planned


@pytest.fixture(scope="module")
def mixed(spectra_report):
    """A plan of single experts whose ranks differ by layer."""
    return allocate("1%", AllocationSettings(strategy="alphalora", max_experts=1), spectra=spectra_report)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")  # PEFT's calls, not ours
def test_peft_builds_exactly_this(mixed, minilm, tmp_path):
    (tmp_path / "adapter_config.json").write_text(export(mixed, "peft"))
    config = peft.LoraConfig.from_pretrained(tmp_path)
    model = peft.get_peft_model(transformers.AutoModel.from_pretrained(minilm), config)
    trainable, _ = model.get_nb_trainable_parameters()
    assert trainable == mixed.parameters
    modules = dict(model.base_model.model.named_modules())
    assert len({site.ranks for site in mixed.sites}) > 1
    for site in mixed.sites:
        assert modules[site.name].r["default"] == sum(site.ranks)
        assert modules[site.name].scaling["default"] * sum(site.ranks) == pytest.approx(config.lora_alpha)
    assert config.lora_alpha == round(2 * sum(sum(site.ranks) for site in mixed.sites) / len(mixed.sites))


def test_peft_gives_a_mixture_its_total_rank_and_leaves_out_what_gets_nothing(uniform_plan, spectra_report):
    config = json.loads(export(uniform_plan, "peft"))
    assert (config["r"], config["rank_pattern"]) == (2, {})
    plan = allocate("30k", AllocationSettings(strategy="uniform", granularity="module", min_rank=0), spectra=spectra_report)
    config = json.loads(export(plan, "peft"))
    assert config["target_modules"] == sorted(site.name for site in plan.sites if site.ranks)
    assert len(config["target_modules"]) < len(plan.sites)
    with pytest.raises(InputError, match="the plan adapts nothing"):
        export(plan.without_adapters(), "peft")


def test_tables_hold_every_site(mixed):
    rows = list(csv.DictReader(io.StringIO(export(mixed, "csv"))))
    assert [row["site"] for row in rows] == [site.name for site in mixed.sites]
    assert sum(int(row["parameters"]) for row in rows) == mixed.parameters
    assert [float(row["alpha"]) for row in rows] == pytest.approx([site.alpha for site in mixed.sites], rel=1e-5)
    text = export(mixed, "markdown")
    assert text.startswith("# alphalora for ")
    assert text.count("\n| encoder.") == len(mixed.sites)
    data = yaml.safe_load(export(mixed, "yaml"))
    assert data["parameters"] == mixed.parameters
    assert {name: tuple(site["ranks"]) for name, site in data["sites"].items()} == {s.name: s.ranks for s in mixed.sites}


def test_unknown_formats_are_refused(mixed):
    with pytest.raises(InputError, match="format 'toml': not one of peft, csv, markdown, yaml"):
        export(mixed, "toml")
    assert set(EXPORTERS) == {"peft", "csv", "markdown", "yaml"}


def test_peft_cannot_express_experts(routed):
    plan = allocate("60k", AllocationSettings(strategy="uniform"), **routed)
    with pytest.raises(InputError, match="is a routed expert, which a LoraConfig names by layer only"):
        export(plan, "peft")


def test_notes_and_unknown_numbers_in_tables():
    plan = plan_of(
        planned("layers.0.q", (2,)), planned("layers.1.q", ()), notes=(Note(about="a", text="Mind the gap."),), strategy="uniform"
    )
    assert export(plan, "markdown") == (
        "# uniform for model\n\nBudget 48: 48 trainable parameters, routers included.\n\nMind the gap.\n\n"
        "| site | ranks | parameters | weight | alpha |\n|---|---:|---:|---:|---:|\n"
        "| layers.0.q | 2 | 48 | 1.00 |  |\n| layers.1.q | - | 0 | 1.00 |  |\n"
    )
    assert export(plan, "csv").splitlines()[1:] == ["layers.0.q,16,8,1,2,2,1,48,1,,", "layers.1.q,16,8,0,-,0,0,0,1,,"]


def test_mixtures_keep_their_experts_where_a_format_knows_them():
    plan = plan_of(planned("layers.0.q", (3, 2)), strategy="uniform")
    assert yaml.safe_load(export(plan, "yaml"))["sites"] == {"layers.0.q": {"ranks": [3, 2], "top_k": 2}}
    assert export(plan, "csv").splitlines()[1].startswith('layers.0.q,16,8,2,"3,2",5,2,136,')
    assert json.loads(export(plan, "peft"))["r"] == 5
