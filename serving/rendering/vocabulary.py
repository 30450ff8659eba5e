"""The tokens that made-up answers consist of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

Token = tuple[int, str]
"""A token id and the text it adds to an answer."""

WORDS = """
able about above air all also am an and any are as at away back be been best big black blue boat
book both boy but by call came can car city cold come could cut dark day deep did do does door down
each early earth eat end even ever every eye face far farm fast feel feet few find fire first fish
five follow food for form found four free from full game gave get girl give go gold good got great
green ground grow had half hand hard has have he head hear heart heat help her here high him his
hold home horse hot hour house how hundred idea if in is it just keep kind king know land large last
late law learn leave left less let letter life light like line list little live long look lot love
low machine made main make man many map mark may me mean men might mile mind miss money month moon
more most mother mountain move much music must my name near need never new next night no north not
note notice now number of off often old on once one only open or order other our out over own page
paper part pass people perhaps person picture piece place plain plan plant play point poor power
press problem pull put question quick quite rain ran reach read ready real red rest right river road
rock room round rule run said same saw say school sea second see seem self set several shape she
ship short should show side simple since sing sit six size sleep slow small snow so some song soon
sound south space special stand star start state stay step still stop story street strong study such
sun sure table take talk teach tell ten than that the their them then there these they thing think
this those though thought three through time to together too took top toward town travel tree true
try turn two under until up upon us use usual very voice walk want war warm was watch water wave way
we week weight well went were west what wheel when where which while white who whole why will wind
wood word work world would write year yes yet you young your
"""
"""Short English words; whichever of them are single tokens of a model make up its answers."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that are one token each, so that an answer sent back as history is tokenized to the ids
    that were generated."""

    openers: tuple[Token, ...]
    """Begin the answer in a chat: a capital, no space in front."""
    words: tuple[Token, ...]
    """Everywhere else: a space in front."""
    stop_id: int
    """The token by which a model ends an answer; it adds no text."""

    @classmethod
    def of(cls, encode: Callable[[str], list[int]], *, stop_id: int) -> Vocabulary:
        """The words that `encode` makes one token of, and that stay so side by side.

        Raises:
            ValueError: there are none.
        """
        words = tuple(_single_tokens(encode, (f" {word}" for word in WORDS.split())))
        openers = tuple(_single_tokens(encode, (word.capitalize() for word in WORDS.split())))
        if not words:
            raise ValueError("the tokenizer knows none of the words that answers are made of")
        return cls(openers or words, words, stop_id)


def _single_tokens(encode: Callable[[str], list[int]], texts: Iterable[str]) -> Iterable[Token]:
    suffix = encode(" the")
    for text in texts:
        ids = encode(text)
        if len(ids) == 1 and encode(f"{text} the") == ids + suffix:
            yield ids[0], text
