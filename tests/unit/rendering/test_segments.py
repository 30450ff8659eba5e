"""Tokenizing in segments gives what tokenizing in one gives, and does nothing twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from serving.rendering import segments
from serving.rendering.segments import SegmentedTokenizer

CORPUS = [
    "The north-west wind brings rain, and the sea carries every ship to the far shore again.",
    "def apply(self, events):\n    for event in events:\n        yield event + 1\n\n" * 3,
    "Ça souffle: l'été 1789, naïve & (x == y); 12345 67 8\t\tand so  on ...",
]
SPECIAL = ["<s>", "</s>", "[INST]", "[/INST]", "[INST", "<pad>"]
NO_LIMIT = 1 << 30
LONG = " ".join(f"Turn {number}: the wind is north, {number} knots." for number in range(2000))


def trained(kind: str) -> Tokenizer:
    """A byte-level, a Metaspace or a Llama-2 tokenizer of the corpus."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=kind != "bytes", unk_token=None))
    match kind:
        case "bytes":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
        case _:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    if kind == "llama-2":
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


KINDS = ["bytes", "metaspace", "llama-2"]
TOKENIZERS = {kind: trained(kind) for kind in KINDS}
PARTS = st.one_of(
    st.sampled_from([*SPECIAL, *CORPUS, " ", "\n", "  ", " a", "b c", "▁", "🌊"]),
    st.text(max_size=20),
)


@pytest.mark.parametrize("kind", KINDS)
@given(parts=st.lists(PARTS, max_size=30), special=st.booleans())
def test_the_tokens_are_the_same(kind: str, parts: list[str], special: bool) -> None:
    tokenizer = TOKENIZERS[kind]
    text = "".join(parts).encode(errors="ignore").decode()
    segmented = SegmentedTokenizer(tokenizer, max_bytes=NO_LIMIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_LONG_CHARS", 16)
        found = segmented.encode(text, add_special_tokens=special).tolist()
    assert found == tokenizer.encode(text, add_special_tokens=special).ids


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_is_not_tokenized_again(kind: str) -> None:
    segmented = SegmentedTokenizer(TOKENIZERS[kind], max_bytes=NO_LIMIT)
    first = segmented.encode(f"[INST]{LONG}[/INST]", add_special_tokens=True)
    assert segmented.num_tokenized_chars == len(LONG) + 13
    more = " And what does the sea do, then?"
    segmented.encode(f"[INST]{LONG}{more}[/INST]", add_special_tokens=True)
    again = segmented.num_tokenized_chars - len(LONG) - 13
    assert again < 3000 < len(LONG) // 10
    third = segmented.encode(f"[INST]{LONG}[/INST]", add_special_tokens=True)
    assert third.tolist() == first.tolist()
    assert segmented.num_tokenized_chars == len(LONG) + 13 + again


def test_memory_is_bounded() -> None:
    segmented = SegmentedTokenizer(TOKENIZERS["bytes"], max_bytes=20_000)
    for number in range(50):
        segmented.encode(f"[INST]{number} {LONG[:8000]}", add_special_tokens=False)
    assert segmented._num_bytes <= 20_000
    assert segmented._num_bytes == sum(
        ids.nbytes + segments._OVERHEAD_BYTES for ids in segmented._known.values()
    )


def test_nothing_is_empty() -> None:
    segmented = SegmentedTokenizer(TOKENIZERS["bytes"], max_bytes=NO_LIMIT)
    assert segmented.encode("", add_special_tokens=False).tolist() == []
    assert len(segmented.encode("", add_special_tokens=True)) == 1


def test_a_tokenizer_that_joins_words_is_left_alone() -> None:
    """One whose tokens reach over spaces cannot be cut there."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.train_from_iterator(
        ["go on and on"] * 9, trainers.BpeTrainer(vocab_size=60, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    assert len(tokenizer.encode("go on and on").ids) == 1
    segmented = SegmentedTokenizer(tokenizer, max_bytes=NO_LIMIT)
    text = "go on and on " * 500
    assert re.search("on and", text)
    assert segmented.encode(text, add_special_tokens=False).tolist() == tokenizer.encode(text).ids
