"""The documented way into lm-evaluation-harness, where it is installed: its numbers are those of the run."""

import pytest
import torch
import transformers

from tests.trainer.examples import SHORT, uniform
from trainer import load_adapters, train


@pytest.mark.training
@pytest.mark.filterwarnings("ignore")  # theirs are not ours to mend
def test_the_harness_scores_a_mixture(tiny_llama, sentences, tmp_path):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    plan = uniform(tiny_llama, "6000", expert_rank=1, max_experts=2)
    train(plan, tiny_llama, sentences, tmp_path / "run", SHORT.model_copy(update={"max_steps": 10}))
    model = load_adapters(tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    harness = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu")
    prompt, continuation = "one two", " three"
    request = Instance(request_type="loglikelihood", doc={}, arguments=(prompt, continuation), idx=0)
    ((found, _),) = harness.loglikelihood([request], disable_tqdm=True)
    before, ids = (harness.tok_encode(text) for text in (prompt, prompt + continuation))
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)[0]
    expected = sum(float(logits[at - 1, ids[at]]) for at in range(len(before), len(ids)))
    assert found == pytest.approx(expected, abs=1e-4)
