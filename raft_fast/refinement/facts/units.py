"""Units of measurement, by every name that a text gives them, and what they are in a base unit."""

from decimal import Decimal

# canonical name -> names in English, Swedish, German, Spanish and French ("|" is a space).
# Left out are names that are ordinary words after a number in another language: French "an" (year).
UNITS = {
    "%": "% percent procent prozent pourcent por|ciento pour|cent", "°c": "°c",
    "°": "° degrees grader grad grados degrés minusgrader minusgrade",
    "sek": "sek kr kronor", "msek": "msek mkr mnkr", "eur": "eur € euro euros",
    "usd": "usd $ dollars", "tsek": "tsek tkr",
    "m2": "m2 m² sqm kvm square|metres square|meters square|metre kvadratmeter quadratmeter "
          "metros|cuadrados mètres|carrés",
    "m3": "m3 m³ cubic|metres cubic|meters kubikmeter metros|cúbicos mètres|cubes",
    "mm": "mm millimetres millimeters millimeter milímetros millimètres",
    "cm": "cm centimetres centimeters centimeter zentimeter centímetros centimètres",
    "km": "km kilometres kilometers kilometer kilómetros kilomètres",
    "m": "m metre metres meter meters metern metro metros mètre mètres",
    "ha": "ha hectare hectares hektar hectárea hectáreas", "l": "l litre litres liter liters litro litros",
    "g": "g gram grams gramm gramos grammes", "kg": "kg kilo kilos kilogram kilogramm kilogramos",
    "tonne": "tonne tonnes ton tonnen toneladas",
    "kn": "kn", "kpa": "kpa", "mpa": "mpa",
    "kwh": "kwh", "kw": "kw", "w": "w", "v": "v", "ma": "ma", "a": "ampere amp amps",
    "db": "db", "dba": "dba db(a)", "bq": "bq", "k": "k",
    "second": "second seconds sekunder sekunden segundos secondes",
    "minute": "minute minutes minuter minuten minuto minutos",
    "hour": "hour hours h timme timmar stunde stunden hora horas heure heures",
    "day": "day days dag dagar dagars tag tage tagen día días jour jours",
    "week": "week weeks vecka veckor veckors woche wochen semana semanas semaine semaines",
    "month": "month months månad månader månaders monat monate monaten mes meses mois",
    "year": "year years år års jahr jahre jahren año años ans année années",
}
UNIT_NAMES = {word.replace("|", " "): unit
              for unit, words in UNITS.items() for word in words.split()}
# unit -> (base unit, how many of it)
BASE = {
    "mm": ("m", Decimal("0.001")), "cm": ("m", Decimal("0.01")), "km": ("m", Decimal(1000)),
    "ha": ("m2", Decimal(10000)), "g": ("kg", Decimal("0.001")), "tonne": ("kg", Decimal(1000)),
    "msek": ("sek", Decimal(1_000_000)), "tsek": ("sek", Decimal(1000)), "%": ("", Decimal("0.01")),
    "°c": ("°", Decimal(1)), "dba": ("db", Decimal(1)),
    "week": ("day", Decimal(7)), "year": ("month", Decimal(12)), "minute": ("second", Decimal(60)),
    "hour": ("second", Decimal(3600)),
}
TIMES = {word: factor for factor, words in {
    100: "hundred hundra hundert", 1000: "thousand tusen tausend mil mille k",
    10**6: "million millions miljon miljoner millionen millón millones mn mio",
    10**9: "billion billions miljard miljarder milliarde milliarden milliard milliards",
}.items() for word in words.split()}
UNSURE_TIMES = {"k", "mil"}  # kelvin, and ten Swedish kilometres; beside a currency there is no doubt
CURRENCIES = {"sek", "eur", "usd"}
