"""English prose that comes with Python: the language reference as the interpreter's `help` shows it.

What: about 465,000 characters of plain English (78 topics with Python 3.11), with short examples of code.
The text differs between versions of Python: compare nothing to fixed numbers.
Licence: PSF. Attribution: the authors of the Python documentation.
URL: https://docs.python.org/3/reference/
"""


def load() -> str:
    """All topics as one string, sorted by name, an empty line between two, topics of equal text once.

    Raises `ModuleNotFoundError` where Python came without its help texts.
    """
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("this Python has no pydoc_data: install the full standard library") from error
    return "\n\n".join(dict.fromkeys(topics[name].strip("\n") for name in sorted(topics))) + "\n"
