"""Seven-digit numbers to hide in a text and to ask for at its end."""

NAMES = ("harbour", "lantern", "orchard", "meadow", "compass", "anchor", "violin", "copper")


def texts(i):
    """Number i: the sentence that is hidden, the question and its answer."""
    name, number = f"{NAMES[i % len(NAMES)]} {i}", str(1234567 + 7654321 * (i + 1))[-7:]
    return (f"\nThe special magic number for {name} is {number}.\n",
            f"\nWhat is the special magic number for {name} mentioned in the text? The special magic number for {name} is",
            f" {number}")
