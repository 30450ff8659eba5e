"""The tokenizer that needs no model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rendering.tokenizer import Chat, PieceTokenizer

TOKENIZER = PieceTokenizer()
OTHER = PieceTokenizer()
QUESTION = {"role": "user", "content": "Where does the river end?"}


@given(st.text(max_size=80))
def test_pieces_lose_nothing(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert all(0 <= token_id < TOKENIZER.vocab_size for token_id in ids)
    # Different pieces may share an id, one pair in a hundred thousand.
    assert len(TOKENIZER.decode(ids)) >= len(ids)
    OTHER.encode(text[::-1])
    assert ids == OTHER.encode(text), "ids depend on what was seen before"


def test_a_text_comes_back() -> None:
    text = "Ça souffle en galerne: vent d'ouest à nord-ouest 🌊, 2026 times\n\n  over_and_over."
    tokenizer = PieceTokenizer()  # Of many texts, two pieces may have the same id.
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_english_has_about_as_many_tokens_as_in_real_models() -> None:
    text = "The simulator answers with short words that a dictionary holds, one token for each. "
    assert len(text) / len(TOKENIZER.encode(text)) == pytest.approx(4.5, abs=0.8)


def test_unknown_ids_are_question_marks() -> None:
    assert PieceTokenizer().decode([99_999, 99_998]) == "??"


def test_answers_can_be_decoded_after_pieces_were_forgotten() -> None:
    tokenizer = PieceTokenizer()
    token_id, word = tokenizer.vocabulary.words[5]
    tokenizer.encode(" ".join(f"w{number:x}" for number in range(40_000)))
    assert tokenizer.decode([token_id]) == word


def test_an_answer_sent_back_is_the_ids_that_were_generated() -> None:
    vocabulary = TOKENIZER.vocabulary
    generated = [vocabulary.openers[3], *vocabulary.words[10:30]]
    prompt = TOKENIZER.render(Chat([QUESTION]))
    answer = {"role": "assistant", "content": "".join(text for _, text in generated)}

    history = TOKENIZER.render(Chat([QUESTION, answer, QUESTION]))

    ids = [*prompt, *(token_id for token_id, _ in generated), vocabulary.stop_id]
    assert history[: len(ids)] == ids


def test_a_final_message_can_be_left_open() -> None:
    answer = {"role": "assistant", "content": "It"}
    ids = TOKENIZER.render(
        Chat([QUESTION, answer], add_generation_prompt=False, continue_final_message=True)
    )
    assert ids == TOKENIZER.render(Chat([QUESTION])) + TOKENIZER.encode("It")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "stranger", "content": "hello"},
    ],
)
def test_every_shape_of_message_is_read(message: dict[str, Any]) -> None:
    with_message = TOKENIZER.render(Chat([message]))
    assert len(with_message) >= 3


def test_tools_make_the_prompt_longer() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    assert len(TOKENIZER.render(Chat([QUESTION], tools=tools))) > len(
        TOKENIZER.render(Chat([QUESTION]))
    )
