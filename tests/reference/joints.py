"""Token ids of text in segments, slowly: from the ids that every beginning of the text has alone."""


def ids_of(text, tokenizer, starts_text=True):
    """Of a text that follows another, without the space that some tokenizers put before a text's beginning."""
    alone = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    first = tokenizer.convert_ids_to_tokens(tokenizer("x", add_special_tokens=False)["input_ids"])[0]
    if starts_text or not first.startswith(("▁", "Ġ")):
        return alone
    for guard in "\nx.0":
        before, both = (tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"] for part in (guard, guard + text))
        if both[: len(before)] == before:
            return both[len(before) :]
    return alone


def token_ids(texts, tokenizer, starts_text=True):
    """What each segment adds to the ids of the text before it; where that has other ids then, the rest anew."""
    parts, done = [], []
    for number in range(len(texts)):
        ids = ids_of("".join(texts[: number + 1]), tokenizer, starts_text)
        if ids[: len(done)] != done:
            return parts + token_ids(texts[number:], tokenizer, starts_text=False)
        parts.append(ids[len(done) :])
        done = ids
    return parts
