"""PocketStories: a corpus of small stories whose exact entropy is known.

A story chooses a hero, a friend, a place, a thing and a feeling early, and needs them again many
sentences later, around ordinary short-range syntax. Every token is of one kind:

    choice   a random choice is made here; its floor is -log(probability), on average the choice's entropy
    syntax   determined by the last REACH tokens; its floor is 0
    recall   determined by a mention further back than REACH tokens; its floor is 0 too, but a GAM of the
             published depth cannot use it: its receptive field is 1 + 6 (3 - 1) = 13 tokens

Generation relies on one thing only: Python's `random.Random(seed).random()` gives the same numbers
on every platform and in every version, as Python's documentation promises.
"""

import random
from collections.abc import Iterator
from functools import cache

from minigam.data.grammar import Grammar, Token

REACH = 13  # tokens: the receptive field of the published GAM, and the border between syntax and recall
KINDS = ("syntax", "choice", "recall")
BOUNDARY = "<story>"  # stands before the first story, between any two, and after the last


def _hero(name: str, they: str, them: str, their: str) -> dict[str, str]:
    return {"name": name, "they": they, "them": them, "their": their}


SLOTS = {
    "hero": [_hero(name, "she", "her", "her") for name in ("Lily", "Mia", "Rosa", "Nora", "Emma", "Ida")]
    + [_hero(name, "he", "him", "his") for name in ("Tom", "Ben", "Max", "Leo", "Sam", "Finn")],
    "friend": [{"name": n} for n in ("fox", "owl", "rabbit", "frog", "goat", "duck", "mouse", "badger")],
    "place": [
        {"name": n} for n in ("forest", "river", "hill", "meadow", "lake", "castle", "mill", "harbour")
    ],
    "number": [
        {"name": "one", "some": "a", "them": "it", "was": "was", "this": "this", "they": "it"},
        {"name": "many", "some": "some", "them": "them", "was": "were", "this": "these", "they": "they"},
    ],
    "thing": [
        {"name": n, "one": n, "many": n + "s"}
        for n in ("kite", "drum", "shell", "lantern", "button", "feather", "marble", "bell")
    ],
    "feeling": [
        {"name": n} for n in ("lonely", "worried", "bored", "shy", "grumpy", "restless", "sad", "lost")
    ],
}

RULES = {
    "story": "<opening> <thing> <mood> [ <theft> | <letter> | <storm> | <fair> ] <ending>",
    "opening": """[
        2: Once upon a time , {new hero} lived [ beside | near | behind | beyond ] the {new place}
           with a <kind> {new friend} .
        | Long ago , a child called {new hero} and a <kind> {new friend}
          shared a [ tidy | crooked | cosy | sunny | lopsided | mossy ] little house by the {new place} .
        | There was once a <kind> {new friend} who lived by the {new place} ,
          and whose best friend was {new hero} .
    ]""",
    "kind": """[ 3: small | 2: clever | gentle | sleepy | 2: brave | funny | polite | wise | plump | shaggy
        | cheerful | stubborn ]""",
    "thing": """{Hero.they} had {new number.some} <colour> {new thing@number}
        and [ kept | hid | left | stored ] {number.them} in a
        [ 3: pocket | basket | box | drawer | hat | teapot | chest | boot ] .""",
    "colour": """[ 2: red | blue | golden | painted | shiny | 2: lucky | green | silver | purple | striped
        | dusty | spotted ]""",
    "mood": """But [ all week | since spring | that year | some days ] {hero.they} felt {new feeling} ,
        and nobody [ 2: knew | asked | guessed | understood ] why .""",
    "theft": """One [ windy | foggy | rainy | cold | bright | quiet | frosty | grey ] morning
        the {thing@number} {number.was} gone !
        “ Who took {number.them} ? ” [ 2: cried | asked | whispered | sobbed | shouted | wondered ] {hero} .
        The {friend} [ searched | explored | inspected | crossed | checked | swept ]
        the [ kitchen | garden | cellar | attic | hallway | yard | pantry | stable ]
        and found [ tiny | muddy | strange | wet | enormous | sticky ] footprints .
        They led [ around | past | behind | beyond ] the [ bridge | fence | barn | well | bakery | school ] ,
        all the way to the {place} , where a <thief> sat with the {thing@number} .
        “ I only wanted [ 2: a friend | to play | something pretty | your help ] , ”
        it [ said | sniffled | mumbled | sighed | confessed | explained ] .""",
    "thief": "[ baby dragon | young giant | hungry bear | tired ghost | nervous troll | homesick wolf ]",
    "letter": """Then a [ letter | parcel | pigeon | message ] came from the
        [ 2: queen | king | mayor | wizard | doctor | captain | teacher | painter ] :
        “ Bring your {thing@number} to the {place}
        before [ dark | noon | sunset | midnight | supper | winter ] ! ”
        {Hero.they} packed [ bread | cheese | apples | soup | candles | blankets | maps | honey ]
        and called the {friend} .
        The road was [ long | steep | dark | icy | winding | bumpy ]
        and full of [ mud | snow | thorns | puddles | holes | roots ] ,
        but {hero} [ sang | whistled | hummed | told jokes | counted crows | recited poems ]
        until they arrived .
        “ Only {number.this} {thing@number} can
        [ wake my son | light the tower | calm the sea | mend the clock | stop the rain | open the gate ] , ”
        said a [ 2: tall | thin | round | hooded | bearded | shivering ]
        [ guard | cook | clown | knight | sailor | baker ] .""",
    "storm": """Suddenly a [ 2: storm | flood | blizzard | gale ] reached the {place} .
        It shook the [ roof | chimney | gate | walls | trees | boats ] so hard that the {friend}
        [ hid | cried | trembled | howled | fainted | crouched ]
        under the [ bed | table | stairs | blanket | bench | piano ] .
        “ [ Do not be afraid | Stay with me | Hold my hand | Take a deep breath ] , ” said {hero} .
        “ We still have the {thing@number} ! ”
        So they [ fetched | found | chose | borrowed | shared | repaired ]
        a [ candle | stove | tent | barrel | lamp | raft ]
        and [ played | waited | watched | told stories | drew pictures | baked biscuits ]
        until the [ wind | thunder | clouds | rain ] went away .""",
    "fair": """Every [ summer | autumn | winter | year ]
        there was a [ fair | race | feast | dance | circus | market ]
        by the {place} .
        “ I have nothing to [ bring | show | sell | wear | juggle | share ] , ”
        [ sighed | groaned | grumbled | wept ] the {friend} .
        {Hero} thought about it for [ two | three | four | five | six | seven ] [ minutes | hours | days ] .
        “ Take my {thing@number} , ”
        {hero.they} [ said | decided | offered | laughed | suggested | whispered ] at last .
        The whole crowd [ clapped | cheered | stared | roared | gasped | giggled ] when the {friend} came
        [ dancing | singing | limping | marching | rolling | skipping ]
        down the [ street | stage | steps | slope ] with the {thing@number} .""",
    "ending": """[ That evening | Afterwards | In the end | Before bedtime ] {hero} and the {friend}
        [ shared | enjoyed | tasted | devoured ]
        [ 2: warm | sweet | fresh | delicious | homemade | wonderful ]
        [ bread | pancakes | soup | pie | noodles | pudding | dumplings | porridge ]
        by the [ 2: fire | window | door | water ] , and nobody felt {feeling} any more .""",
}


@cache
def grammar() -> Grammar:
    """Return the checked grammar of PocketStories."""
    return Grammar(RULES, SLOTS)


def vocabulary() -> list[str]:
    """Return every token of the corpus, the boundary first.

    >>> words = mg.pocketstories.vocabulary()
    >>> len(words), len(set(words)) == len(words)
    (472, True)
    """
    return [BOUNDARY, *grammar().vocabulary()]


def stories(n: int, seed: int) -> Iterator[list[Token]]:
    """Yield n stories, each a list of Token; the same seed gives the same stories everywhere.

    >>> (story,) = mg.pocketstories.stories(1, seed=0)
    >>> len(story), story[1].text
    (119, 'was')
    """
    uniform = random.Random(seed).random

    def choose(probabilities: list[float]) -> int:
        u = uniform()
        for i, p in enumerate(probabilities):
            u -= p
            if u < 0.0:
                return i
        return len(probabilities) - 1  # after rounding, the probabilities may add up to a little less than 1

    for _ in range(n):
        yield grammar().expand(choose)


def kind_of(token: Token) -> int:
    """Return the kind of a token, as an index into KINDS.

    >>> (story,) = mg.pocketstories.stories(1, seed=0)
    >>> sorted({mg.pocketstories.KINDS[mg.pocketstories.kind_of(token)] for token in story})
    ['choice', 'recall', 'syntax']
    """
    return 2 if token.lookback > REACH else 1 if token.nats > 0.0 else 0
