"""Conversations under the many forms that data sets give them -> canonical messages.

A canonical message is {role, content, learned, more}: `learned` says whether the loss counts it, `more` is the JSON text of what
it has beside its content (a thought, tool calls, a call's id, a name), or nothing.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from spectra import InputError
from trainer.data.formats.fields import Fields, needed, parsed, shown

Message = dict[str, Any]
ROLES = {
    "system": "system", "developer": "developer", "user": "user", "assistant": "assistant", "tool": "tool",
    "human": "user", "prompter": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "function": "tool", "observation": "tool", "function_response": "tool",
    "ipython": "tool", "tool_response": "tool",
    "function_call": "assistant", "function-call": "assistant", "tool_call": "assistant",
}  # fmt: skip
"""A speaker's name, in small letters -> role."""
CALLS = ("function_call", "function-call", "tool_call")
"""Speakers whose turn is a call of a tool, written as JSON."""
FLAGS = ("weight", "train", "trainable")
"""Keys of a turn by which its publisher says whether it is to be learned."""
SPEAKER, SAID = ("role", "from", "speaker"), ("content", "value", "text")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
PAIRS = (("input", "output"), ("user", "assistant"), ("human", "assistant"), ("instruction", "output"), ("question", "answer"))
"""Keys of turns that hold a question and its answer."""
PICTURES = ("image", "image_url", "audio", "input_audio", "video", "input_image")


def message(role: str, content: str, *, learned: bool | None = None, **more: Any) -> Message:
    """A canonical message; an assistant's is learned unless `learned` says otherwise."""
    kept = {name: value for name, value in more.items() if value not in (None, "", [])}
    found = role == "assistant" if learned is None else learned
    return {
        "role": role,
        "content": content,
        "learned": found,
        "more": json.dumps(kept, ensure_ascii=False) if kept else "",
    }


def canonical(row: Fields, turns: Sequence[Message]) -> dict[str, Any]:
    """A canonical row of messages, with the system turn and the tools that the row keeps in columns of their own.

    Raises:
        InputError: two different system turns, tools that are no list, or nothing to learn.
    """
    turns = _with_system(row, turns)
    asked = next((number for number, turn in enumerate(turns) if turn["role"] != "assistant"), len(turns))
    # An answer that nobody asked for, such as a greeting, is read and not learned.
    turns = [turn | {"learned": turn["learned"] and number > asked} for number, turn in enumerate(turns)]
    if not any(turn["learned"] for turn in turns):
        raise InputError(_nothing(row, turns))
    return {"messages": turns, "tools": tools_of(row)}


def _nothing(row: Fields, turns: Sequence[Message]) -> str:
    name = row.column("messages")
    answers = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answers:
        return f"{name} has no assistant turn among {len(turns)}; add one or remove the row"
    if len(answers) == len(turns) or answers == [0]:
        return f"{name} begins with the assistant's turn and has no other; put a user's turn before it or remove the row"
    return f"{name} has no assistant turn that is to be learned; remove the row"


def _with_system(row: Fields, turns: Sequence[Message]) -> list[Message]:
    text = row.optional("system")
    if not text:
        return list(turns)
    if turns and turns[0]["role"] == "system":
        if turns[0]["content"] != text:
            raise InputError(
                f"{row.column('system')} is {shown(text)}, and the first turn, a system turn too, {shown(turns[0]['content'])};"
                " keep one of them"
            )
        return list(turns)
    return [message("system", text), *turns]


def tools_of(row: Fields) -> str:
    """The tools that a row offers, as JSON text in OpenAI's form; nothing if there are none.

    Raises:
        InputError: tools that are no list of objects with names.
    """
    value = row.parsed("tools")
    if not value:
        return ""
    if isinstance(value, str) or not isinstance(value, list):
        raise InputError(f"{row.column('tools')} is {shown(value)}; it must be a list of tools, or its JSON text")
    found = [parsed(tool, row.column("tools")) for tool in value]
    for number, tool in enumerate(found):
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
            raise InputError(f"{row.column('tools')}[{number}] is {shown(tool)}; it must be an object with a name")
    wrapped = [tool if "function" in tool else {"type": "function", "function": tool} for tool in found]
    return json.dumps([_without_nothing(tool) for tool in wrapped], ensure_ascii=False)


def _without_nothing(value: Any) -> Any:
    """A value without the empty fields that columns of a table add to every object in them."""
    if isinstance(value, dict):
        return {name: _without_nothing(inner) for name, inner in value.items() if inner is not None}
    return [_without_nothing(inner) for inner in value] if isinstance(value, list) else value


def conversation(row: Fields) -> dict[str, Any]:
    """Turns in a list: {role, content}, {from, value}, {input, output}, or texts that take turns beginning with the user's."""
    return canonical(row, turns_of(row, "messages"))


def prompt_and_completion(row: Fields) -> dict[str, Any]:
    """A prompt and a completion that are lists of turns, as TRL has them; the completion's are learned."""
    given = [turn | {"learned": False} for turn in turns_of(row, "prompt")]
    return canonical(row, [*given, *turns_of(row, "completion")])


def turns_of(row: Fields, field: str) -> list[Message]:
    """The messages of a field.

    Raises:
        InputError: the turn, and what is wrong with it.
    """
    name, turns = row.column(field), row.parsed(field)
    if not isinstance(turns, list) or not turns:
        raise InputError(
            f"{name} is {shown(turns)}; it must be a list of {{role, content}} or {{from, value}}, one turn at least"
        )
    if all(isinstance(turn, str) for turn in turns):
        return [
            message(("user", "assistant")[number % 2], needed(turn, f"{name}[{number}]")) for number, turn in enumerate(turns)
        ]
    found: list[Message] = []
    for number, turn in enumerate(turns):
        place = f"{name}[{number}]"
        if not isinstance(turn, dict):
            raise InputError(f"{place} is {shown(turn)}; it must be an object with role and content")
        pair = next((pair for pair in PAIRS if set(pair) <= turn.keys()), None)
        if pair and not any(key in turn for key in SPEAKER):
            found += [
                message(role, needed(turn[key], f"{place}.{key}")) for role, key in zip(("user", "assistant"), pair, strict=True)
            ]
        else:
            found.append(_turn(turn, place, row))
    return found


def _turn(turn: dict[str, Any], place: str, row: Fields) -> Message:
    speaker = next((key for key in SPEAKER if turn.get(key) is not None), SPEAKER[0])
    said = next((key for key in SAID if key in turn), SAID[0])
    name = turn.get(speaker)
    role = row.roles.get(name) or ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        known = ", ".join(list(ROLES)[:5])
        raise InputError(f"{place}: {speaker} is {shown(name)}; use one of {known}, or say by `role_map` which of them it is")
    content, more = _content(turn.get(said), f"{place}: {said}"), _more(turn, place)
    if isinstance(name, str) and name.lower() in CALLS:
        content, more = "", more | {"tool_calls": _calls(content, f"{place}: {said}")}
    if not content.strip() and not more.get("tool_calls"):
        needed(turn.get(said), f"{place}: {said}")
    return message(role, content, learned=_learned(turn, role, place), **more)


def _content(value: Any, place: str) -> str:
    """What a turn says: a text, parts with texts, or nothing.

    Raises:
        InputError: anything else; pictures and sounds by name.
    """
    if value is None:
        return ""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            kind = part.get("type", "text")
            if kind in PICTURES or any(part.get(key) is not None for key in PICTURES):
                raise InputError(
                    f"{place}[{number}] is of type {kind}; images, sounds and videos cannot be learned from, so remove it"
                )
            if not isinstance(part.get("text"), str):
                raise InputError(f"{place}[{number}] is {shown(part)}; a part must have a text")
        return "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise InputError(f"{place} is {shown(value)}; it must be text that is not blank")
    return value


def _more(turn: dict[str, Any], place: str) -> dict[str, Any]:
    """What a turn has beside its content, under the names of OpenAI's format."""
    thought = next((key for key in THOUGHTS if turn.get(key)), THOUGHTS[0])
    if turn.get(thought) and not isinstance(turn[thought], str):
        raise InputError(f"{place}: {thought} is {shown(turn[thought])}; it must be text or left out")
    more = {"reasoning_content": turn.get(thought), "tool_call_id": turn.get("tool_call_id"), "name": turn.get("name")}
    calls = [
        *_calls(turn.get("tool_calls"), f"{place}: tool_calls"),
        *_calls(turn.get("function_call"), f"{place}: function_call"),
    ]
    return more | {"tool_calls": calls}


def _calls(value: Any, place: str) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form, their arguments as an object.

    Raises:
        InputError: a call without a name, or arguments that are neither an object nor its JSON text.
    """
    found = parsed(value, place)
    if not found:
        return []
    calls = []
    for number, call in enumerate(found if isinstance(found, list) else [found]):
        call = parsed(call, f"{place}[{number}]")
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise InputError(f"{place}[{number}] is {shown(call)}; a call must be an object with a name and arguments")
        arguments = inner.get("arguments", inner.get("parameters"))
        arguments = parsed(arguments, f"{place}[{number}]: arguments") if arguments not in (None, "") else {}
        if not isinstance(arguments, dict):
            raise InputError(f"{place}[{number}]: arguments are {shown(arguments)}; give an object, or its JSON text")
        made = {"type": "function", "function": {"name": inner["name"], "arguments": _without_nothing(arguments)}}
        calls.append(({"id": call["id"]} if call.get("id") else {}) | made)
    return calls


def _learned(turn: dict[str, Any], role: str, place: str) -> bool:
    """Whether a turn is learned: an assistant's, unless its publisher says otherwise.

    Raises:
        InputError: a flag that is neither yes nor no, or yes at a turn that is not the assistant's.
    """
    said = {name: turn[name] for name in FLAGS if turn.get(name) is not None}
    if odd := next((name for name, value in said.items() if value not in (0, 1)), None):
        raise InputError(f"{place}: {odd} is {shown(said[odd])}; it must be 0 or 1")
    if role != "assistant" and (odd := next((name for name in ("train", "trainable") if said.get(name)), None)):
        raise InputError(f"{place}: {odd} is {shown(said[odd])}, but only the assistant's turns are learned; use `loss_on` all")
    return role == "assistant" and all(said.values())


def alpaca(row: Fields) -> dict[str, Any]:
    """`input` follows the instruction on a line of its own; `history`, pairs of user and assistant, comes before."""
    turns = []
    for number, pair in enumerate(_history(row), start=1):
        place = f"{row.column('history')} pair {number}: "
        turns += [message(role, needed(text, place + role)) for role, text in zip(("user", "assistant"), pair, strict=True)]
    given = row.optional("input")
    turns.append(message("user", row.needed("instruction") + (f"\n{given}" if given else "")))
    return canonical(row, [*turns, message("assistant", row.needed("output"))])


def _history(row: Fields) -> list[Sequence[Any]]:
    pairs = row.parsed("history")
    pairs = [] if pairs is None else pairs
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"{row.column('history')} is {shown(pairs)}; it must be a list of [user, assistant] pairs")
    return pairs


def question(row: Fields) -> dict[str, Any]:
    """A question to the assistant and its answer; what the question is about, in a column of its own, stands before it."""
    before, asked = row.optional("context"), row.needed("question")
    user = message("user", f"{before}\n\n{asked}" if before else asked)
    return canonical(row, [user, _answer(row)])


def _answer(row: Fields) -> Message:
    """Of several reference answers the first; calls of the row's tools, written as JSON, as calls."""
    name, value = row.column("answer"), row.get("answer")
    if row.get("tools") and isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        return message("assistant", "", tool_calls=_calls(value, name))
    if isinstance(value, dict) and isinstance(value.get("text"), list):  # SQuAD's
        value = value["text"]
    if isinstance(value, list):
        value = value[0] if value else None
    return message("assistant", needed(value, name))


SPEAKS = re.compile(r"\s*(?:^|\n)\s*(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):\s*")
SPEAKER_OF = {"SYSTEM": "system", "USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}


def written_chat(row: Fields) -> dict[str, Any]:
    """A conversation in one text, each turn after its speaker's name in capitals (Glaive)."""
    name, text = row.column("chat"), row.needed("chat")
    before, *found = SPEAKS.split(text)
    if before.strip() or not found:
        raise InputError(f"{name} is {shown(text)}; it must begin with USER: or SYSTEM:")
    turns = [
        message(SPEAKER_OF[speaker], needed(said.replace("<|endoftext|>", "").strip(), f"{name}: {speaker}"))
        for speaker, said in zip(found[::2], found[1::2], strict=True)
    ]
    system = row.optional("system")
    return canonical(row.having(system=system.removeprefix("SYSTEM:").strip()), turns)
