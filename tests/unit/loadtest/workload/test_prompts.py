"""Prompts have exactly as many tokens as planned, and share exactly what their blocks share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Metaspace, WhitespaceSplit

from loadtest.workload.prompts import SIMULATED, Prompts, words_of
from loadtest.workload.request import BLOCK_TOKENS
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import demo_folder, is_prepared
from serving.errors import ConfigError
from serving.rendering.tokenizer import PieceTokenizer

DEMO = demo_folder(StatePaths.from_environment())
needs_demo = pytest.mark.skipif(
    not is_prepared(DEMO), reason="the demo model is not prepared: galerne model prepare demo"
)
PROMPTS = Prompts()
NAMES = st.integers(min_value=0, max_value=2**64 - 1)


@st.composite
def prompts_to_write(draw: st.DrawFn) -> tuple[list[int], int]:
    """Names of blocks, and the tokens that they hold."""
    names = draw(st.lists(NAMES, min_size=1, max_size=6))
    return names, BLOCK_TOKENS * (len(names) - 1) + draw(st.integers(1, BLOCK_TOKENS))


@given(prompts_to_write())
@settings(deadline=None, max_examples=50)
def test_a_simulated_engine_counts_what_was_planned(asked: tuple[list[int], int]) -> None:
    text = PROMPTS.text(*asked)
    assert len(PieceTokenizer().encode(text.decode())) == asked[1]
    assert len(text.split(b" ")) == asked[1]


@pytest.fixture(scope="module")
def demo() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@pytest.fixture(scope="module")
def demo_prompts() -> Prompts:
    return Prompts(words_of(DEMO))


@needs_demo
@given(prompts_to_write())
@settings(deadline=None, max_examples=50)
def test_a_real_tokenizer_counts_what_was_planned(
    demo: Tokenizer, demo_prompts: Prompts, asked: tuple[list[int], int]
) -> None:
    text = demo_prompts.text(*asked).decode()
    token_ids = demo.encode(text, add_special_tokens=False).ids
    assert len(token_ids) == asked[1]
    assert demo.decode(token_ids) == text


def words(prompts: Prompts, names: Sequence[int], prompt_tokens: int) -> list[bytes]:
    return prompts.text(names, prompt_tokens).split(b" ")


def num_shared(one: list[bytes], other: list[bytes]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


@given(NAMES, NAMES, NAMES)
@settings(deadline=None)
def test_prompts_share_what_their_blocks_share(shared: int, one: int, other: int) -> None:
    alike = num_shared(words(PROMPTS, (shared, one), 900), words(PROMPTS, (shared, other), 1000))
    if one == other:
        assert alike == 900
    else:
        # Names are written in six words, so the next one tells them apart at the latest.
        assert BLOCK_TOKENS <= alike < BLOCK_TOKENS + 6


def test_consecutive_names_differ_from_their_first_word_on() -> None:
    first = {words(PROMPTS, (name,), 1)[0] for name in range(7 << 32, (7 << 32) + 1000)}
    assert len(first) == 1000


def test_another_salt_makes_other_prompts() -> None:
    one, other = (words(Prompts(salt=salt), (1, 2, 3), 1400) for salt in (0, 1))
    assert num_shared(one, other) < 16
    assert Prompts(salt=1).text((1, 2, 3), 1400) == b" ".join(other)


@given(prompts_to_write())
@settings(deadline=None, max_examples=20)
def test_json_escapes_nothing_of_a_prompt(asked: tuple[list[int], int]) -> None:
    text = PROMPTS.text(*asked)
    assert json.dumps(text.decode()).encode() == b'"' + text + b'"'


def test_the_simulated_words_are_as_many_as_digits_can_be() -> None:
    assert len(set(SIMULATED)) == len(SIMULATED) == 4096


def tokenizer_of(path: Path, vocabulary: Sequence[str], before_words: str = "") -> Path:
    tokens = ["?", *(before_words + word for word in vocabulary)]
    model = WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="?")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Metaspace(before_words) if before_words else WhitespaceSplit()
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("before_words", ["", "▁"])
def test_any_number_of_words_will_do(tmp_path: Path, before_words: str) -> None:
    vocabulary = [f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    path = tmp_path / "tokenizer.json"
    found = words_of(tokenizer_of(path, [*vocabulary, "9", "É", "No"], before_words))
    assert found == tuple(vocabulary)
    prompts = Prompts(found)
    assert len({prompts.text((name,), 11) for name in range(5000)}) == 5000
    assert len(words(prompts, (1, 2), 600)) == 600


@pytest.mark.parametrize("content", [None, "no json", "{}"])
def test_what_is_no_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"there is no tokenizer\.json that can be read"):
        words_of(tmp_path)


def test_a_tokenizer_whose_tokens_reach_over_words_is_refused(tmp_path: Path) -> None:
    """` ab cd` is one token of it, so that how many a prompt has depends on its words."""
    words = [f"{a}{b}" for a in "abcdefghij" for b in "abcdefghij"]
    letters = sorted({letter for word in words for letter in word} | {" "})
    pairs = [(word[0], word[1]) for word in words] + [(" ", word) for word in words]
    merged = [first + second for first, second in pairs]
    tokens = [*letters, *merged, " ab cd"]
    model = BPE({token: i for i, token in enumerate(tokens)}, [*pairs, (" ab", " cd")])
    path = tmp_path / "tokenizer.json"
    Tokenizer(model).save(str(path))
    with pytest.raises(ConfigError, match="its tokens reach over the ends of words"):
        words_of(path)


def test_a_tokenizer_of_few_words_is_refused(tmp_path: Path) -> None:
    path = tokenizer_of(tmp_path / "tokenizer.json", ["a", "b"])
    with pytest.raises(ConfigError, match="only 2 words are one token each"):
        words_of(path)
