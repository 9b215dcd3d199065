"""The words: one German word for each English one, and no other English one for it. `_` stands for a space."""

from typing import NamedTuple


class Noun(NamedTuple):
    """A noun of both languages; German plurals end in -n in the dative, unless they end in -n or -s already."""

    english: str
    english_plural: str
    german: str
    gender: str
    """m, f or n. Masculine nouns of the weak declension (der Nachbar, den Nachbarn) are not among them."""
    german_plural: str
    kind: str
    """person, animal, thing, place or event."""


class Verb(NamedTuple):
    """A verb of both languages, with what its sentences are made of."""

    english: str
    third: str
    past: str
    prefix: str
    """That separates, as in "er lädt ein", or ""."""
    german: str
    """The infinitive without the prefix."""
    third_german: str
    participle: str
    cases: str
    """Of its objects in their German order: "a", "d", "da" or ""."""
    auxiliary: str
    """haben or sein: of the perfect."""
    takes: str
    """What its last object may be: "anything", or "goods", which are no persons; "" for no object."""


class Adjective(NamedTuple):
    """An adjective of both languages."""

    english: str
    german: str
    stem: str
    """What endings follow: teuer, but ein teurer Hut."""


def _nouns(kind, table):
    return [Noun(*line.split(), kind) for line in table.strip().splitlines()]


def _verbs(cases, auxiliary, takes, table):
    found = []
    for line in table.strip().splitlines():
        base, third, past, infinitive, third_german, participle = (word.replace("_", " ") for word in line.split())
        prefix, _, german = infinitive.rpartition("-")
        found.append(Verb(base, third, past, prefix, german, third_german, participle, cases, auxiliary, takes))
    return found


def _adjectives(table):
    split = [line.split() for line in table.strip().splitlines()]
    return [Adjective(english, german, stem[0] if stem else german) for english, german, *stem in split]


# fmt: off
PERSONS = _nouns("person", """
man men Mann m Männer
woman women Frau f Frauen
child children Kind n Kinder
girl girls Mädchen n Mädchen
teacher teachers Lehrer m Lehrer
doctor doctors Arzt m Ärzte
friend friends Freund m Freunde
guest guests Gast m Gäste
brother brothers Bruder m Brüder
sister sisters Schwester f Schwestern
mother mothers Mutter f Mütter
father fathers Vater m Väter
son sons Sohn m Söhne
daughter daughters Tochter f Töchter
uncle uncles Onkel m Onkel
aunt aunts Tante f Tanten
king kings König m Könige
queen queens Königin f Königinnen
baker bakers Bäcker m Bäcker
gardener gardeners Gärtner m Gärtner
""")
ANIMALS = _nouns("animal", """
dog dogs Hund m Hunde
cat cats Katze f Katzen
horse horses Pferd n Pferde
bird birds Vogel m Vögel
cow cows Kuh f Kühe
mouse mice Maus f Mäuse
""")
THINGS = _nouns("thing", """
book books Buch n Bücher
letter letters Brief m Briefe
newspaper newspapers Zeitung f Zeitungen
picture pictures Bild n Bilder
apple apples Apfel m Äpfel
egg eggs Ei n Eier
cake cakes Kuchen m Kuchen
cup cups Tasse f Tassen
bottle bottles Flasche f Flaschen
knife knives Messer n Messer
lamp lamps Lampe f Lampen
chair chairs Stuhl m Stühle
table tables Tisch m Tische
bed beds Bett n Betten
key keys Schlüssel m Schlüssel
bag bags Tasche f Taschen
hat hats Hut m Hüte
coat coats Mantel m Mäntel
shirt shirts Hemd n Hemden
flower flowers Blume f Blumen
car cars Auto n Autos
ship ships Schiff n Schiffe
ball balls Ball m Bälle
gift gifts Geschenk n Geschenke
""")
PLACES = _nouns("place", """
garden gardens Garten m Gärten
house houses Haus n Häuser
school schools Schule f Schulen
kitchen kitchens Küche f Küchen
church churches Kirche f Kirchen
forest forests Wald m Wälder
park parks Park m Parks
museum museums Museum n Museen
village villages Dorf n Dörfer
castle castles Schloss n Schlösser
""")
"""In, behind, in front of or next to which something happens."""
EVENTS = _nouns("event", """
concert concerts Konzert n Konzerte
meeting meetings Sitzung f Sitzungen
film films Film m Filme
game games Spiel n Spiele
party parties Fest n Feste
journey journeys Reise f Reisen
""")
"""What begins and ends at some time."""
LIVING = PERSONS + ANIMALS
GOODS = ANIMALS + THINGS
ANYTHING = PERSONS + GOODS

VERBS = [
    *_verbs("a", "haben", "anything", """
see sees saw sehen sieht gesehen
hear hears heard hören hört gehört
find finds found finden findet gefunden
love loves loved lieben liebt geliebt
need needs needed brauchen braucht gebraucht
look_for looks_for looked_for suchen sucht gesucht
forget forgets forgot vergessen vergisst vergessen
draw draws drew zeichnen zeichnet gezeichnet
look_at looks_at looked_at an-sehen sieht angesehen
pick_up picks_up picked_up ab-holen holt abgeholt
"""),
    *_verbs("a", "haben", "goods", """
buy buys bought kaufen kauft gekauft
sell sells sold verkaufen verkauft verkauft
carry carries carried tragen trägt getragen
hold holds held halten hält gehalten
paint paints painted malen malt gemalt
wash washes washed waschen wäscht gewaschen
steal steals stole stehlen stiehlt gestohlen
lose loses lost verlieren verliert verloren
bring_along brings_along brought_along mit-bringen bringt mitgebracht
"""),
    *_verbs("d", "haben", "anything", """
help helps helped helfen hilft geholfen
thank thanks thanked danken dankt gedankt
answer answers answered antworten antwortet geantwortet
"""),
    *_verbs("da", "haben", "goods", """
give gives gave geben gibt gegeben
show shows showed zeigen zeigt gezeigt
send sends sent schicken schickt geschickt
"""),
    *_verbs("", "haben", "", """
sleep sleeps slept schlafen schläft geschlafen
work works worked arbeiten arbeitet gearbeitet
wait waits waited warten wartet gewartet
laugh laughs laughed lachen lacht gelacht
sing sings sang singen singt gesungen
"""),
    *_verbs("", "sein", "", """
wake_up wakes_up woke_up auf-wachen wacht aufgewacht
stay stays stayed bleiben bleibt geblieben
arrive arrives arrived an-kommen kommt angekommen
"""),
]

_OF_ANYTHING = _adjectives("""
old alt
big groß
small klein
beautiful schön
strange seltsam
""")
_OF_LIVING = _adjectives("""
young jung
happy glücklich
sad traurig
tired müde müd
strong stark
clever klug
friendly freundlich
""")
_OF_PERSONS = _adjectives("""
famous berühmt
rich reich
poor arm
""")
_OF_GOODS = _adjectives("""
white weiß
black schwarz
brown braun
heavy schwer
clean sauber
dirty schmutzig
expensive teuer teur
""")
_OF_THINGS = _adjectives("""
new neu
cheap billig
red rot
green grün
blue blau
round rund
empty leer
broken kaputt
wet nass
""")
# fmt: on
ADJECTIVES = {
    "person": _OF_ANYTHING + _OF_LIVING + _OF_PERSONS,
    "animal": _OF_ANYTHING + _OF_LIVING + _OF_GOODS,
    **dict.fromkeys(("thing", "place"), _OF_ANYTHING + _OF_GOODS + _OF_THINGS),
}
"""By the kind of the noun that they go with."""
