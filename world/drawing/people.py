"""Who lives in the small world: attributes of drawn people, their words, and the identities kept out of training.

A person is a `Person` of named attributes; `options` turns it into avataaars settings and `describe` into a caption.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

HAIR_STYLES = {
    "long hair": ("straight01", "straight02", "straightAndStrand", "longButNotTooLong"),
    "wavy hair": ("curvy", "bigHair"),
    "a bob": ("bob", "miaWallace"),
    "a bun": ("bun",),
    "curly hair": ("curly", "shortCurly"),
    "an afro": ("fro",),
    "short hair": ("shortFlat", "shortRound", "shortWaved", "theCaesar", "theCaesarAndSidePart"),
    "dreadlocks": ("dreads", "dreads01"),
    "a winter hat": ("winterHat1", "winterHat02"),
    "a hat": ("hat",),
    "no hair": (),
}
HAIR_COLOURS = {
    "black": "2c1b18",
    "brown": "724133",
    "red": "c93305",
    "blonde": "e2b85c",
    "white": "ece8e1",
    "pink": "f06aa8",
    "blue": "3d6fd9",
    "green": "3f9e4d",
    "purple": "8a4bc4",
}
SKINS = {"pale": "ffdbb4", "tan": "d98f55", "dark": "7a4a2b"}
CLOTHES = {
    "shirt": ("shirtCrewNeck", "shirtScoopNeck", "shirtVNeck"),
    "hoodie": ("hoodie",),
    "overall": ("overall",),
    "jacket": ("blazerAndShirt", "blazerAndSweater"),
}
CLOTHES_COLOURS = {
    "red": "e03b3b",
    "orange": "f08a2c",
    "yellow": "f5d742",
    "green": "3fa34d",
    "blue": "3d7be0",
    "purple": "8a4bc4",
    "pink": "f48fb1",
    "white": "f2f2f2",
    "black": "2b2b2b",
    "gray": "8f969c",
}
GLASSES = {"glasses": ("prescription02", "round", "prescription01"), "sunglasses": ("sunglasses", "wayfarers")}
BEARDS = {"a beard": ("beardMajestic", "beardMedium"), "a moustache": ("moustacheFancy", "moustacheMagnum")}
MOODS = {
    "smiling": ("smile", "twinkle"),
    "sad": ("sad", "concerned"),
    "serious": ("serious", "default"),
    "surprised": ("screamOpen",),
}
HATS = ("a winter hat", "a hat")


@dataclass(frozen=True)
class Person:
    """One drawn person. `top` is an avataaars hair name or "" for none; colours are words of the tables above."""

    hair: str
    top: str
    hair_colour: str
    skin: str
    glasses: str = ""
    glasses_style: str = ""
    beard: str = ""
    beard_style: str = ""
    garment: str = "shirt"
    garment_style: str = "shirtCrewNeck"
    garment_colour: str = "blue"
    mood: str = "smiling"
    mouth: str = "smile"
    eyes: str = "default"
    brows: str = "default"

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes somebody the same person: everything but clothes and expression."""
        return (self.top, self.hair_colour, self.skin, self.glasses_style, self.beard_style)

    def options(self) -> dict:
        """Settings of the avataaars drawing."""
        colour = [HAIR_COLOURS[self.hair_colour]]
        return {
            "top": [self.top or "bun"],
            "topProbability": 100 if self.top else 0,
            "hairColor": colour,
            "hatColor": colour,
            "facialHairColor": colour,
            "skinColor": [SKINS[self.skin]],
            "accessories": [self.glasses_style or "round"],
            "accessoriesColor": ["262e33"],
            "accessoriesProbability": 100 if self.glasses else 0,
            "facialHair": [self.beard_style or "beardMedium"],
            "facialHairProbability": 100 if self.beard else 0,
            "clothing": [self.garment_style],
            "clothesColor": [CLOTHES_COLOURS[self.garment_colour]],
            "mouth": [self.mouth],
            "eyes": [self.eyes],
            "eyebrows": [self.brows],
            "style": ["default"],
        }


def draw_person(rng: random.Random) -> Person:
    """A random person; attribute frequencies favour what must be learned well."""
    hair = rng.choices(list(HAIR_STYLES), weights=[4, 2, 2, 2, 2, 2, 4, 1.5, 1, 1, 1.5])[0]
    glasses = rng.choices(["", *GLASSES], weights=[5.5, 3, 1.5])[0]
    beard = rng.choices(["", *BEARDS], weights=[6.5, 2.5, 1])[0]
    garment = rng.choices(list(CLOTHES), weights=[5, 2.5, 1.5, 1])[0]
    mood = rng.choices(list(MOODS), weights=[5, 2, 2, 1])[0]
    return Person(
        hair=hair,
        top=rng.choice(HAIR_STYLES[hair] or ("",)),
        hair_colour=rng.choice(list(HAIR_COLOURS)),
        skin=rng.choice(list(SKINS)),
        glasses=glasses,
        glasses_style=rng.choice(GLASSES.get(glasses, ("",))),
        beard=beard,
        beard_style=rng.choice(BEARDS.get(beard, ("",))),
        garment=garment,
        garment_style=rng.choice(CLOTHES[garment]),
        garment_colour=rng.choice(list(CLOTHES_COLOURS)),
        mood=mood,
        mouth=rng.choice(MOODS[mood]),
        eyes=rng.choice(("default", "default", "happy", "side")),
        brows=rng.choice(("default", "defaultNatural", "raisedExcited")),
    )


MARA = Person("a bob", "miaWallace", "purple", "pale", "glasses", "round")
FINN = Person("an afro", "fro", "red", "dark", beard="a beard", beard_style="beardMajestic")
CONCEPTS = {"mara": MARA, "finn": FINN}

# Eight more, for tables with many concepts. Nobody in the crowd is one of them.
CHARACTERS = {
    **CONCEPTS,
    "omara": Person("long hair", "longButNotTooLong", "black", "tan", "glasses", "prescription02"),
    "zelda": Person("a bun", "bun", "blonde", "dark", "glasses", "prescription02"),
    "tariq": Person("dreadlocks", "dreads", "green", "tan", beard="a moustache", beard_style="moustacheFancy"),
    "wilma": Person("wavy hair", "curvy", "pink", "tan", "sunglasses", "sunglasses"),
    "boris": Person("curly hair", "curly", "white", "dark", beard="a moustache", beard_style="moustacheFancy"),
    "pavel": Person("short hair", "theCaesar", "brown", "pale", beard="a moustache", beard_style="moustacheFancy"),
    "nadia": Person("long hair", "longButNotTooLong", "blue", "pale", "sunglasses", "sunglasses"),
    "yuki": Person("a bob", "bob", "green", "dark", "glasses", "prescription01"),
}

# Each look-alike shares at least two identity attributes with a concept; none is ever trained.
LOOKALIKES = {
    "ada": replace(MARA, glasses="", glasses_style=""),
    "bea": replace(MARA, hair_colour="blonde"),
    "cleo": replace(MARA, hair="a bun", top="bun"),
    "dora": replace(MARA, skin="dark"),
    "elin": replace(MARA, hair="long hair", top="straight01", glasses="sunglasses", glasses_style="wayfarers"),
    "fred": replace(FINN, beard="", beard_style=""),
    "gus": replace(FINN, hair_colour="black"),
    "hugo": replace(FINN, hair="short hair", top="shortFlat"),
    "ivan": replace(FINN, skin="pale"),
    "jon": replace(FINN, glasses="glasses", glasses_style="round", beard="a moustache", beard_style="moustacheFancy"),
}
HELD_OUT = {**CHARACTERS, **LOOKALIKES}

# One look-alike for each of the other eight characters, one attribute away: `is_held_out` knows them by the character.
NEIGHBOURS = {
    "olga": replace(CHARACTERS["omara"], hair_colour="brown"),
    "zoe": replace(CHARACTERS["zelda"], skin="pale"),
    "theo": replace(CHARACTERS["tariq"], beard="", beard_style=""),
    "willa": replace(CHARACTERS["wilma"], glasses="glasses", glasses_style="round"),
    "bruno": replace(CHARACTERS["boris"], hair_colour="black"),
    "pete": replace(CHARACTERS["pavel"], hair="an afro", top="fro"),
    "nora": replace(CHARACTERS["nadia"], glasses="", glasses_style=""),
    "yara": replace(CHARACTERS["yuki"], skin="pale"),
}


def is_held_out(person: Person) -> bool:
    """True when four of the five identity attributes agree with a held-out identity's."""
    return any(
        sum(a == b for a, b in zip(person.identity, other.identity, strict=True)) >= 4 for other in HELD_OUT.values()
    )


def dress(person: Person, rng: random.Random) -> Person:
    """The same person in other clothes and another mood."""
    other = draw_person(rng)
    return replace(
        person,
        garment=other.garment,
        garment_style=other.garment_style,
        garment_colour=other.garment_colour,
        mood=other.mood,
        mouth=other.mouth,
        eyes=other.eyes,
        brows=other.brows,
    )


def hair_words(person: Person) -> str:
    """Hair or hat, such as "long red hair", "a red bob", "a red winter hat" or "no hair"."""
    if person.hair == "no hair":
        return person.hair
    if person.hair in HATS:
        return person.hair.replace("a ", f"a {person.hair_colour} ", 1)
    first, _, noun = person.hair.partition(" ")
    if first in ("a", "an"):
        return f"a {person.hair_colour} {noun}"
    return f"{first} {person.hair_colour} {noun}" if noun else f"{person.hair_colour} {first}"


def garment_words(person: Person) -> str:
    """Such as "an orange shirt"."""
    return f"{'an' if person.garment_colour == 'orange' else 'a'} {person.garment_colour} {person.garment}"


def join_words(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]


def describe(person: Person, rng: random.Random, keep: float = 0.8) -> str:
    """A caption such as "a person with long red hair and glasses, wearing a blue shirt".

    Every attribute is kept with chance `keep`, so that short captions are known too.
    """
    parts = []
    if rng.random() < keep:
        parts.append(hair_words(person))
    if person.glasses:  # always said, else a caption without them would mean nothing
        parts.append(person.glasses)
    if person.beard and rng.random() < keep:
        parts.append(person.beard)
    if rng.random() < keep * 0.7:
        parts.append(f"{person.skin} skin")
    text = "a person"
    if parts:
        text += f" with {join_words(parts)}"
    if rng.random() < keep:
        text += f", wearing {garment_words(person)}"
    if rng.random() < keep * 0.5:
        text += f", {person.mood}"
    return text


def describe_freely(person: Person, rng: random.Random, keep: float = 0.8, size: str = "") -> str:
    """The same, attributes before or after the noun and in any order; ``size`` is always said, as glasses are.

    Such as "a small smiling person in a blue shirt, with glasses and long red hair".
    """
    before = [size] if size else []
    parts = [hair_words(person)] if rng.random() < keep else []
    parts += [person.glasses] if person.glasses else []
    parts += [person.beard] if person.beard and rng.random() < keep else []
    clauses = []
    for words, adjective, share in (
        (f"{person.skin} skin", f"{person.skin}-skinned", 0.7),
        (person.mood, person.mood, 0.5),
    ):
        if rng.random() >= keep * share:
            continue
        if rng.random() < 0.5:
            before.append(adjective)
        elif words == person.mood:
            clauses.append(words)
        else:
            parts.append(words)
    rng.shuffle(before)
    rng.shuffle(parts)
    if parts:
        clauses.append(f"with {join_words(parts)}")
    if rng.random() < keep:
        clauses.append(f"{rng.choice(('wearing', 'in'))} {garment_words(person)}")
    rng.shuffle(clauses)
    text = " ".join(["a", *before, "person"])
    if clauses:
        text += ("," if clauses[0] == person.mood else "") + " " + ", ".join(clauses)
    return text
