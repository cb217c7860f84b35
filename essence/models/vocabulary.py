"""What the small image-text encoder was taught to say: its captions are made of these phrases
(train/data/captions.py), and of nothing else.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

# How each fact is said: after the person ("a man with ..."), before ("a ... man"), or at the end
# (", in warm light").
WITH = {
    "teeth": ["visible teeth"],
    "glasses": ["glasses", "eyeglasses"],
    "moustache": ["a moustache", "a mustache"],
    "beard": ["a beard"],
    "long hair": ["long hair"],
    "short hair": ["short hair"],
    "fringe": ["a fringe", "bangs"],
    "red lips": ["red lips", "lipstick"],
    "thick brows": ["dark eyebrows", "thick eyebrows"],
    "raised brows": ["raised eyebrows"],
    "wide eyes": ["wide open eyes"],
    "narrow eyes": ["narrow eyes"],
    "dark eyes": ["dark eyes"],
    "pale skin": ["pale skin", "light skin"],
    "dark skin": ["dark skin"],
    "mouth open": ["an open mouth", "the mouth open"],
    "mouth closed": ["a closed mouth"],
    "wrinkles": ["wrinkles"],
    "round face": ["a round face"],
    "long face": ["a long face"],
    "black hair": ["black hair", "dark hair"],
    "brown hair": ["brown hair"],
    "blond hair": ["blond hair", "blonde hair"],
    "red hair": ["red hair", "ginger hair"],
    "grey hair": ["grey hair", "gray hair", "white hair"],
    "hat": ["a hat", "a cap"],
    "headscarf": ["a headscarf", "a scarf round the head"],
    "sunglasses": ["sunglasses", "dark glasses"],
    "make-up": ["make-up", "makeup"],
}
BEFORE = {
    "smiling": ["smiling", "happy"],
    "serious": ["serious"],
    "bald": ["bald"],
    "shaved": ["clean-shaven"],
    "teenage": ["teenage"],
    "young": ["young"],
    "middle-aged": ["middle-aged"],
    "old": ["old", "elderly"],
    "white": ["white", "Caucasian"],
    "black": ["black", "African"],
    "asian": ["Asian"],
    "indian": ["Indian"],
}
BEHIND = {
    "no glasses": ["without glasses"],
    "no hat": ["without a hat", "bareheaded"],
    "dark background": ["before a dark background"],
    "bright background": ["before a bright background"],
    "blue background": ["before a blue background"],
    "busy background": ["before a busy background"],
    "light from the right": ["lit from the right"],
    "light from the left": ["lit from the left"],
    "warm light": ["in warm light"],
    "cold light": ["in cold light"],
    "hard light": ["in hard light"],
    "colourful": ["in vivid colours"],
    "colourless": ["in pale colours", "in black and white"],
    "dark picture": ["in the dark"],
    "bright picture": ["brightly lit"],
}
# Of the picture rather than the person: they open the sentence.
OPENED = {
    "drawing": ["a drawing of ", "a painting of "],
    "photograph": ["a photograph of "],
}
TABLES = (BEFORE, WITH, BEHIND, OPENED)
PERSON, NOUNS = ("person", "face"), ("woman", "man", "baby", "child")
OPENINGS = ("", "", "a photo of ", "a portrait of ", "a picture of ")
CHILDREN = ("girl", "boy")  # how a child of either sex is called
ARTICLES, JOINTS = {"a", "an", "the"}, ("with", "and", ",", ".")
# They hold a sentence together and say nothing of a face.
FILLERS = {"of", "in", "is", "has", "who", "photo", "portrait", "picture"}


def taught_phrases() -> tuple[str, ...]:
    """One phrase for each notion that a small encoder was taught, without its article."""
    said = [phrases[0].removesuffix(" of ") for table in TABLES for phrases in table.values()]
    return (*NOUNS, *CHILDREN, *(phrase.removeprefix("a ").removeprefix("an ") for phrase in said))


def every_phrase() -> list[str]:
    """All that captions are made of."""
    said = [phrase for table in TABLES for phrases in table.values() for phrase in phrases]
    return [*said, *NOUNS, *PERSON, *CHILDREN, *OPENINGS, *sorted(ARTICLES), *JOINTS]


def untaught_words(text: str) -> list[str]:
    """What a text says in words that are no phrase of the captions, in its order; neighbours
    together: ["purple hair"] of "a woman with purple hair".
    """
    said = [_words(phrase.removesuffix(" of ")) for phrase in every_phrase()]
    said += [[word] for word in FILLERS]
    known = sorted(filter(None, said), key=len, reverse=True)
    words, i, found = _words(text), 0, [[]]
    while i < len(words):
        phrase = next((each for each in known if words[i : i + len(each)] == each), None)
        if phrase is None:
            found[-1].append(words[i])
        else:
            found.append([])
        i += len(phrase or [""])
    return [" ".join(run) for run in found if run]


def notions() -> dict[str, tuple[str, ...]]:
    """One phrase for each notion, as it stands in a sentence, by what it says something of."""
    tables = {"looks": BEFORE, "face and hair": WITH, "picture and light": BEHIND}
    groups = {"who": (*NOUNS, *CHILDREN)}
    return groups | {
        name: tuple(phrases[0] for phrases in table.values()) for name, table in tables.items()
    }


def with_notion(text: str, phrase: str) -> str:
    """The sentence that says one of `notions` too: "old" makes "a man" "an old man"."""
    who = [*NOUNS, *CHILDREN, *PERSON]
    head, *tail = (part.strip() for part in text.split(","))
    noun = next((word for word in head.split() if word.lower() in who), "")
    if not noun:
        head, noun = f"a person with {head}" if head else "a person", "person"
    groups = notions()
    before, after = re.split(rf"\b{noun}\b", head, maxsplit=1)
    if phrase in groups["who"]:
        head = f"{before}{phrase}{after}"
    elif phrase in groups["looks"] and phrase not in before.split():
        head = f"{before}{phrase} {noun}{after}"
    elif phrase in groups["face and hair"] and not re.search(rf"\b{phrase}\b", after):
        head += f" {'and' if ' with ' in after else 'with'} {phrase}"
    elif phrase in groups["picture and light"] and phrase not in tail:
        tail.append(phrase)
    head = re.sub(r"^an? (?=[aeiou])", "an ", head, flags=re.IGNORECASE)
    head = re.sub(r"^an? (?=[^aeiou])", "a ", head, flags=re.IGNORECASE)
    return ", ".join(filter(None, [head, *tail]))


def similar_notions(words: str, count: int = 3) -> list[str]:
    """The taught phrases that come nearest to words that were not taught: those that share a word,
    else those that are spelled much alike.
    """
    wanted = set(_words(words))
    shared = [phrase for phrase in taught_phrases() if wanted & set(_words(phrase))]
    near = get_close_matches(words.lower(), shared, count, 0.0)
    return near or get_close_matches(words.lower(), taught_phrases(), count, 0.7)


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W_]+", text.lower()) if word not in ARTICLES]
