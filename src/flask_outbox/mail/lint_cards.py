"""The linter's rule on the numbers of payment cards, and on telling them from other numbers.

One in ten numbers that begin like a card's and have its length passes the check of its last
digit. So what is around it decides: an order's or a parcel's number is left alone.
"""

import re
from collections.abc import Iterator

from flask_outbox.mail.lint_letter import Letter, without_links

# Whose cards begin with what, and how many digits they have (ISO/IEC 7812; as the issuers say).
_CARDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}"  # Discover
    r"|3(?:0[0-5]|[68]\d)\d{11}"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    r"|62\d{14}",  # UnionPay
)
_GAP = r"[ \xa0.-]"
# No part of a longer number, of an IBAN, of a path or of a telephone's number.
_DIGITS = re.compile(
    rf"(?<![\w+#/.-])(?<!\d{_GAP})\d(?:{_GAP}?\d){{12,18}}(?!{_GAP}?\d)(?![\w/]|[.,]\d)", re.ASCII
)
_GROUPED = re.compile(rf"\d{{4}}(?:{_GAP}\d{{4}}){{3}}|\d{{4}}{_GAP}\d{{6}}{_GAP}\d{{4,5}}")
_GAPS = re.compile(_GAP)
_AROUND = 40  # letters
_OTHER_NUMBER = re.compile(
    r"order|invoice|track|parcel|shipment|reference|\bref\b|ticket|customer|account|serial|imei"
    r"|iban|bestell|auftrag|rechnung|sendung|kunden|commande|facture|pedido|factura",
    re.IGNORECASE,
)
_CARD = re.compile(
    r"\bcard|\bvisa\b|\bmaster ?card|\bamex\b|american express|\bcredit|\bdebit|kredit|karte"
    r"|\bcarte\b|tarjeta|\bcvv|\bcvc",
    re.IGNORECASE,
)


def card_number(letter: Letter) -> Iterator[str]:
    """Say where a card's number stands."""
    for name, text in letter.texts():
        for found in _DIGITS.finditer(without_links(text)):
            digits = _GAPS.sub("", found[0])
            if _CARDS.fullmatch(digits) and _luhn(digits) and _is_meant(found):
                yield (
                    f"{name} has what looks like a card's number (…{digits[-4:]}); show no more of"
                    " it than the last four digits."
                )
                break


def _luhn(digits: str) -> bool:
    """Check its last digit (ISO/IEC 7812-1, annex B)."""
    doubled = (sum(divmod(2 * int(each), 10)) for each in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _is_meant(found: re.Match[str]) -> bool:
    """Judge by the words around it, and by its being written as on a card."""
    is_grouped = bool(_GROUPED.fullmatch(found[0]))
    if "." in found[0] and not is_grouped:  # an amount: 4.222.222.222.222
        return False
    text, start, end = found.string, found.start(), found.end()
    before = text[max(0, start - _AROUND) : start].rpartition("\n")[2]
    if _CARD.search(before):
        return True
    if _OTHER_NUMBER.search(before):
        return False
    near = text[max(0, start - 2 * _AROUND) : end + 2 * _AROUND]
    return is_grouped or bool(_CARD.search(near))
