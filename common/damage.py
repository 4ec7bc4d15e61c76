"""Name what of a stored JSON does not fit its schema, in Python's words.

pydantic reads what a user may have edited: reports of bench, records of pictures.
"""

# pydantic's names of the branches of `int | str`, as part of a place
_KINDS = frozenset({"int", "str"})
# pydantic's names of what JSON may not be, in Python's words; others come with their own sentence
_EXPECTED = {f"{kind}_type": kind for kind in ("bool", "dict", "float", "int", "list")} | {
    "string_type": "str",
    "dataclass_type": "dict",
}


def damage(error: ValueError, root: str) -> str:
    """Name the first place that does not fit. root: what the whole is called, as 'report'."""
    from pydantic import ValidationError

    assert isinstance(error, ValidationError)
    first = error.errors(include_url=False)[0]
    places = [at for at in first["loc"] if at not in _KINDS]
    steps = [f"[{at}]" if isinstance(at, int) else f".{at}" for at in places]
    where = root + "".join(steps)
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "unexpected_keyword_argument":
        return f"{root}{''.join(steps[:-1])} has an unknown {first['loc'][-1]!r}"
    if expected := _EXPECTED.get(first["type"]):
        return f"{where} is {type(first['input']).__name__}, expected {expected}"
    return f"{where}: {first['msg']}"
