"""The words that mini knows: everything it can be told, and everything it can say, is made of these."""

from __future__ import annotations


def split(text: str) -> list[str]:
    """Words of a list that is written as running text."""
    return text.split()


UNITS = split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
DIGITS = UNITS[:10]
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
ORDINALS = split(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth"
)
MONTHS = split("january february march april may june july august september october november december")
WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
COLOURS = ["red", "green", "blue", "yellow", "orange", "purple", "pink", "black", "white", "grey", "brown"]
SHAPES = ["circle", "square", "triangle", "star", "heart", "cross", "rectangle"]
COMMANDS = split("enter rubout erase repeat start stop help go yes no and area code apostrophe half of")
NAMES = split(
    "anna tom john mary peter sarah david laura james emma michael lisa robert julia daniel sophie paul maria "
    "alex nina george helen kevin alice martin clara oscar lucy simon eva frank rosa henry jane adam kate ben leo "
    "max sam victor diana carol bob susan linda mark eric ruth jack"
)
"""First names for 'my name is …'."""

NOUNS = split(
    "apple banana bread butter cheese chicken coffee cookie egg fish garden grape honey lemon milk onion orange "
    "pepper potato rice salt soup sugar tea tomato water wine animal bear bird cat cow dog duck elephant fox frog "
    "goat horse lion monkey mouse pig rabbit sheep snake spider tiger turtle wolf bag ball bed bell bike boat "
    "book bottle bowl box bridge brush bus button camera candle car card chair clock cloud coat computer cup desk "
    "door dress engine field fire flower fork glass guitar hammer hat house key kitchen knife lamp leaf letter "
    "machine map market mirror money moon morning mountain night ocean office paper pencil phone picture pillow "
    "plane plate pocket radio rain ring river road rocket roof room school screen ship shirt shoe shop sky snow "
    "sofa song spoon station stone street summer sun table telephone train tree valley village wall watch weather "
    "wheel wind window winter wood world yard teacher doctor driver farmer sister brother mother father friend "
    "baby child king queen hand head foot arm ear eye face finger hair heart leg mouth nose tooth"
)
OTHER_WORDS = split(
    "big small little large long short tall high low hot cold warm cool new old young good bad happy sad fast "
    "slow quick easy hard soft loud quiet clean dirty dark light heavy strong weak rich poor open closed early "
    "late near far left right north south east west up down today tomorrow yesterday week month year hour minute "
    "time name number word place home city country river music walk run jump sing dance read write play work "
    "sleep eat drink buy sell bring carry catch climb cook cut draw drive drop fall find fly give hold keep learn "
    "leave listen look love make move pull push ride send show sit speak stand swim take talk teach tell think "
    "throw touch turn wait wash wear win hello please thanks maybe always never often again away together alone "
    "inside outside"
)
WORDS = sorted(set(NOUNS + OTHER_WORDS + COLOURS + WEEKDAYS))
"""Plain words for dictation."""


def number(n: int) -> str:
    """The English words of an integer, -999 to 999: ``144`` gives ``one hundred forty four``."""
    if n < 0:
        return "minus " + number(-n)
    if n < 20:
        return UNITS[n]
    if n < 100:
        return TENS[n // 10 - 2] + (" " + UNITS[n % 10] if n % 10 else "")
    return UNITS[n // 100] + " hundred" + (" " + number(n % 100) if n % 100 else "")
