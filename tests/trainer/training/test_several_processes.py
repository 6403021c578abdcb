"""Several processes, started as `torchrun` starts them, beside one process at the same global batch.

Of growth only what must hold is asked, because near-ties of saliencies may end otherwise in one process than in two: usage is
summed, the main process decides, sizes are the plan's, and both processes end with the same bits.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from planner import Plan
from spectra.checkpoint.names import resolve
from tests.trainer.examples import SHORT, assert_same_bytes, newest_checkpoint, uniform
from tests.trainer.training.together import disagree, observe
from trainer import evaluate, train
from trainer.report import GrowthHistory, RunReport
from trainer.run_folder import BEST, HISTORY, PLAN, REPORT, WEIGHTS
from trainer.training.growth import schedule

pytestmark = pytest.mark.training

ROOT = Path(__file__).parents[3]
# At larger learning rates Adam turns the rounding of a near-zero gradient into a step.
GENTLE = SHORT.model_copy(update={"learning_rate": 1e-4})


def in_two(what, folder, *arguments):
    """Do something of together.py in two processes; what each of them found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += map(str, [Path(__file__).with_name("together.py"), what, folder / what, *arguments])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-20_000:]  # torchrun says last, and at length, that a process failed
    return [json.loads((folder / f"{what}-{process}").read_text()) for process in range(2)]


def in_two_processes(plan, model, data, output, settings, *, resume=False, evaluation=""):
    """Train under torchrun; what each process ended with, which must be the same."""
    folder = output.parent
    plan.save(folder / "plan.json")
    given = (folder / "plan.json", model, data, output, settings.model_dump_json(), "yes" if resume else "no", evaluation)
    one, other = in_two("train", folder, *given)
    assert one == other
    return one


def assert_close(one, other):
    ours, theirs = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def one(llama_plan, tiny_llama, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "one"
    train(llama_plan, tiny_llama, sentences, folder, GENTLE, evaluation=sentences)
    return folder


@pytest.mark.parametrize("changes", [{}, {"shard": True}, {"shard": True, "gradient_checkpointing": True, "accumulation": 2}])
def test_two_processes_train_what_one_does(llama_plan, tiny_llama, sentences, one, tmp_path, changes):
    two = tmp_path / "two"
    in_two_processes(llama_plan, tiny_llama, sentences, two, GENTLE.model_copy(update=changes), evaluation=sentences)
    assert_close(one, two)
    assert_close(one / BEST, two / BEST)
    losses = [[point.loss for point in RunReport.load(folder / REPORT).curve] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert evaluate(two, sentences).trained["loss"] == pytest.approx(evaluate(one, sentences).trained["loss"], abs=1e-6)


def test_a_sharded_run_goes_on_where_it_was_cut(llama_plan, tiny_llama, sentences, tmp_path):
    settings = GENTLE.model_copy(update={"shard": True})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    in_two_processes(llama_plan, tiny_llama, sentences, whole, settings)
    in_two_processes(llama_plan, tiny_llama, sentences, cut, settings)
    for path in (WEIGHTS, REPORT):
        (cut / path).unlink()
    (newest_checkpoint(cut) / WEIGHTS).write_bytes(b"damaged")  # the run must go back to the checkpoint before
    in_two_processes(llama_plan, tiny_llama, sentences, cut, settings, resume=True)
    assert_same_bytes(whole, cut)


@pytest.fixture(scope="module")
def routed_plan(tiny_olmoe):
    return uniform(tiny_olmoe, "rank 4", max_experts=1)


def test_two_processes_observe_what_one_does_on_the_summed_usage(tmp_path):
    alone, together = observe(None), in_two("observe", tmp_path)
    assert together[0] == together[1]
    assert together[0]["share"] == pytest.approx(alone["share"], rel=1e-6)
    assert together[0]["saliency"] == pytest.approx(alone["saliency"], rel=1e-6)
    assert math.fsum(alone["share"]) == pytest.approx(1, abs=1e-6)


def test_the_main_process_decides_where_the_processes_disagree(routed_plan, tmp_path):
    routed_plan.save(tmp_path / "plan.json")
    alone = disagree(0, tmp_path / "plan.json")
    main, other = in_two("disagree", tmp_path, tmp_path / "plan.json")
    assert main == alone
    assert main["own"] == main["decided"] == other["decided"]
    # the other process would often have decided otherwise
    assert sum(own != decided for own, decided in zip(other["own"], other["decided"], strict=True)) >= 4
    assert (other["plan"], other["digest"]) == (main["plan"], main["digest"])


@pytest.mark.parametrize("shard", [False, True])
def test_experts_grow_alike_in_two_processes(tiny_olmoe, routed_plan, sentences, tmp_path, shard):
    settings = GENTLE.model_copy(update={"max_steps": 60, "grow": True, "shard": shard})
    ended = in_two_processes(routed_plan, tiny_olmoe, sentences, tmp_path / "two", settings)
    events = GrowthHistory.load(tmp_path / "two" / HISTORY).events
    assert [event.step for event in events] == schedule(60, round(60 * settings.warmup), settings)
    final = Plan.load(tmp_path / "two" / PLAN)
    assert final.to_json() == ended["plan"]  # which both processes hold
    assert final.parameters == routed_plan.parameters
    # every layer starts with 4 experts of rank 2 and ends with as much as 4 of rank 4, by an even schedule
    for number, event in enumerate(events, start=1):
        assert {sum(ranks) for ranks in event.ranks.values()} == {8 + 8 * number // 18}
        assert all(math.fsum(share) == pytest.approx(1, abs=1e-4) for share in event.shares.values())
    grown = {
        f"{group.removesuffix('.loraplan')}.{expert}.{part}": (rank,)
        for group, ranks in events[-1].ranks.items()
        for expert, rank in enumerate(ranks)
        for part in ("gate_proj", "up_proj", "down_proj")
    }
    found = resolve((site.name for site in final.sites), list(grown))
    assert len(found) == len(grown) == sum(site.routed for site in final.sites)
    assert all(site.ranks == grown[found[site.name]] for site in final.sites if site.routed)
    # before the first event two processes are one, up to rounding
    alone = settings.model_copy(update={"shard": False})
    train(routed_plan, tiny_olmoe, sentences, tmp_path / "one", alone)
    losses = [[point.loss for point in RunReport.load(tmp_path / name / REPORT).curve] for name in ("one", "two")]
    assert len(losses[0]) == len(losses[1]) == 60
    assert losses[1][: events[0].step] == pytest.approx(losses[0][: events[0].step], abs=1e-5)
    assert all(map(math.isfinite, losses[1]))
    assert losses[1][-1] < losses[1][0]
