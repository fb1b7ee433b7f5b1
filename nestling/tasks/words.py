"""Words used by tasks, and generated prose for their minimal forms."""

from random import Random

from nestling.data import Corpus


def _list(text: str) -> list[str]:
    return text.split()


ADJECTIVES = _list("""
able amber ancient basic bitter blue bold brave brief bright broad calm careful cheerful civil
clean clever cold cool crisp curious damp daring dark deep dense dim distant dry dusty eager early
easy elegant empty faint fair famous fancy fast fierce fine firm flat fond frank free fresh gentle
giant glad golden grand grave great green grey happy hard harsh heavy hollow honest huge humble
idle icy jolly keen kind large late lazy light little lively lonely long loud lovely lucky mellow
merry mild modest narrow neat noble novel odd old pale patient plain polite proud pure quick quiet
rapid rare ready red rich ripe rough round royal rusty sharp short shy silent silver simple slim
slow small smart smooth soft solid sour spare steady steep stiff still stout strange strict strong
subtle sudden sunny sweet swift tall tame tender thick thin tidy tiny tough true upper vague vast
warm wary weak wet white wide wild wise young
""")
NOUNS = _list("""
acorn anchor apple arrow atlas badge banner barrel basket beacon bell bench berry bishop blanket
boat bottle bridge broom bucket button cabin cable camel candle canyon carpet castle cedar chain
chair chapel cherry circle clock cloud coat coin comet copper cottage cradle crane crown curtain
dagger desk diamond doctor dragon drawer drum eagle easel engine falcon farmer feather fiddle flag
flute forest fountain garden gate glove goose granite hammer harbor hat hedge helmet herring hill
horn horse island ivory jacket jar jewel jungle kettle key kite ladder lake lamp lantern leaf
lemon letter lion lizard magnet mantle maple market mask meadow mill mirror monk moon mountain
needle nest oak ocean olive orchard otter oven owl paddle palace paper parrot peach pearl pencil
pepper piano pillow pilot planet plate plum pocket pond porch prism puzzle quarry quilt rabbit
raven ribbon river robin rocket roof rope rose saddle sailor scarf school shell shepherd ship
shovel spoon squirrel stable statue stone stove table tailor temple thistle throne ticket tiger
tower train trumpet tulip turtle valley velvet village violin wagon walnut whale wheel whistle
willow window wolf zebra
""")
_VERBS = ("passed", "found", "left", "saw", "kept", "lost", "met", "sold", "watched", "carried")


def made_prose(seed: int = 0, documents: int = 12) -> Corpus:
    """Generate a corpus of plain sentences, for tests and other code that must read no file."""
    rng = Random(f"prose:{seed}")

    def sentence() -> str:
        one, two = (f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" for _ in range(2))
        return f"The {one} {rng.choice(_VERBS)} the {two}."

    texts = [" ".join(sentence() for _ in range(40)) for _ in range(documents)]
    return Corpus(
        name="made",
        documents=texts[documents // 3 :],
        held_out=texts[: documents // 3],
        sha256="0" * 64,
        licence="Apache-2.0",
    )
