# ruff: noqa: E501 - a table
"""Rows as publishers of well-known data sets give them, and what they are read as. The texts are made up; the columns are not."""

import json

from tests.trainer.data.examples import said, talk, turns


def role(name, content, **more):
    return {"role": name, "content": content} | more


def speaker(name, value, **more):
    return {"from": name, "value": value} | more


CALL = {"name": "look", "arguments": {"at": "list"}}
CALLED = {"type": "function", "function": CALL}
TOOL = {"name": "look", "description": "looks", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
TOOLS = json.dumps([{"type": "function", "function": TOOL}])
BARE = [role("user", "q"), role("assistant", "a")]
QA, SQA = talk(*turns("q", "a")), talk(*turns("q", "a", system="s"))
TWO = talk(*turns("q", "a", "r", "b"))
CHOICES = {"prompt": "q", "choices": ["x", "y", "z"], "answer": 1}
PREFERENCE, NO_FORMAT = "preference data", "fit no known format"

TRAINED = {
    "tatsu-lab/alpaca": ({"instruction": "i", "input": "n", "output": "a", "text": "t"}, talk(*turns("i\nn", "a"))),
    "LLaMA-Factory alpaca": (
        {"instruction": "r", "input": "", "output": "b", "system": "s", "history": [["q", "a"]]},
        talk(*turns("q", "a", "r", "b", system="s")),
    ),
    "databricks/databricks-dolly-15k": (
        {"instruction": "i", "context": "c", "response": "a", "category": "qa"}, talk(*turns("i\nc", "a"))
    ),
    "openai/gsm8k": ({"question": "q", "answer": "a"}, QA),
    "meta-math/MetaMathQA": ({"type": "t", "query": "q", "original_question": "o", "response": "a"}, QA),
    "GAIR/lima": ({"conversations": ["q", "a"], "source": "s"}, QA),
    "LDJnr/Capybara": (
        {"source": "s", "conversation": [{"input": "q", "output": "a"}, {"input": "r", "output": "b"}]}, TWO
    ),
    "allenai/WildChat-1M": (
        {"conversation_hash": "h", "model": "m", "conversation": [role("user", "q", language="English", toxic=False),
         role("assistant", "a", language="English", toxic=False)], "turn": 1, "language": "English", "redacted": False}, QA,
    ),
    "lmsys/lmsys-chat-1m": ({"conversation_id": "i", "model": "m", "conversation": BARE, "turn": 1, "language": "English"}, QA),
    "glaiveai/glaive-function-calling-v2": (
        {"system": "SYSTEM: s", "chat": "USER: q\n\n\nASSISTANT: <functioncall> {} <|endoftext|>\n\n\nFUNCTION RESPONSE: f\n\n\n"
         "ASSISTANT: a <|endoftext|>"},
        talk(said("system", "s"), said("user", "q"), said("assistant", "<functioncall> {}"), said("tool", "f"), said("assistant", "a")),
    ),
    "stanfordnlp/sst2": ({"idx": 0, "sentence": "t", "label": 1}, {"text": "t", "label": "1"}),
    "nyu-mll/multi_nli": (
        {"promptID": 1, "pairID": "p", "premise": "t", "premise_binary_parse": "b", "hypothesis": "h", "genre": "g", "label": 2},
        {"text": "t", "pair": "h", "label": "2"},
    ),
    "SetFit/mnli": (
        {"text1": "t", "text2": "h", "label": 2, "idx": 0, "label_text": "contradiction"},
        {"text": "t", "pair": "h", "label": "contradiction"},
    ),
    "glue/qqp": ({"question1": "t", "question2": "h", "label": 0, "idx": 1}, {"text": "t", "pair": "h", "label": "0"}),
    "glue/qnli": ({"question": "t", "sentence": "h", "label": 0, "idx": 1}, {"text": "t", "pair": "h", "label": "0"}),
    "glue/mrpc": ({"sentence1": "t", "sentence2": "h", "label": 0, "idx": 1}, {"text": "t", "pair": "h", "label": "0"}),
    "rajpurkar/squad": (
        {"id": "i", "title": "t", "context": "c", "question": "q", "answers": {"text": ["a", "b"], "answer_start": [0, 1]}},
        talk(*turns("c\n\nq", "a")),
    ),
    "axolotl input_output": (
        {"segments": [{"label": True, "text": "<s>Hi\n"}, {"label": False, "text": "q"}]},
        {"segments": [{"text": "<s>Hi\n", "learned": True}, {"text": "q", "learned": False}]},
    ),
    "OpenAI chat": ({"messages": [role("system", "s"), *BARE]}, SQA),
    "OpenAI chat with weights": (
        {"messages": [role("user", "q"), role("assistant", "a", weight=0), role("user", "r"), role("assistant", "b", weight=1)]},
        talk(said("user", "q"), said("assistant", "a", learned=False), said("user", "r"), said("assistant", "b")),
    ),
    "OpenAI tools": (
        {"messages": [role("user", "q"), role("assistant", None, tool_calls=[{"id": "c1", "type": "function", "function":
         {"name": "look", "arguments": "{\"at\": \"list\"}"}}])], "parallel_tool_calls": False,
         "tools": [{"type": "function", "function": TOOL}]},
        talk(said("user", "q"), said("assistant", "", tool_calls=[{"id": "c1"} | CALLED]), tools=TOOLS),
    ),
    "OpenAI functions": (
        {"messages": [role("user", "q"), role("assistant", None, function_call={"name": "look", "arguments": "{\"at\": \"list\"}"})],
         "functions": [TOOL]},
        talk(said("user", "q"), said("assistant", "", tool_calls=[CALLED]), tools=TOOLS),
    ),
    "OpenAI parts": (
        {"messages": [role("user", [{"type": "text", "text": "q"}]), role("assistant", [{"type": "text", "text": "a"}])]}, QA
    ),
    "OpenAI vision": (
        {"messages": [role("user", [{"type": "image_url", "image_url": {"url": "u"}}]), role("assistant", "a")]}, "image_url"
    ),
    "TRL prompt and completion": ({"prompt": "q", "completion": " a"}, {"prompt": "q", "completion": " a"}),
    "TRL conversational prompt and completion": (
        {"prompt": [role("user", "q")], "completion": [role("assistant", "a")]}, QA
    ),
    "TRL tools as JSON": (
        {"messages": [role("user", "q"), role("assistant", "", tool_calls=[CALLED])], "tools": json.dumps([TOOL])},
        talk(said("user", "q"), said("assistant", "", tool_calls=[CALLED]), tools=TOOLS),
    ),
    "ShareGPT": ({"id": "i", "conversations": [speaker("human", "q"), speaker("gpt", "a")]}, QA),
    "ShareGPT with system": ({"system": "s", "conversations": [speaker("human", "q"), speaker("gpt", "a")]}, SQA),
    "LLaMA-Factory tools": (
        {"conversations": [speaker("human", "q"), speaker("function_call", json.dumps(CALL)), speaker("observation", "f"),
         speaker("gpt", "a")], "tools": json.dumps([TOOL]), "system": ""},
        talk(said("user", "q"), said("assistant", "", tool_calls=[CALLED]), said("tool", "f"), said("assistant", "a"), tools=TOOLS),
    ),
    "Open-Orca/OpenOrca": ({"id": "i", "system_prompt": "s", "question": "q", "response": "a"}, SQA),
    "Open-Orca/SlimOrca": (
        {"conversations": [speaker("system", "s", weight=None), speaker("human", "q", weight=0.0), speaker("gpt", "a", weight=1.0)]},
        SQA,
    ),
    "HuggingFaceH4/ultrachat_200k": ({"prompt": "q", "prompt_id": "i", "messages": BARE}, QA),
    "HuggingFaceH4/no_robots": ({"prompt": "q", "prompt_id": "i", "messages": BARE, "category": "c"}, QA),
    "teknium/OpenHermes-2.5": (
        {"custom_instruction": None, "topic": None, "model": None, "conversations": [speaker("human", "q", weight=None),
         speaker("gpt", "a", weight=None)], "system_prompt": None, "skip_prompt_formatting": False, "category": "c"}, QA,
    ),
    "AI-MO/NuminaMath-CoT": ({"source": "s", "problem": "q", "solution": "a", "messages": BARE}, QA),
    "hendrycks/competition_math": ({"problem": "q", "level": "1", "type": "t", "solution": "a"}, QA),
    "HuggingFaceH4/MATH-500": (
        {"problem": "q", "solution": "a", "answer": "1", "subject": "s", "level": 1, "unique_id": "u"}, "answer=answer"
    ),
    "nvidia/OpenMathInstruct-2": (
        {"problem": "q", "generated_solution": "a", "expected_answer": "1", "problem_source": "s"}, QA
    ),
    "microsoft/orca-math-word-problems-200k": ({"question": "q", "answer": "a"}, QA),
    "sahil2801/CodeAlpaca-20k": ({"instruction": "q", "input": "", "output": "a"}, QA),
    "ise-uiuc/Magicoder-OSS-Instruct-75K": (
        {"lang": "python", "raw_index": 1, "index": 2, "seed": "s", "openai_fingerprint": "f", "problem": "q", "solution": "a"}, QA
    ),
    "open-thoughts/OpenThoughts-114k": (
        {"system": "s", "conversations": [speaker("user", "q"), speaker("assistant", "a")]}, SQA
    ),
    "NousResearch/hermes-function-calling-v1": (
        {"id": "i", "conversations": [speaker("system", "s"), speaker("human", "q"), speaker("gpt", "a"), speaker("tool", "f"),
         speaker("gpt", "b")], "tools": json.dumps([TOOL]), "category": "c", "subcategory": "u", "task": "t"},
        talk(said("system", "s"), said("user", "q"), said("assistant", "a"), said("tool", "f"), said("assistant", "b"), tools=TOOLS),
    ),
    "Team-ACE/ToolACE": ({"system": "s", "conversations": [speaker("user", "q"), speaker("assistant", "a")]}, SQA),
    "Salesforce/xlam-function-calling-60k": (
        {"id": 0, "query": "q", "answers": json.dumps([CALL]), "tools": json.dumps([TOOL])},
        talk(said("user", "q"), said("assistant", "", tool_calls=[CALLED]), tools=TOOLS),
    ),
    "messages with reasoning_content": (
        {"messages": [role("user", "q"), role("assistant", "a", reasoning_content="t")]},
        talk(said("user", "q"), said("assistant", "a", reasoning_content="t")),
    ),
    "Anthropic/hh-rlhf": ({"chosen": "Human: q", "rejected": "Human: q"}, PREFERENCE),
    "HuggingFaceH4/ultrafeedback_binarized": (
        {"prompt": "q", "prompt_id": "i", "chosen": BARE, "rejected": BARE, "messages": BARE, "score_chosen": 1.0}, PREFERENCE
    ),
    "LLaMA-Factory KTO": ({"messages": BARE, "label": False}, PREFERENCE),
    "liuhaotian/LLaVA-Instruct-150K": (
        {"id": "i", "image": "boat.jpg", "conversations": [speaker("human", "<image>\nq"), speaker("gpt", "a")]}, "column image"
    ),
    "simplescaling/s1K": (
        {"solution": "9", "question": "q", "cot_type": "math", "attempt": "a", "thinking_trajectories": ["t"]},
        "may both be the answer",
    ),
    "trl-lib/kto-mix-14k": ({"prompt": BARE[:1], "completion": BARE[1:], "label": True}, PREFERENCE),
    "ms-swift preference": ({"messages": BARE, "rejected_response": "b"}, PREFERENCE),
    "trl-lib/math_shepherd": ({"prompt": "q", "completions": ["a", "b"], "labels": [True, False]}, PREFERENCE),
    "stanfordnlp/imdb": ({"text": "t", "label": 0}, {"text": "t", "label": "0"}),
    "SetFit/ag_news": ({"text": "t", "label": 2, "label_text": "Business"}, {"text": "t", "label": "Business"}),
    "PolyAI/banking77": ({"text": "t", "label": 11}, {"text": "t", "label": "11"}),
    "Muennighoff/flan": ({"inputs": "q", "targets": "a", "task": "t"}, QA),
    "CohereForAI/aya_dataset": (
        {"inputs": "q", "targets": "a", "language": "English", "language_code": "eng", "annotation_type": "o", "user_id": "u"}, QA
    ),
    "Salesforce/wikitext": ({"text": "t"}, {"text": "t"}),
    "HuggingFaceFW/fineweb": (
        {"text": "t", "id": "i", "dump": "d", "url": "u", "date": "d", "language": "en", "language_score": 0.9, "token_count": 3},
        {"text": "t"},
    ),
    "OpenAssistant/oasst1": (
        {"message_id": "m", "parent_id": None, "user_id": "u", "text": "t", "role": "prompter", "lang": "en"}, "a tree of messages"
    ),
    "allenai/tulu-3-sft-mixture": ({"id": "i", "messages": BARE, "source": "s"}, QA),
    "HuggingFaceTB/smoltalk2": ({"messages": BARE, "chat_template_kwargs": {"enable_thinking": False}, "source": "s"}, QA),
    "EdinburghNLP/xsum": ({"document": "q", "summary": "a", "id": "i"}, QA),
    "abisee/cnn_dailymail": ({"article": "q", "highlights": "a", "id": "i"}, QA),
    "wmt/wmt19": ({"translation": {"en": "q", "de": "a"}}, NO_FORMAT),
}  # fmt: skip
"""Data set -> a row, and the canonical row or a part of the refusal."""

EVALUATED = {
    "cais/mmlu": ({"question": "q", "subject": "s", "choices": ["x", "y", "z"], "answer": 1}, CHOICES),
    "TIGER-Lab/MMLU-Pro": (
        {"question_id": 1, "question": "q", "options": ["x", "y", "z"], "answer": "B", "answer_index": 1, "cot_content": "", "category": "c"},
        CHOICES,
    ),
    "Rowan/hellaswag": (
        {"ind": 1, "activity_label": "l", "ctx_a": "a", "ctx_b": "b", "ctx": "q", "endings": ["x", "y", "z"], "source_id": "s",
         "split": "val", "split_type": "i", "label": "1"}, CHOICES,
    ),
    "allenai/ai2_arc": (
        {"id": "i", "question": "q", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "B"}, CHOICES
    ),
    "tau/commonsense_qa": (
        {"id": "i", "question": "q", "question_concept": "c", "choices": {"label": ["A", "B", "C"], "text": ["x", "y", "z"]},
         "answerKey": "B"}, CHOICES,
    ),
    "allenai/openbookqa": (
        {"id": "i", "question_stem": "q", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "B"}, CHOICES
    ),
    "ybisk/piqa": ({"goal": "q", "sol1": "x", "sol2": "y", "label": 1}, CHOICES | {"choices": ["x", "y"]}),
    "ehovy/race": (
        {"example_id": "i", "article": "c", "question": "q", "options": ["x", "y", "z"], "answer": "B"}, CHOICES | {"prompt": "c\n\nq"}
    ),
    "allenai/sciq": (
        {"question": "q", "distractor1": "x", "distractor2": "y", "distractor3": "w", "correct_answer": "z", "support": "c"},
        {"prompt": "c\n\nq", "choices": ["x", "y", "w", "z"], "answer": 3},
    ),
    "truthfulqa/truthful_qa": (
        {"question": "q", "mc1_targets": {"choices": ["x", "y", "z"], "labels": [0, 1, 0]},
         "mc2_targets": {"choices": ["x", "y", "z"], "labels": [0, 1, 1]}}, CHOICES,
    ),
    "allenai/social_i_qa": (
        {"context": "c", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "label": "2"},
        CHOICES | {"prompt": "c\n\nq"},
    ),
    "openlifescienceai/medmcqa": (
        {"id": "i", "question": "q", "opa": "x", "opb": "y", "opc": "z", "opd": "w", "cop": 1, "exp": "e"},
        CHOICES | {"choices": ["x", "y", "z", "w"]},
    ),
    "google/bigbench": (
        {"idx": 0, "inputs": "q", "targets": ["y"], "multiple_choice_targets": ["x", "y", "z"], "multiple_choice_scores": [0, 1, 0]},
        CHOICES,
    ),
    "aps/super_glue copa": ({"premise": "p", "choice1": "x", "choice2": "y", "question": "cause", "label": 0, "idx": 0}, NO_FORMAT),
}  # fmt: skip
"""Data set of multiple-choice questions -> the same."""
