"""Chat templates that can be chosen by name, and files of them."""

from pathlib import Path

from spectra import InputError
from spectra.core.files import require_regular

LIBRARY = Path(__file__).parent / "library"
MOST_BYTES = 2**20


def names() -> list[str]:
    """The names of the templates that come with loraplan."""
    return sorted(path.stem for path in LIBRARY.glob("*.jinja"))


def template_text(chosen: str) -> str:
    """The text of a chat template.

    Args:
        chosen: one of `names`, or a file.

    Raises:
        InputError: neither, or a file that is no text or too large.
    """
    path = LIBRARY / f"{chosen}.jinja" if chosen in names() else Path(chosen)
    if not path.is_file():
        raise InputError(f"`chat_template` {chosen!r} is neither a file nor one of {', '.join(names())}")
    require_regular(path)
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes are too many for a chat template")
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable text: {error}") from None
    if "messages" not in text:
        raise InputError(f"{path}: not a chat template, because it never says `messages`")
    return text
