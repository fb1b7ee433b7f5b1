"""A tokenizer that appends an end token to every text, and optionally prepends a start token."""

from tokenizers import processors

from nestling.data import byte_tokenizer
from nestling.data.tokenizer import END, PAD


def ending_tokenizer(*, begins: bool = False):
    """Bytes, the end token (0) after each text; with ``begins`` the padding (1) before it."""
    tokenizer = byte_tokenizer()
    single = f"{PAD} $A {END}" if begins else f"$A {END}"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(END, 0), (PAD, 1)]
    )
    return tokenizer
