"""Runs that several files look at, each trained once, and the models and plans that they are made of."""

import pytest
import torch

import planner
from planner import AllocationSettings
from tests import models
from tests.trainer.examples import SHORT, uniform
from trainer import train
from trainer.base_model import load_tokenizer


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny products gain nothing from several threads, and lose much where a machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def words(tiny_llama):
    """A tokenizer of one token per word and nothing around a text."""
    return load_tokenizer(tiny_llama)


@pytest.fixture(scope="session")
def tiny_olmoe(tmp_path_factory):
    """A two-layer OLMoE of four routed experts, with the tiny Llama's tokenizer."""
    return models.save_built("olmoe", tmp_path_factory.mktemp("models") / "tiny-olmoe")


@pytest.fixture(scope="session")
def llama_plan(tiny_llama):
    """Three experts of rank 1 at most sites of the tiny Llama."""
    return uniform(tiny_llama, "6000", expert_rank=1, max_experts=3)


@pytest.fixture(scope="session")
def lora_plan(tiny_llama):
    """One LoRA at every site of the tiny Llama: what PEFT can express."""
    return uniform(tiny_llama, "3000", max_experts=1)


@pytest.fixture(scope="session")
def run(minilm, uniform_plan, small_corpus, tmp_path_factory):
    """A classifier on MiniLM with mixtures."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(uniform_plan, minilm, small_corpus[0], folder, SHORT.model_copy(update={"learning_rate": 3e-3}))
    return folder


@pytest.fixture(scope="session")
def lora_run(minilm, spectra_report, small_corpus, tmp_path_factory):
    """A classifier on MiniLM with one LoRA per module, of different ranks."""
    plan = planner.allocate("1%", AllocationSettings(strategy="alphalora", max_experts=1), spectra=spectra_report)
    assert len({site.ranks for site in plan.sites}) > 1
    folder = tmp_path_factory.mktemp("runs") / "lora"
    train(plan, minilm, small_corpus[0], folder, SHORT)
    return folder


@pytest.fixture(scope="session")
def language_run(tiny_llama, lora_plan, sentences, tmp_path_factory):
    """A language model with one LoRA per module."""
    folder = tmp_path_factory.mktemp("runs") / "language"
    train(lora_plan, tiny_llama, sentences, folder, SHORT)
    return folder
