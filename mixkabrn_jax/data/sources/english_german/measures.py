"""Numbers, times of day, dates and prices in words."""


def _words(text):
    return tuple(text.split())


_ENGLISH = _words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen""")
_ENGLISH_TENS = _words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
_GERMAN = _words("""
    null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn
    achtzehn neunzehn""")
_GERMAN_TENS = _words("null zehn zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")
_ENGLISH_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth"}
_ENGLISH_ORDINALS |= {"nine": "ninth", "twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth"}
_GERMAN_ORDINALS = {1: "erst", 3: "dritt", 7: "siebt", 8: "acht"}
MONTHS = (
    _words("January February March April May June July August September October November December"),
    _words("Januar Februar März April Mai Juni Juli August September Oktober November Dezember"),
)
WEEKDAYS = (
    _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    _words("Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag"),
)
QUARTER = 15


def english_number(number: int) -> str:
    """0 to 9999 in words: three hundred and forty-seven."""
    parts = []
    if number >= 1000:
        parts.append(f"{_ENGLISH[number // 1000]} thousand")
    if number % 1000 >= 100:
        parts.append(f"{_ENGLISH[number % 1000 // 100]} hundred")
    rest = number % 100
    if rest or not number:
        below = _ENGLISH[rest] if rest < 20 else _ENGLISH_TENS[rest // 10] + f"-{_ENGLISH[rest % 10]}" * bool(rest % 10)
        parts += ["and", below] if parts else [below]
    return " ".join(parts)


def german_number(number: int) -> str:
    """0 to 9999 in one word: dreihundertsiebenundvierzig."""
    found = ""
    if number >= 1000:
        found += f"{_part(number // 1000)}tausend"
    if number % 1000 >= 100:
        found += f"{_part(number % 1000 // 100)}hundert"
    rest = number % 100
    if rest >= 20:
        return found + f"{_part(rest % 10)}und" * bool(rest % 10) + _GERMAN_TENS[rest // 10]
    return found + _GERMAN[rest] if rest or not number else found


def _part(digit):
    """Within a word: ein, where alone it is eins."""
    return "ein" if digit == 1 else _GERMAN[digit]


def english_ordinal(number: int) -> str:
    """1 to 31: the twenty-first."""
    begin, dash, last = english_number(number).rpartition("-")
    return begin + dash + _ENGLISH_ORDINALS.get(last, f"{last}th")


def german_ordinal(number: int) -> str:
    """1 to 31 without its ending: einundzwanzigst."""
    if number in _GERMAN_ORDINALS:
        return _GERMAN_ORDINALS[number]
    return german_number(number) + ("t" if number < 20 else "st")


def english_time(hour: int, minute: int) -> str:
    """Of a clock of twelve hours, in steps of five minutes: half past six."""
    if minute == 0:
        return f"{_ENGLISH[hour]} o'clock"
    if minute <= 30:
        return f"{'half' if minute == 30 else _english_minutes(minute)} past {_ENGLISH[hour]}"
    return f"{_english_minutes(60 - minute)} to {_ENGLISH[hour % 12 + 1]}"


def _english_minutes(minutes):
    return "a quarter" if minutes == QUARTER else english_number(minutes)


def german_time(hour: int, minute: int) -> str:
    """The same time: halb sieben, which is half of the seventh hour; fünf vor halb sieben is 6:25."""
    this, following = _GERMAN[hour], _GERMAN[hour % 12 + 1]
    if minute == 0:
        return f"{_part(hour)} Uhr"
    if minute <= 20:
        return f"{_german_minutes(minute)} nach {this}"
    if minute < 40:
        return {25: "fünf vor ", 30: "", 35: "fünf nach "}[minute] + f"halb {following}"
    return f"{_german_minutes(60 - minute)} vor {following}"


def _german_minutes(minutes):
    return "Viertel" if minutes == QUARTER else _GERMAN[minutes] if minutes < 20 else _GERMAN_TENS[minutes // 10]
