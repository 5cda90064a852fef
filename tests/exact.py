"""Arithmetic of 50 digits for the slow twins of the losses (oracles.py).

No formula needs a stabilising rewrite (exp(50000) is just a number), and gradients are finite differences, exact to
some 20 digits: the slope over two steps of h is off by h^2 / 6 of the third derivative, which no case lets come near
1e13, and by 1e-50 / h of the value, below 1e5. Nothing here uses torch or anything of the repository.
"""

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext

DIGITS = Context(prec=50, Emax=MAX_EMAX, Emin=MIN_EMIN)
STEP = Decimal("1e-18")


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def squared_distance(left, right):
    return sum((a - b) ** 2 for a, b in zip(left, right, strict=True))


def unit(row):
    length = dot(row, row).sqrt()
    return [value / length for value in row]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def cross_entropy(logits, target):
    return -(logits[target].exp() / sum(logit.exp() for logit in logits)).ln()


def value_and_gradients(oracle, matrices, labels, options):
    """The oracle's value at `matrices` (lists of rows of floats; embeddings first) and its slope at every number."""
    with localcontext(DIGITS):
        exact = [[[Decimal(number) for number in row] for row in matrix] for matrix in matrices]

        def value():
            return oracle(exact[0], labels, *exact[1:], **options)

        def slope(row, column):
            middle = row[column]
            row[column] = middle + STEP
            above = value()
            row[column] = middle - STEP
            below = value()
            row[column] = middle
            return float((above - below) / (2 * STEP))

        gradients = [[[slope(row, column) for column in range(len(row))] for row in matrix] for matrix in exact]
        return float(value()), gradients
